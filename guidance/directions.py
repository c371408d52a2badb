"""Where an action puts its object, seen from its subject: verbs with a side, for the losses and layouts that use it.

Only what a verb's meaning fixes is listed: a rider is above what it rides, what is carried is borne above its carrier's
middle. For all other verbs a picture may show either side; ``sideways`` then says what a language's reading order
suggests, the subject on the left.
"""

from __future__ import annotations

from ..parsing.lexicon import verb_lemma

Direction = tuple[float, float]  # x to the right, y downwards; from the subject to the object, length 1 or 0

ABOVE: Direction = (0.0, -1.0)
BELOW: Direction = (0.0, 1.0)
RIGHT: Direction = (1.0, 0.0)
NONE: Direction = (0.0, 0.0)

_OBJECT_ABOVE = ("carry", "lift", "raise", "hoist", "juggle", "bear", "shoulder", "heave", "uphold")
_OBJECT_BELOW = (
    *("ride", "mount", "straddle", "bestride", "perch", "squat", "trample", "stomp", "crush", "squash", "climb"),
    *("drop", "pour", "spill", "surf", "skateboard", "ski"),
)
_TABLE = {**dict.fromkeys(_OBJECT_ABOVE, ABOVE), **dict.fromkeys(_OBJECT_BELOW, BELOW)}
_POSTURES = frozenset({"sit", "stand", "lie", "sleep", "jump", "land", "rest", "dance", "walk", "run", "kneel"})
_UPON = frozenset({"on", "onto", "atop", "upon"})


def direction(action: str, sideways: bool = False) -> Direction:
    """Where the object of ``action`` ("riding", "is sitting on") lies, seen from its subject; (0, 0) where the verb
    does not say. ``sideways``: to the right instead, for verbs that do not say.
    """
    words = action.lower().split()
    lemmas = [verb_lemma(word) for word in words]
    for lemma in lemmas:
        if lemma in _TABLE:
            return _TABLE[lemma]
    if _POSTURES.intersection(lemmas) and _UPON.intersection(words):
        return BELOW
    return RIGHT if sideways else NONE
