"""Which words of a prompt say how the picture is made rather than what is in it: style tags, media, artists."""

from __future__ import annotations

import re

from . import words as w

_CREDIT = re.compile(
    r"(?:art(?:work)?|illustration|painting|photo|photograph|photography|drawing|concept art|style|inspired|directed"
    r"|painted|drawn|shot|illustrated|designed) (?:by|on|with|in the style of) [\w ]+$"
)
_OPENING = re.compile(
    r"(?:in the style of|in style of|style of|trending on|featured on|shot on|shot with|taken with|taken on|inspired by"
    r"|rendered in|made in|made with|rule of thirds|depth of field|award winning|unreal engine|octane render)\b"
    r"|(?:oil|acrylic|ink|watercolou?r|pencil|charcoal|pastel) on (?:canvas|paper|panel|wood)$"
)
_TECHNICAL = re.compile(r"\d+(k|mm|p|fps)|f/?\d(\.\d)?|iso\d*|score_\w+")
_LIGHTS = frozenset(["light", "lights", "glow", "shadows", "film", "engine", "view", "contest", "focus"])
_PAIRED = frozenset(
    [
        "colors",
        "colours",
        "details",
        "detail",
        "texture",
        "textures",
        "lens",
        "portrait",
        "shot",
        "art",
        "tones",
        "hues",
        "effect",
        "effects",
        "angle",
        "palette",
        "pattern",
        "contrast",
        "winner",
        "beauty",
        "grain",
    ]
)
_SOFT = frozenset(
    [
        "soft",
        "warm",
        "natural",
        "morning",
        "evening",
        "golden",
        "dramatic",
        "ambient",
        "volumetric",
        "cinematic",
        "studio",
        "dim",
        "harsh",
        "bright",
        "diffused",
        "backlit",
        "beautiful",
        "moody",
        "rim",
        "low",
        "cold",
        "sharp",
        "selective",
        "shallow",
        "dappled",
        "deep",
        "long",
        "unreal",
        "ethereal",
        "sunset",
        "hard",
    ]
)
_PARTICLES_OF_NAMES = frozenset(["and", "van", "de", "da", "von", "der"])
_CREDITED = ("trending on", "art by", "painted by", "photographed by", "illustrated by")


def is_style(low: list[str], raw: list[str]) -> bool:
    """Whether the words of one comma segment (lower case, and as written) only say how the picture is made."""
    while low and low[0] in ("and", "with", "in", "a", "an", "the"):
        if low[0] != "and" and not _is_phrase(low[1:], raw[1:]):
            return False
        low, raw = low[1:], raw[1:]
    return _is_phrase(low, raw)


def _is_phrase(low: list[str], raw: list[str]) -> bool:
    if not low:
        return False
    text = " ".join(low)
    if low[0] == "by" and len(low) > 1 and (_is_name(raw[1:]) or len(low) <= 3):
        return "the" not in low and "a" not in low
    if text in w.STYLE_PHRASES or _OPENING.match(text) or (_CREDIT.match(text) and low[-2] != "of"):
        return True
    if all(word in w.STYLE_WORDS or _TECHNICAL.fullmatch(word) for word in low):
        return any(word not in w.STYLE_NEED_COMPANY for word in low)
    scene = any(word in w.PREPOSITIONS or word in w.DETERMINERS or word in w.POSSESSIVES for word in low)
    return low[-1] in w.STYLE_HEADS and len(low) <= 4 and not scene and _ends_in_style(low)


def _ends_in_style(low: list[str]) -> bool:
    """Style by its last word: 'soft morning light', but not 'street light' or 'red lights'."""
    if low[-1] in _LIGHTS:
        return any(word in _SOFT for word in low[:-1]) or low[-2:-1] in (["sun"], ["day"], ["afternoon"])
    return len(low) > 1 or low[-1] not in _PAIRED


def _is_name(raw: list[str]) -> bool:
    return all(word[0].isupper() or word in _PARTICLES_OF_NAMES for word in raw)


def tail_start(low: list[str], raw: list[str]) -> int | None:
    """Where '… in the style of X' or '… by Claude Monet' begins at the end of a segment, or None."""
    for i in range(1, len(low)):
        if low[i : i + 4] == ["in", "the", "style", "of"] or low[i : i + 3] == ["in", "style", "of"]:
            return i
        if low[i] == "in" and i + 2 < len(low) and low[-1] == "style":
            return i
        named = len(low) > i + 2 and _is_name(raw[i + 1 :])
        pair = " ".join(low[i : i + 2])
        if pair in _CREDITED and (not low[i].endswith("ed") or (len(low) > i + 3 and _is_name(raw[i + 2 :]))):
            return i
        medium = any(word in w.MEDIA for word in low[:i])
        if low[i] == "by" and named and medium and not low[i - 1].endswith(("ed", "en")):
            return i
    return None


def medium_end(low: list[str]) -> int:
    """How many words 'a wide cinematic shot of' takes at the front of a segment; 0 when it does not begin so."""
    for i, word in enumerate(low[:14]):
        if word in ("of", "depicting", "showing", "featuring") and i > 0:
            return i + 1 if i + 1 < len(low) and _is_medium(low[:i]) else 0
        crossing = word in w.PREPOSITIONS and word not in ("in", "with", "on", "by", "up", "from")
        if crossing or (word in w.BE and i != 1):
            return 0
    return 0


def _is_medium(words: list[str]) -> bool:
    """Whether words such as 'this is a black and white photo' name a picture, and not a scene that ends in one."""
    if words[1:2] == ["is"] and words[0] in ("this", "it", "here", "there"):
        words = words[2:]
    if words[-2:] == ["close", "up"]:
        words = [*words[:-2], "close-up"]
    if not words or words[-1] not in w.MEDIA:
        return False
    scene = {"a", "an", "the", "his", "her", "their", "holding", "in", "with", "on", "by", "from"}
    acts = any(x.endswith("ing") and x not in w.STYLE_WORDS and x not in w.PRAISE for x in words[:-1])
    return not acts and not scene.intersection(words[1:])
