"""Tag the words of a sentence: a beam search over a small hand-weighted grammar of captions.

Every word offers the tags that the lexicon knows for it (``readings``); the search follows how a caption is built
(noun phrase, verb, object, prepositional phrase; ``grammar`` and ``verb_grammar``) and charges what English does not
do: "a dogs", a noun phrase without a noun, a second finite verb in one clause, a caption without any verb. The cheapest
path wins, so one rare reading of one word cannot spoil the rest.
"""

from __future__ import annotations

from .grammar import MODIFIERS, NOUNS, VERBS, State, close, determiner, function, modifier, noun
from .preprocess import Word
from .readings import options
from .verb_grammar import verb

BEAM = 20


def tag(sentence: list[Word], shouting: bool = False, titled: bool = False) -> list[str]:
    """Tags of the words of one sentence, in order."""
    choices = [options(sentence, i, shouting or titled) for i in range(len(sentence))]
    beam: dict[State, tuple[float, tuple]] = {State(): (0.0, ())}
    for i, readings in enumerate(choices):
        following: dict[State, tuple[float, tuple]] = {}
        for state, (cost, path) in beam.items():
            for name, own in readings:
                extra, new = _step(state, name, sentence, i)
                total = cost + own + extra
                if new not in following or total < following[new][0]:
                    following[new] = (total, (path, name))
        ranked = sorted(following.items(), key=lambda item: item[1][0])
        beam = dict(ranked[:BEAM])
    best = min(beam.items(), key=lambda item: item[1][0] + _end(item[0], sentence))
    tags: list[str] = []
    path = best[1][1]
    while path:
        path, name = path
        tags.append(name)
    return tags[::-1]


def _step(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    if tag in NOUNS:
        return noun(state, tag, sentence, i)
    if tag in MODIFIERS:
        return modifier(state, tag, sentence, i)
    if tag in ("DT", "PRP$", "PRP", "EX"):
        return determiner(state, tag, sentence, i)
    if tag in VERBS or tag == "MD":
        return verb(state, tag, sentence, i)
    return function(state, tag, sentence, i)


def _end(state: State, sentence: list[Word]) -> float:
    cost = close(state)
    if state.clause == "S" and state.np != 3:
        cost += 0.6 if len(sentence) > 3 else 0.2
    if state.slot in ("T", "d"):
        cost += 0.6
    if state.prev in ("IN", "TO", "CC", "WDT", "SUB"):
        cost += 1.5
    return cost
