"""What is looked for, what is made of finds, masks by hand, text formats, and PixelWorld's exact detector."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.grounding import detectors_pixelworld
from interplay.guidance.grounding.detectors import Found, Wanted, collect, distinct, ground, overlap, wanted_things
from interplay.guidance.grounding.objects import ObjectsBatch, PictureObject, PictureObjects, joined, mask_box
from interplay.guidance.grounding.objects_masks import BATCHES, objects_from_masks, read_lines
from interplay.guidance.grounding.objects_preview import COLOURS, draw_objects
from interplay.guidance.grounding.objects_text import read_tags, read_verdicts
from interplay.guidance.grounding.verdicts import judge_offline
from interplay.guidance.pixelworld import sprites
from interplay.guidance.pixelworld.render import render
from interplay.guidance.pixelworld.world import Scene, Thing, sample_scene
from interplay.parsing import parse
from PIL import Image

PROMPT = "a red robot carrying a blue box in the forest"


# --- what to look for -------------------------------------------------------------------------------------------------


def test_the_things_of_a_prompt_are_wanted_by_name_and_its_places_are_not() -> None:
    things = wanted_things(parse(PROMPT), ["robot", "boxes", "table"], {"table": (0.5, "")})
    assert [(t.label, t.phrase, t.words, t.named, t.verdict) for t in things] == [
        ("robot", "red robot", "robot", True, 2.0),
        ("box", "blue box", "box", True, 2.0),
        ("table", "", "table", False, 0.5),
    ]


def test_things_of_one_name_are_asked_for_by_their_phrases() -> None:
    things = wanted_things(parse("a red cat and a blue cat"))
    assert [t.words for t in things] == ["red cat", "blue cat"]
    assert len({t.phrase for t in things}) == 2


def test_a_tag_that_is_a_thing_under_another_name_is_not_looked_for_twice() -> None:
    verdicts = {"puppy": (2.0, "black dog"), "lamp": (0.0, "")}
    things = wanted_things(parse("a black dog on a sofa"), ["puppy", "lamp"], verdicts)
    assert [t.label for t in things if not t.named] == ["lamp"]


# --- what is made of finds --------------------------------------------------------------------------------------------


def test_overlap_equals_counting_cells() -> None:
    rng = random.Random(1)
    for _ in range(50):
        boxes = []
        for _ in range(2):
            x, y = rng.randrange(8), rng.randrange(8)
            boxes.append((x, y, x + rng.randrange(1, 8), y + rng.randrange(1, 8)))
        cells = [{(i, j) for i in range(a, c) for j in range(b, d)} for a, b, c, d in boxes]
        expected = len(cells[0] & cells[1]) / len(cells[0] | cells[1])
        scaled = [tuple(v / 16 for v in box) for box in boxes]
        assert overlap(*scaled) == pytest.approx(expected)


def test_finds_that_show_the_same_again_are_left_out() -> None:
    box, near, off = (0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 0.52), (0.2, 0.2, 0.6, 0.6)
    assert overlap(off, near) < 0.5 < 0.9 < overlap(box, near)
    found = [Found(0, box, 0.5), Found(0, near, 0.9), Found(0, off, 0.4), Found(1, box, 0.8), Found(1, off, 0.3)]
    # box is near again, of one thing or of another; off is another place, and shows one thing only
    assert [(f.wanted, f.score) for f in distinct(found)] == [(0, 0.9), (0, 0.4)]
    half = (0.1, 0.1, 0.5, 0.35)
    apart = [Found(0, box, 0.9), Found(0, half, 0.8), Found(1, half, 0.7)]
    assert [(f.wanted, f.box) for f in distinct(apart)] == [(0, box), (1, half)]


def picture(height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))


def test_labels_never_merge_and_masks_keep_their_objects() -> None:
    things = [Wanted("cat", "red cat"), Wanted("dog"), Wanted("lamp", named=False)]
    found = [
        Found(1, (0.5, 0.0, 1.0, 0.5), 0.6),
        Found(0, (0.0, 0.0, 0.3, 0.5), 0.9),
        Found(0, (0.0, 0.6, 0.3, 1.0), 0.7),
    ]
    result = collect(picture(), things, found)
    assert [(o.label, o.phrase, o.score) for o in result.objects] == [("cat", "red cat", 0.9), ("dog", "", 0.6)]
    assert result.missing == ()
    cat = torch.zeros(20, 30)
    cat[0:10, 0:9] = cat[12:20, 0:9] = 1
    assert torch.equal(result.mask(0), cat)
    assert result.objects[0].box == pytest.approx((0, 0, 0.3, 1.0))
    apart = collect(picture(), things, found, instances="separate")
    assert [o.label for o in apart.objects] == ["cat", "cat", "dog"]
    assert torch.equal(apart.mask(0) + apart.mask(1), cat)


def test_what_nobody_found_is_missing_only_where_the_prompt_names_it() -> None:
    things = [Wanted("cat", "red cat"), Wanted("dog"), Wanted("lamp", named=False)]
    result = collect(picture(), things, [])
    assert result.objects == () and result.masks is None and result.missing == ("red cat", "dog")
    batch = ObjectsBatch((result, collect(picture(), things, [Found(0, (0, 0, 1, 1), 1.0)])), 20, 30)
    assert batch.missing() == ["red cat", "dog"]
    assert batch.stacked().shape == (1, 20, 30)
    assert ObjectsBatch((result,), 20, 30).stacked().sum() == 0


def test_a_segmenter_is_asked_only_for_masks_that_are_not_there_and_an_empty_one_becomes_its_box() -> None:
    own = torch.zeros(20, 30)
    own[3, 4] = 1
    asked = []

    def segmenter(image: torch.Tensor, boxes) -> torch.Tensor:
        asked.extend(boxes)
        masks = torch.zeros(len(boxes), 20, 30)
        masks[0, 0, 0] = 1
        return masks

    boxes = [(0.0, 0.0, 0.2, 0.2), (0.5, 0.5, 1.0, 1.0), (0.0, 0.5, 0.3, 1.0)]
    found = [Found(0, boxes[0], 0.9, own), Found(1, boxes[1], 0.8), Found(2, boxes[2], 0.7)]
    result = collect(picture(), [Wanted("a"), Wanted("b"), Wanted("c")], found, segmenter)
    assert asked == boxes[1:]
    assert torch.equal(result.mask(0), own)
    assert result.mask(1).sum() == 1
    assert result.mask(2).sum() == 10 * 9


def test_masks_have_to_fit() -> None:
    with pytest.raises(InterplayError, match="1 objects have 2 masks"):
        PictureObjects((PictureObject("cat"),), torch.zeros(2, 4, 4))
    with pytest.raises(InterplayError, match="do not fit pictures"):
        ObjectsBatch((PictureObjects((PictureObject("cat"),), torch.zeros(1, 4, 4)),), 4, 5)


def test_the_json_says_everything_but_the_masks() -> None:
    mask = torch.zeros(1, 4, 8)
    mask[0, 1:3, 2:6] = 1
    found = PictureObjects((PictureObject("cat", "red cat", 0.75, mask_box(mask[0]), 2.0),), mask, ("dog",))
    said = json.loads(ObjectsBatch((found, PictureObjects()), 4, 8, "a red cat and a dog").to_json())
    assert said["pictures"][0]["objects"][0] == {
        "label": "cat", "phrase": "red cat", "score": 0.75, "box": [0.25, 0.25, 0.75, 0.75], "area": 0.25,
        "verdict": 2.0, "weight": None,
    }  # fmt: skip
    assert said["pictures"][0]["missing"] == ["dog"] and said["pictures"][1]["objects"] == []


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_lines_name_the_masks() -> None:
    items = read_lines("robot | red robot | 0.5\n\n box \n cat||2")
    assert [(o.label, o.phrase, o.weight) for o in items] == [
        ("robot", "red robot", 0.5),
        ("box", "", None),
        ("cat", "", 2),
    ]
    for line in ("| red", "cat | x | much", "cat | x | -1", "cat | x | nan"):
        with pytest.raises(InterplayError, match=r"label \| phrase \| weight"):
            read_lines(line)


def test_masks_by_hand_become_objects_and_the_rest_of_the_prompt_is_missing() -> None:
    masks = torch.zeros(2, 8, 8)
    masks[0, :4] = masks[1, 4:, 4:] = 1
    graph = parse("a red robot, a blue box and a green cat")
    found = objects_from_masks(masks, "robot|red robot|2\nbox", BATCHES[0], None, graph)
    (one,) = found.pictures
    assert [(o.label, o.box) for o in one.objects] == [("robot", (0, 0, 1, 0.5)), ("box", (0.5, 0.5, 1, 1))]
    assert one.missing == ("green cat",) and found.prompt == graph.prompt
    named = objects_from_masks(masks, "", BATCHES[0], None, graph).pictures[0]
    assert [o.phrase for o in named.objects] == ["red robot", "blue box"] and named.missing == ("green cat",)
    with pytest.raises(InterplayError, match="2 masks of objects but 1 labels"):
        objects_from_masks(masks, "robot", BATCHES[0])


def test_masks_of_several_pictures_and_chained_objects() -> None:
    masks = torch.zeros(2, 8, 8)
    masks[0, :4] = 1
    found = objects_from_masks(masks, "robot", BATCHES[1])
    assert [len(p.objects) for p in found.pictures] == [1, 0]
    assert [p.missing for p in found.pictures] == [(), ("robot",)]
    both = objects_from_masks(torch.ones(1, 8, 8), "box", BATCHES[0], found)
    assert [[o.label for o in p.objects] for p in both.pictures] == [["robot", "box"], ["box"]]
    assert torch.equal(both.pictures[0].masks, torch.stack([masks[0], torch.ones(8, 8)]))
    with pytest.raises(InterplayError, match="same pictures"):
        joined([found, objects_from_masks(torch.ones(1, 4, 4), "box", BATCHES[0])])


# --- text -------------------------------------------------------------------------------------------------------------


def test_tags_in_every_form() -> None:
    assert read_tags("", 2) == [(), ()]
    assert read_tags("cat, dog ; lamp", 2) == [("cat", "dog", "lamp")] * 2
    assert read_tags("cat\ndog, lamp", 2) == [("cat",), ("dog", "lamp")]
    assert read_tags("cat\ndog\nlamp", 2) == [("cat", "dog", "lamp")] * 2
    assert read_tags('["cat", "dog"]', 1) == [("cat", "dog")]
    assert read_tags('[["cat"], ["dog"]]', 2) == [("cat",), ("dog",)]
    rich = {"pictures": [{"tags": [{"name": "cat", "score": 0.9}], "caption": "x"}, {"tags": []}]}
    assert read_tags(json.dumps(rich), 2) == [("cat",), ()]
    with pytest.raises(InterplayError, match="of 2 pictures but 3"):
        read_tags('[["cat"], ["dog"]]', 3)
    with pytest.raises(InterplayError, match="not readable JSON"):
        read_tags("[cat", 1)


def test_verdicts_as_judged_and_as_typed() -> None:
    said = judge_offline(PROMPT, ["robot", "box", "sign"])
    (read,) = read_verdicts(said.to_json(), 1)
    assert read == said.by_tag()
    assert read_verdicts(json.dumps({"pictures": [json.loads(said.to_json())] * 2}), 2) == [read, read]
    typed = '[{"tag": "Cat", "verdict": "possible"}, {"label": "dog", "score": 2, "phrase": "black dog"}]'
    assert read_verdicts(typed, 2) == [{"cat": (0.5, ""), "dog": (2.0, "black dog")}] * 2
    assert read_verdicts('{"cat": 2, "dog": {"score": 0.5, "phrase": "x"}}', 1) == [
        {"cat": (2.0, ""), "dog": (0.5, "x")}
    ]
    assert read_verdicts("  ", 2) == [{}, {}]


# --- PixelWorld -------------------------------------------------------------------------------------------------------


def as_image(scene: Scene) -> torch.Tensor:
    art = torch.from_numpy(np.array(render(scene)[0], dtype=np.float32) / 255)
    return art.repeat_interleave(128 // art.shape[0], 0).repeat_interleave(128 // art.shape[1], 1)


@pytest.mark.parametrize("seed", range(12))
def test_pixelworlds_masks_are_its_sprites_to_the_pixel(seed: int) -> None:
    scene = sample_scene(random.Random(seed), "two")
    things = [Wanted(t.object) for t in scene.things]
    result = ground(as_image(scene), things, detectors_pixelworld.find)
    assert [o.label for o in result.objects] == [t.object for t in scene.things]
    for thing, (x, y), mask in zip(scene.things, scene.positions, result.masks, strict=True):
        expected = np.zeros((32, 32), bool)
        art = sprites.sprite(thing.object, thing.size)
        side = len(art)
        expected[2 * y : 2 * y + side, 2 * x : 2 * x + side] = art != "."
        assert np.array_equal(mask.numpy() > 0.5, expected.repeat(4, 0).repeat(4, 1))
    assert set(detectors_pixelworld.tags(as_image(scene))) == {t.object for t in scene.things}


def test_pixelworld_reports_what_is_missing_and_what_is_wrong() -> None:
    scene = Scene(Thing("robot", "green"), "forest", x=2, y=6)
    image = as_image(scene)
    result = ground(image, wanted_things(parse("a red robot and a blue box in the forest")), detectors_pixelworld.find)
    assert [o.phrase for o in result.objects] == ["red robot"] and result.missing == ("blue box",)
    score, wrong = detectors_pixelworld.judge("a red robot and a blue box in the forest", image)
    assert score == pytest.approx(0.5) and wrong == ("things in their colours (0%)",)
    assert detectors_pixelworld.judge("a green robot in the forest", image) == (1.0, ())


# --- preview ----------------------------------------------------------------------------------------------------------


def test_the_preview_colours_the_masks_and_nothing_else() -> None:
    mask = torch.zeros(2, 16, 16)
    mask[0, 2:8, 2:8] = mask[1, 10:14, 10:14] = 1
    found = PictureObjects((PictureObject("robot"), PictureObject("box", "blue box")), mask, ("cat",))
    page = np.asarray(draw_objects(Image.new("RGB", (16, 16), (100, 100, 100)), found)).astype(int)
    assert page.shape == (320 + 3 * 20 + 6, 320, 3)
    inner = page[5 * 20 + 10, 5 * 20 + 10]
    assert np.abs(inner - (0.55 * 100 + 0.45 * np.array(COLOURS[0]))).max() <= 1
    assert (page[12 * 20 + 10, 12 * 20 + 10] != inner).any()
    assert (page[0:30, 0:320] == 100).all()
    empty = draw_objects(Image.new("RGB", (16, 16)), PictureObjects(), lines=3)
    assert empty.size == (320, 386)
