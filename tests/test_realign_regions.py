"""Whose region shall be whose: plain values, no model."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from interplay.guidance.grounding.objects import PictureObject, PictureObjects  # noqa: E402
from interplay.guidance.grounding.regions import as_wanted, bindings, bound_objects, mendable  # noqa: E402
from interplay.parsing import parse  # noqa: E402
from interplay.parsing.tokens import Piece, TokenTable  # noqa: E402

PROMPT = "a red robot chasing a blue cat in the forest"


def picture(*objects: PictureObject, **more: Any) -> PictureObjects:
    masks = torch.zeros(len(objects), 4, 4)
    for i in range(len(objects)):
        masks[i, i] = 1
    return PictureObjects(objects, masks if objects else None, **more)


def thing(label: str, score: float = 1.0, verdict: float | None = 2.0, phrase: str = "") -> PictureObject:
    said = phrase or {"robot": "red robot", "cat": "blue cat"}.get(label, "")
    return PictureObject(label, said, score, None, verdict)


def arranged(*objects: PictureObject, prompt: str = PROMPT, **more: Any) -> list[str]:
    found = as_wanted(picture(*objects, **more), parse(prompt))
    return ["-" if o.cleared else o.phrase or o.label for o in found.objects]


def test_what_is_as_the_prompt_has_it_stays_to_the_object() -> None:
    seen = picture(thing("robot"), thing("cat"), thing("lamp", verdict=None), acts=((0, "chasing", 1),))
    assert as_wanted(seen, parse(PROMPT)) == seen


def test_parties_of_the_asked_action_change_places_where_they_have_it_the_wrong_way_round() -> None:
    pair = thing("robot"), thing("cat")
    assert arranged(*pair, acts=((1, "chasing", 0),)) == ["blue cat", "red robot"]
    for other in (((1, "riding", 0),), ((0, "chasing", 1),), (), None):
        assert arranged(*pair, acts=other) == ["red robot", "blue cat"]


def test_the_surest_find_keeps_its_words_and_the_others_regions_are_cleared() -> None:
    assert arranged(thing("robot", 0.5), thing("cat"), thing("robot", 0.9)) == ["-", "blue cat", "red robot"]
    two = "two red robots and a blue cat"
    many = [PictureObject("robots", "two red robots", s) for s in (0.9, 0.5, 0.7)]
    assert arranged(*many, thing("cat"), prompt=two) == ["two red robots", "-", "two red robots", "blue cat"]
    some = [PictureObject("robots", "red robots", s) for s in (0.9, 0.5, 0.7)]
    assert arranged(*some, prompt="red robots in the forest") == ["red robots"] * 3


def test_a_missing_thing_gets_the_region_of_one_that_nobody_asked_for() -> None:
    seen = picture(thing("robot"), thing("fish", verdict=0.0), thing("box", verdict=0.0), missing=("blue cat",))
    found = as_wanted(seen, parse(PROMPT))
    assert [(o.label, o.phrase, o.verdict, o.cleared) for o in found.objects] == [
        ("robot", "red robot", 2.0, False), ("cat", "blue cat", 2.0, False), ("box", "", None, True)
    ]  # fmt: skip
    assert found.missing == ("blue cat",) and torch.equal(found.masks, seen.masks)
    # what may be there, and what nobody has judged, is nobody's to take
    others = thing("lamp", verdict=0.5), thing("box", verdict=None)
    assert arranged(thing("robot"), *others) == ["red robot", "lamp", "box"]


def test_a_region_given_away_can_be_the_wrong_one_in_the_action() -> None:
    """A cat chases a fish: the fish's region is to be the robot's, and then the two have to change places."""
    pair = thing("cat"), thing("fish", verdict=0.0)
    assert arranged(*pair, acts=((0, "chasing", 1),)) == ["red robot", "blue cat"]
    assert arranged(*pair, acts=((1, "chasing", 0),)) == ["blue cat", "red robot"]


def test_things_of_one_name_are_told_apart_by_their_phrases() -> None:
    prompt = "a red cat and a blue cat"
    red, blue = thing("cat", phrase="red cat"), thing("cat", phrase="blue cat")
    assert arranged(blue, red, prompt=prompt) == ["blue cat", "red cat"]
    assert arranged(red, thing("cat", 0.4, phrase="red cat"), prompt=prompt) == ["red cat", "blue cat"]


def test_a_cleared_region_has_no_words_and_the_full_score() -> None:
    graph = parse(PROMPT)
    others = thing("fish", verdict=0.0), thing("sun", verdict=None)
    seen = as_wanted(picture(thing("robot"), thing("cat"), *others), graph)
    words = ("a", "red", "robot", "chasing", "a", "blue", "cat")
    spans, at = [], 0
    for word in words:
        at = PROMPT.index(word, at)
        spans.append((at, at + len(word)))
        at += len(word)
    table = TokenTable("l", 77, tuple(Piece(s, w, 0, i + 1) for i, (s, w) in enumerate(zip(spans, words, strict=True))))
    made = bindings(seen, bound_objects(seen, graph), table)
    assert [(one.positions, one.score) for one in made] == [((2, 3), 2.0), ((6, 7), 2.0), ((), 2.0)]
    assert [int(one.mask[:, 0].argmax()) for one in made] == [0, 1, 2]  # the sun stands in no prompt and is left out


def test_regions_mend_looks_and_roles_but_bring_nothing() -> None:
    graph, pair = parse(PROMPT), (thing("robot"), thing("cat"))
    assert mendable(picture(*pair, acts=((1, "chasing", 0),)), graph)
    assert mendable(picture(*pair, acts=None), graph)  # whoever looked cannot tell actions
    assert not mendable(picture(*pair, acts=()), graph)
    assert not mendable(picture(*pair, acts=((0, "riding", 1),)), graph)
    assert not mendable(picture(pair[0]), graph) and not mendable(picture(), graph)
    strange = picture(pair[0], thing("fish", verdict=0.0))
    assert mendable(strange, graph) and not mendable(strange, graph, "found")
    still = parse("a red robot and a blue cat in the forest")
    assert mendable(picture(*pair, acts=()), still)
