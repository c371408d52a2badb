"""Tags: which classes are taken, which are kept, how answers are read, and PixelWorld's detector as a tagger."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.grounding import tags_chat, tags_florence, tags_pixelworld  # noqa: E402
from interplay.guidance.grounding.tags import (  # noqa: E402
    PictureTags,
    Tag,
    TagList,
    chosen,
    from_json,
    gathered,
    is_place,
    is_thing,
    kept,
    tag_list,
    to_json,
)
from interplay.guidance.pixelworld.render import render  # noqa: E402
from interplay.guidance.pixelworld.world import Scene, Thing, sample_scene  # noqa: E402

# --- thresholds -------------------------------------------------------------------------------------------------------


def test_a_tag_has_to_pass_its_own_threshold() -> None:
    rng = np.random.default_rng(0)
    for kind in ("ram", "tag2text"):
        classes = tag_list(kind)
        limits = np.array(classes.thresholds)
        scores = np.clip(limits + rng.choice([-0.01, 0.0, 0.01], len(limits)), 0, 1)
        found = chosen(scores.tolist(), classes)
        expected = {classes.names[i] for i in np.flatnonzero(scores > limits)}
        assert {tag.name for tag in found} == expected and 0 < len(expected) < len(limits)
        assert [tag.score for tag in found] == sorted((tag.score for tag in found), reverse=True)


def test_one_threshold_for_all_and_classes_that_are_never_taken() -> None:
    classes = TagList(("cat", "dog", "two"), (0.9, 0.5, 0.5))
    scores = [0.8, 0.7, 0.95]
    assert [tag.name for tag in chosen(scores, classes)] == ["two", "dog"]
    assert [tag.name for tag in chosen(scores, classes, 0.75)] == ["two", "cat"]
    assert [tag.name for tag in chosen(scores, classes, 0.75, without=(2,))] == ["cat"]
    with pytest.raises(InterplayError, match="There are 2 scores for 3 tags"):
        chosen(scores[:2], classes)


def test_names_are_lower_case_and_come_once() -> None:
    tags = [Tag("Cat", 0.5, (0, 0, 1, 1)), Tag(" dog ", None), Tag("cat", 0.9), Tag("", 1.0), Tag("Red  box", 0.7)]
    found = gathered(tags, " a cat ")
    assert found.names() == ("cat", "red box", "dog") and found.caption == "a cat"
    assert found.tags[0] == Tag("cat", 0.9) and found.text() == "cat, red box, dog"


# --- which are kept ---------------------------------------------------------------------------------------------------

THINGS = ["cat", "dog", "table", "robot", "box", "car", "person", "man", "hat", "pizza", "tree", "rose", "crane", "saw"]
NO_THINGS = ["red", "green", "sit", "stand", "walk", "photo", "picture", "background", "group", "ride", "play", "run"]
PLACES = ["beach", "forest", "living room", "kitchen", "street"]


def test_colours_actions_and_words_for_pictures_can_be_left_out() -> None:
    assert [word for word in THINGS if not is_thing(word)] == []
    assert [word for word in NO_THINGS if is_thing(word)] == []
    assert [word for word in PLACES if not is_place(word)] == [] and not is_place("cat")
    found = PictureTags(tuple(Tag(word, 0.9) for word in ("cat", "red", "beach", "walk", "photo")), "a cat")
    assert kept(found).names() == found.names()
    assert kept(found, "things and places").names() == ("cat", "beach")
    assert kept(found, "things").names() == ("cat",) and kept(found, "things").caption == "a cat"
    assert kept(found, "all", (" CAT ", "walk")).names() == ("red", "beach", "photo")
    with pytest.raises(InterplayError, match="'some' is no choice of tags"):
        kept(found, "some")


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_says_what_was_found_and_is_read_again() -> None:
    batch = (
        PictureTags((Tag("cat", 0.9, (0.1, 0.2, 0.3, 0.4)), Tag("café", None)), "a cat"),
        PictureTags(),
    )
    text = to_json(batch, "RAM", "a cat in a café")
    assert json.loads(text) == {
        "tagger": "RAM",
        "prompt": "a cat in a café",
        "pictures": [
            {
                "tags": [
                    {"name": "cat", "score": 0.9, "box": [0.1, 0.2, 0.3, 0.4]},
                    {"name": "café", "score": None, "box": None},
                ],
                "caption": "a cat",
            },
            {"tags": [], "caption": ""},
        ],
    }
    assert from_json(text) == batch
    for wrong in ("", "[]", '{"pictures": [{}]}', '{"pictures": [{"tags": [{"score": 1}]}]}'):
        with pytest.raises(InterplayError, match="not the JSON of Tag Image"):
            from_json(wrong)


# --- answers of models ------------------------------------------------------------------------------------------------

ANSWERS = [
    ('{"tags": ["Cat", "red box."], "caption": "A cat."}', ["cat", "red box"], "A cat."),
    ('Sure!\n```json\n{"tags": ["cat", "dog",], "caption": "x"}\n```', ["cat", "dog"], "x"),
    ('<think>{"tags": ["bird"]}</think>{"tags": "cat, dog"}', ["cat", "dog"], ""),
    ('{"tags": ["cat", "dog"], "caption": "A cat and', ["cat", "dog"], "A cat and"),
    ('{"tags": ["cat", "do', ["cat"], ""),
    ("cat, dog, cat", ["cat", "dog"], ""),
    ("1. cat\n2) dog\n- red box\n* tree", ["cat", "dog", "red box", "tree"], ""),
    ('{"tags": ["a very long name of five words or more", "cat", 3, null], "caption": null}', ["cat"], ""),
    ("", [], ""),
]


@pytest.mark.parametrize("said, names, caption", ANSWERS)
def test_answers_of_chat_models_are_read_with_patience(said: str, names: list[str], caption: str) -> None:
    assert tags_chat.read(said) == (names, caption)


def test_no_more_tags_than_a_list_can_use() -> None:
    names, _ = tags_chat.read(json.dumps({"tags": [f"thing {i}" for i in range(200)]}))
    assert len(names) == tags_chat.MOST


def test_a_names_score_is_the_geometric_mean_of_its_tokens() -> None:
    said, ends = "a red box", [1, 5, 9]  # tokens "a", " red", " box"
    logs = [float(np.log(p)) for p in (0.1, 0.5, 0.8)]
    assert tags_chat.likelihood("red box", said, ends, logs) == pytest.approx((0.5 * 0.8) ** 0.5)
    assert tags_chat.likelihood("Box", said, ends, logs) == pytest.approx(0.8)
    assert tags_chat.likelihood("cat", said, ends, logs) is None


def test_florences_answers_are_read_thing_by_thing() -> None:
    tokens = [("c", 0.9), ("at", 0.7), *((f"<loc_{n}>", 0.5) for n in (0, 100, 499, 999, 1, 2, 3, 4))]
    tokens += [("no place", 1.0)]
    (cat,) = tags_florence.tags_of(tokens)
    assert (cat.name, cat.box) == ("cat", pytest.approx((0.0005, 0.1005, 0.4995, 0.9995)))
    assert cat.score == pytest.approx((0.9 + 0.7 + 8 * 0.5) / 10)
    assert tags_florence.tags_of([("cat", 1.0), ("<loc_5>", 1.0)]) == []
    assert tags_florence.tags_of([]) == []
    flat = [("cat", 1.0), *((f"<loc_{n}>", 1.0) for n in (500, 500, 500, 500))]
    assert tags_florence.tags_of(flat) == []


# --- PixelWorld -------------------------------------------------------------------------------------------------------


def picture(scene: Scene, size: int = 128) -> torch.Tensor:
    art = torch.from_numpy(np.array(render(scene)[0], dtype=np.float32) / 255)
    times = size // art.shape[0]
    return art.repeat_interleave(times, 0).repeat_interleave(times, 1)


@pytest.mark.parametrize("seed", range(8))
def test_pixelworlds_tags_are_its_things_and_place_with_their_boxes(seed: int) -> None:
    scene = sample_scene(random.Random(seed), "two")
    found = tags_pixelworld.look(picture(scene))
    assert set(found.names()) == {*(thing.object for thing in scene.things), scene.environment}
    assert all(tag.score == pytest.approx(1.0) for tag in found.tags)
    boxes = {tag.name: tag.box for tag in found.tags}
    assert boxes[scene.environment] is None
    for thing, (x, y) in zip(scene.things, scene.positions, strict=True):
        box = boxes[thing.object]
        assert box is not None and (box[0], box[1]) == pytest.approx((2 * x / 32, 2 * y / 32))
        assert thing.object in found.caption and thing.colour in found.caption
    assert found.caption.endswith(f"in the {scene.environment}")


def test_pixelworlds_caption_in_words() -> None:
    scene = Scene(Thing("robot", "green"), "forest", x=2, y=6)
    assert tags_pixelworld.look(picture(scene)).caption == "a green robot in the forest"
    with pytest.raises(InterplayError):
        tags_pixelworld.look(torch.zeros(33, 50, 3))
