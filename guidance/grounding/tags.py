"""Tags of a picture: what a tagger says is in it, the same from every tagger."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ...errors import InterplayError
from ...parsing.lexicon import entry, noun_is, noun_lemma, verb_lemma
from ...parsing.lexicon import is_place as _is_place
from ...parsing.words import PREPOSITIONS

Box = tuple[float, float, float, float]
DATA = Path(__file__).parent / "data"

KEEP = ("all", "things and places", "things")
"""Which tags to keep: all; nouns only, without colours, actions and words for pictures; of those, no places."""


@dataclass(frozen=True)
class Tag:
    """name: lower case; score: 0..1, how sure the tagger is (see its own page for what that means), None if it does not
    say; box: x0, y0, x1, y1 in 0..1 where the tagger gives one.
    """

    name: str
    score: float | None = None
    box: Box | None = None


@dataclass(frozen=True)
class PictureTags:
    """The tags of one picture, surest first, each name once, and a caption where the tagger writes one."""

    tags: tuple[Tag, ...] = ()
    caption: str = ""

    def names(self) -> tuple[str, ...]:
        """The tags' names."""
        return tuple(tag.name for tag in self.tags)

    def text(self) -> str:
        """The names, separated by commas."""
        return ", ".join(self.names())


@dataclass(frozen=True)
class TagList:
    """The classes of a tagger: names, and thresholds that a class's score has to pass."""

    names: tuple[str, ...]
    thresholds: tuple[float, ...]


@cache
def tag_list(kind: str) -> TagList:
    """The published classes of "ram" (RAM and RAM++, 4585) or "tag2text" (3429), in the order of their checkpoints."""
    lines = (DATA / f"{kind}_tags.tsv").read_text(encoding="utf-8").splitlines()
    cells = [line.split("\t") for line in lines]
    return TagList(tuple(name for name, _ in cells), tuple(float(value) for _, value in cells))


def chosen(
    scores: Sequence[float], classes: TagList, threshold: float = 0.0, without: Collection[int] = ()
) -> list[Tag]:
    """The classes whose score is above their threshold, surest first.

    scores: one in 0..1 for each class; threshold: one for all, 0 = the published one of each class; without: numbers of
    classes that are never taken.
    """
    if len(scores) != len(classes.names):
        raise InterplayError(f"There are {len(scores)} scores for {len(classes.names)} tags; choose another model.")
    limits = [threshold] * len(scores) if threshold > 0 else classes.thresholds
    found = [
        Tag(name, float(score))
        for i, (name, score, limit) in enumerate(zip(classes.names, scores, limits, strict=True))
        if score > limit and i not in without
    ]
    return sorted(found, key=lambda tag: -(tag.score or 0.0))


def gathered(tags: Sequence[Tag], caption: str = "") -> PictureTags:
    """Tags in lower case, each name once (the surest one's score and box), surest first, those without a score last."""
    best = dict[str, Tag]()
    for tag in tags:
        name = " ".join(tag.name.lower().split())
        if name and (name not in best or (tag.score or 0.0) > (best[name].score or 0.0)):
            best[name] = replace(tag, name=name)
    return PictureTags(tuple(sorted(best.values(), key=lambda tag: -(tag.score or 0.0))), caption.strip())


# --- which to keep ----------------------------------------------------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What taggers say of the picture and not of what is in it.
_PICTURE = _words(
    "picture image photo photograph photography illustration drawing painting art artwork cartoon anime sketch render "
    "rendering graphic graphics design pattern background close-up closeup portrait selfie scene view front back side "
    "top bottom middle rear group pair set variety collection row line shape color colour number word text writing "
    "screenshot collage print style texture outdoor indoor outdoors indoors circle square triangle rectangle stripe "
    "dot oval spot"
)
_VISIBLE = (
    "person", "animal", "place", "clothing", "body", "food", "vehicle", "tool", "plant", "furniture", "physical",
    "substance",
)  # fmt: skip
_ACTION_STARTS = frozenset({"play", "climb"})
_THINGS = _words(  # whose leading sense is another one
    "badge badger ball bear binocular binoculars bust cabinetry calendar certificate chestnut clogs cock coin crane "
    "crescent dart dollar drill ferry flag flake float footprint fry gift gull hook husky lace latch logo loom lotus "
    "mammoth medal monitor paddle passport pepper perch pin plow pop postcard pyramid quail rake ram rainbow rosary "
    "rose saw scroll shelf shorts sling squash stamp sunglasses swallow telescope ticket tongs trophy twine vespa "
    "watch whisk whistle wrench zip"
)


def kept(found: PictureTags, keep: str = "all", leave_out: Collection[str] = ()) -> PictureTags:
    """The picture's tags without those that ``keep`` (one of ``KEEP``) excludes and those named in ``leave_out``."""
    if keep not in KEEP:
        raise InterplayError(f"'{keep}' is no choice of tags; use one of {', '.join(KEEP)}.")
    unwanted = {" ".join(name.lower().split()) for name in leave_out}
    tags = tuple(tag for tag in found.tags if tag.name not in unwanted and (keep == "all" or is_thing(tag.name)))
    if keep == "things":
        tags = tuple(tag for tag in tags if not is_place(tag.name))
    return replace(found, tags=tags)


def is_thing(name: str) -> bool:
    """Whether a tag names something that can be seen in a place: no colour, no action, no word for the picture itself.

    By its head, the last word, whose leading sense in WordNet has to be something visible; an unknown word is kept.
    """
    words = name.lower().split()
    if not words or words[-1] in _PICTURE:
        return False
    if len(words) > 1:
        return words[-1] not in PREPOSITIONS and words[-1] not in ("up", "out") and words[0] not in _ACTION_STARTS
    word = words[0]
    if word in _THINGS:
        return True
    found = max(entry(word), entry(noun_lemma(word)), key=lambda one: one.noun)
    if found.noun < 0:
        return max(found.verb, found.adjective, found.adverb) < 0
    if noun_is(word, "color") and max(found.noun, found.adjective) > 0 and not noun_is(word, "plant", "food", "animal"):
        return False
    if max(found.verb, entry(verb_lemma(word)).verb) > 4 * found.noun or found.adjective > 2 * found.noun:
        return False
    return noun_is(word, *_VISIBLE)


def is_place(name: str) -> bool:
    """Whether a tag names a place or surrounding ("beach", "living room") and no thing in it."""
    words = name.lower().split()
    return _is_place(words[-1], words[-2] if len(words) > 1 else "")


# --- out and in -------------------------------------------------------------------------------------------------------


def to_json(pictures: Sequence[PictureTags], tagger: str = "", prompt: str = "") -> str:
    """A batch as JSON: {"tagger", "prompt", "pictures": [{"tags": [{"name", "score", "box"}], "caption"}]}."""
    entries = []
    for picture in pictures:
        tags = [
            {
                "name": tag.name,
                "score": None if tag.score is None else round(tag.score, 4),
                "box": [round(value, 4) for value in tag.box] if tag.box else None,
            }
            for tag in picture.tags
        ]
        entries.append({"tags": tags, "caption": picture.caption})
    head = {key: value for key, value in (("tagger", tagger), ("prompt", prompt)) if value}
    return json.dumps({**head, "pictures": entries}, ensure_ascii=False, indent=1)


def from_json(text: str) -> tuple[PictureTags, ...]:
    """Read what ``to_json`` wrote.

    Raises:
        InterplayError: it is no such JSON.
    """
    try:
        pictures = json.loads(text)["pictures"]
        return tuple(
            PictureTags(tuple(_tag(item) for item in picture["tags"]), str(picture.get("caption", "")))
            for picture in pictures
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InterplayError(f"This is not the JSON of Tag Image ({error}); connect its output json.") from error


def _tag(item: dict[str, object]) -> Tag:
    score, box = item.get("score"), item.get("box")
    corners = [float(value) for value in box] if isinstance(box, list) else None
    return Tag(
        str(item["name"]),
        float(score) if isinstance(score, int | float) else None,
        (corners[0], corners[1], corners[2], corners[3]) if corners else None,
    )
