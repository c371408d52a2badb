"""Detectors and segmenters on the real classes of transformers with small random weights, held against the library's
own pre- and post-processing, and against plain rewrites.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import objects_models as tiny  # noqa: E402
from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.grounding import segment  # noqa: E402
from interplay.guidance.grounding.detectors import Wanted  # noqa: E402
from interplay.guidance.grounding.detectors_dino import (  # noqa: E402
    GroundingDino,
    finds,
    label_scores,
    label_tokens,
    queries,
)
from interplay.guidance.grounding.detectors_florence import (  # noqa: E402
    Florence2,
    box_text,
    boxes_of,
    polygon_mask,
    polygons_of,
)
from interplay.guidance.grounding.detectors_loading import corners, resized, to_pillow, transformers_class  # noqa: E402
from interplay.guidance.grounding.detectors_open import DETECTORS, SEGMENTERS  # noqa: E402
from interplay.guidance.grounding.detectors_sam3 import Sam3  # noqa: E402
from interplay.guidance.grounding.segment import Sam, full_masks, scaled_boxes  # noqa: E402

SIZES = [(48, 80), (80, 48), (64, 64)]
HAS_SAM3 = hasattr(transformers, "Sam3Model")
needs_sam3 = pytest.mark.skipif(not HAS_SAM3, reason=f"transformers {transformers.__version__} has no SAM 3")


def picture(size: tuple[int, int] = (48, 80), seed: int = 0) -> torch.Tensor:
    return torch.rand(*size, 3, generator=torch.Generator().manual_seed(seed))


NEED_TORCHVISION = ("sam2", "sam3")  # in transformers their image processors have no other backend


class Folders(dict):
    """Folders of small models by name, made when they are asked for."""

    def __init__(self, root):
        super().__init__()
        self.root = root

    def __missing__(self, name):
        if name in NEED_TORCHVISION:
            pytest.importorskip("torchvision", reason="transformers prepares pictures for SAM 2 and 3 with torchvision")
        self[name] = getattr(tiny, name)(self.root / name)
        return self[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("interplay"))


# --- plain rewrites ---------------------------------------------------------------------------------------------------


def test_boxes_are_converted_corner_by_corner() -> None:
    boxes = torch.rand(20, 4, generator=torch.Generator().manual_seed(1))
    expected = [[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] for cx, cy, w, h in boxes.tolist()]
    assert torch.allclose(corners(boxes), torch.tensor(expected))


def test_resizing_is_bilinear_between_pixel_centres() -> None:
    mask = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(2))
    out = resized(mask, 7, 9)[0]
    for i in range(7):
        for j in range(9):
            y, x = (i + 0.5) * 3 / 7 - 0.5, (j + 0.5) * 4 / 9 - 0.5
            y, x = min(max(y, 0.0), 2.0), min(max(x, 0.0), 3.0)
            a, b = int(y), int(x)
            c, d = min(a + 1, 2), min(b + 1, 3)
            top = mask[0, a, b] * (1 - (x - b)) + mask[0, a, d] * (x - b)
            low = mask[0, c, b] * (1 - (x - b)) + mask[0, c, d] * (x - b)
            assert float(out[i, j]) == pytest.approx(float(top * (1 - (y - a)) + low * (y - a)), abs=1e-5)


def test_florence_answers_are_read_place_by_place() -> None:
    assert boxes_of("robot<loc_100><loc_200><loc_300><loc_400><loc_0><loc_0><loc_999><loc_999><loc_5>") == [
        (0.1005, 0.2005, 0.3005, 0.4005),
        (0.0005, 0.0005, 0.9995, 0.9995),
    ]
    assert boxes_of("<loc_300><loc_200><loc_100><loc_400>") == []  # turned over
    text = "<poly><loc_0><loc_0><loc_500><loc_0><loc_500><loc_500></poly><sep><loc_1><loc_2><loc_3><loc_4>"
    assert polygons_of(text) == [[(0.0005, 0.0005), (0.5005, 0.0005), (0.5005, 0.5005)]]
    mask = polygon_mask(polygons_of(text), 40, 40)
    ys, xs = np.mgrid[0:40, 0:40]
    inside = (xs < 20) & (ys < xs)
    assert np.abs(mask.numpy() - inside).mean() < 0.04  # but for the line of the edge
    assert box_text((0.1, 0.2, 0.3, 1.0)) == "<loc_100><loc_200><loc_300><loc_999>"


# --- label spans ------------------------------------------------------------------------------------------------------


def test_every_label_has_its_own_tokens_and_no_others(folders) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["dino"])
    things = [Wanted("potted plant"), Wanted("van"), Wanted("Cat."), Wanted("red robot"), Wanted(" . "), Wanted("cat")]
    (query,) = queries(things, tokenizer, 256)
    assert query.text == "potted plant. van. cat. red robot. cat." and query.ids == (0, 1, 2, 3, 5)
    told = tokenizer(query.text, return_offsets_mapping=True)
    tokens = label_tokens(query.spans, [tuple(o) for o in told["offset_mapping"]])
    # independently: the tokens of each label encoded alone, one run after the other, with a full stop between
    expected, at = [], 1
    for text in ("potted plant", "van", "cat", "red robot", "cat"):
        alone = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert told["input_ids"][at : at + len(alone)] == alone
        expected.append(list(range(at, at + len(alone))))
        at += len(alone) + 1
    assert tokens == expected
    assert len(tokens[0]) == 3 and len(tokens[1]) == 3  # pot ##ted plant; v ##a ##n


def test_many_labels_are_asked_for_in_several_passes_within_the_limit(folders) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["dino"])
    things = [Wanted("potted plant") for _ in range(100)]
    asked = queries(things, tokenizer, 64)
    assert [n for q in asked for n in q.ids] == list(range(100))
    assert all(len(tokenizer(q.text)["input_ids"]) <= 64 for q in asked) and len(asked) > 6
    assert max(len(q.ids) for q in queries(things, tokenizer, 10_000)) == 40


def test_a_box_between_two_labels_gets_the_better_one_and_never_both() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.9, 0.0], [0.0, -3.0, 1.0, 3.0], [-5.0, -5.0, -5.0, -5.0]])
    tokens = [[1], [2, 3]]
    expected = [[1 / (1 + np.exp(-2)), (1 / (1 + np.exp(-1.9)) + 0.5) / 2]]
    assert label_scores(logits, tokens)[0].tolist() == pytest.approx(expected[0], abs=1e-6)
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 1, 1]])
    found = finds(logits, boxes, tokens, (4, 7), 0.3)
    assert [f.wanted for f in found] == [4, 7]
    assert found[0].box == pytest.approx((0.4, 0.3, 0.6, 0.7)) and found[1].box == pytest.approx((0, 0, 0.3, 0.3))


# --- against the library's own processing -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES[:2])
def test_grounding_dino_finds_what_the_library_finds_for_one_word(folders, size) -> None:
    ours = GroundingDino.open(folders["dino"], torch.float32)
    processor = transformers.GroundingDinoProcessor(ours.images, ours.tokenizer)
    inputs = processor(images=to_pillow(picture(size)), text="robot.", return_tensors="pt")
    with torch.no_grad():
        out = ours.model(**inputs)
    theirs = processor.post_process_grounded_object_detection(
        out, inputs["input_ids"], threshold=0.0, text_threshold=0.0, target_sizes=[size]
    )[0]
    found = ours.find(picture(size), [Wanted("robot")], "cpu", 0.0)
    # the library scores a box by its best token, full stop and ends included, ours by the tokens of "robot"
    column = out.logits[0].sigmoid()[:, 1]
    assert sorted(f.score for f in found) == pytest.approx(sorted(column.tolist()), abs=1e-5)
    height, width = size
    boxes = {tuple(round(v, 2) for v in (x0 / width, y0 / height, x1 / width, y1 / height))
             for x0, y0, x1, y1 in theirs["boxes"].clamp(min=0).tolist()}  # fmt: skip
    boxes = {tuple(min(1.0, v) for v in box) for box in boxes}
    assert {tuple(round(v, 2) for v in f.box) for f in found} == boxes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_sam_makes_the_masks_that_the_library_makes(folders, kind, size) -> None:
    boxes = [(0.1, 0.2, 0.5, 0.6), (0.0, 0.0, 1.0, 1.0), (0.6, 0.5, 0.9, 0.95)]
    ours = SEGMENTERS[kind](folders[kind], torch.float32)
    height, width = size
    pixels = [[[x0 * width, y0 * height, x1 * width, y1 * height] for x0, y0, x1, y1 in boxes]]
    name = "SamProcessor" if kind == "sam" else "Sam2Processor"
    processor = getattr(transformers, name)(ours.images)
    inputs = processor(images=to_pillow(picture(size)), input_boxes=pixels, return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()  # 4.x gives doubles
    with torch.no_grad():
        out = ours.model(pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"], multimask_output=False)
    sizes = [inputs["original_sizes"]] + ([inputs["reshaped_input_sizes"]] if kind == "sam" else [])
    theirs = processor.post_process_masks(out.pred_masks, *sizes)[0][:, 0].float()
    made = ours.masks(picture(size), boxes, "cpu")
    assert made.shape == (3, *size)
    assert float((made - theirs).abs().mean()) < 1e-3
    assert 0 < float(made.mean()) < 1


def test_boxes_in_parts_make_the_same_masks(folders, monkeypatch) -> None:
    ours = Sam.open(folders["sam"], torch.float32)
    boxes = [(0.1 * i, 0.1, 0.1 * i + 0.3, 0.7) for i in range(6)]
    whole = ours.masks(picture(), boxes, "cpu")
    monkeypatch.setattr(segment, "PART", 4)
    assert torch.equal(ours.masks(picture(), boxes, "cpu"), whole)
    assert ours.masks(picture(), [], "cpu").shape == (0, 48, 80)


def test_padding_is_cut_away() -> None:
    masks = torch.full((1, 8, 8), -1.0)
    masks[:, :4] = 1.0  # the upper half of the square is the picture
    assert full_masks(masks, 64, (32, 64), (10, 20)).all()
    assert scaled_boxes([(0.5, 0.25, 1.0, 1.0)], 32, 64).tolist() == [[[32.0, 8.0, 64.0, 32.0]]]


@needs_sam3
def test_sam3_finds_what_the_library_finds_phrase_by_phrase(folders) -> None:
    ours = Sam3.open(folders["sam3"], torch.float32)
    processor = transformers.Sam3Processor(ours.images, ours.tokenizer)
    things = [Wanted("robot"), Wanted("cat", "red cat", query="red cat")]
    found = ours.find(picture(), things, "cpu", 0.1)
    for number, words in enumerate(("robot", "red cat")):
        inputs = processor(images=to_pillow(picture()), text=words, return_tensors="pt")
        with torch.no_grad():
            out = ours.model(**inputs)
        theirs = processor.post_process_instance_segmentation(out, threshold=0.1, target_sizes=[(48, 80)])[0]
        own = [f for f in found if f.wanted == number]
        inside = [tuple(b) for b in theirs["boxes"].tolist()]
        scale = (80, 48, 80, 48)
        assert len(own) == len(inside) > 0
        for f, box, score, mask in zip(own, inside, theirs["scores"], theirs["masks"], strict=True):
            clipped = [min(1.0, max(0.0, v / s)) for v, s in zip(box, scale, strict=True)]
            assert f.box == pytest.approx(clipped, abs=1e-4)
            assert f.score == pytest.approx(float(score), abs=1e-5)
            assert torch.equal(torch.zeros(48, 80) if f.mask is None else f.mask, mask.float())


def test_florence_reads_like_the_library_and_answers_for_each_thing_alone(folders, monkeypatch) -> None:
    ours = Florence2.open(folders["florence"], torch.float32)
    text = "robot<loc_100><loc_200><loc_300><loc_400><loc_50><loc_60><loc_999><loc_999>"
    # the library's parser comes with the published folder's settings; its dequantisation is used here
    quantiser = ours.processor.post_processor
    numbers = torch.tensor([[100, 200, 300, 400], [50, 60, 999, 999]]).reshape(-1, 2)
    theirs = quantiser.dequantize(numbers, size=(80, 48)).reshape(-1, 4)
    mine = torch.tensor(boxes_of(text)) * torch.tensor([80.0, 48, 80, 48])
    assert bool(((mine - theirs >= 0) & (mine - theirs < 1)).all())  # the library cuts to whole pixels
    asked = []

    def answer(picture, prompt, device):
        asked.append(prompt)
        return (text, 0.8) if "cat" in prompt else (text, 0.1)

    monkeypatch.setattr(ours, "_answer", answer)
    found = ours.find(picture(), [Wanted("Cat"), Wanted("dog")], "cpu", 0.3)
    assert asked == ["<OPEN_VOCABULARY_DETECTION>cat", "<OPEN_VOCABULARY_DETECTION>dog"]
    assert [f.wanted for f in found] == [0, 0] and {f.score for f in found} == {0.8}


def test_florence_generates_and_is_as_sure_as_its_places_are_likely(folders) -> None:
    ours = Florence2.open(folders["florence"], torch.float32)
    tokenizer = ours.processor.tokenizer
    first = tokenizer.convert_tokens_to_ids("<loc_0>")
    says = first + 7  # it says one place again and again
    head = ours.model.get_output_embeddings()
    head.register_forward_hook(lambda m, i, out: out + 100.0 * (torch.arange(out.shape[-1]) == says))
    text, score = ours._answer(to_pillow(picture()), "<OPEN_VOCABULARY_DETECTION>robot", "cpu")
    assert text.count("<loc_7>") > 100 and "<loc_8>" not in text
    assert score == pytest.approx(1.0, abs=1e-4)
    says = 2  # it ends at once
    text, score = ours._answer(to_pillow(picture()), "<OPEN_VOCABULARY_DETECTION>robot", "cpu")
    assert "<loc_" not in text and score == 0.0
    masks = ours.masks(picture(), [(0.1, 0.1, 0.5, 0.5)], "cpu")
    assert masks.shape == (1, 48, 80) and not masks.any()


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dino", "sam", "sam2", "florence", *(["sam3"] if HAS_SAM3 else [])])
def test_every_kind_of_folder_is_opened_by_what_fits_it(folders, name) -> None:
    assert tiny.kind(folders[name]) in {**DETECTORS, **SEGMENTERS}


def test_a_class_that_this_transformers_lacks_is_one_sentence() -> None:
    with pytest.raises(InterplayError, match=r"^transformers .* has no Sam9Model; update it to 4.50 or later, or"):
        transformers_class("Sam9Model")
    if not HAS_SAM3:
        with pytest.raises(InterplayError, match=r"has no Sam3Model; update it to 5.0 or later"):
            transformers_class("Sam3Model")


def test_a_folder_without_weights_or_with_too_few_is_one_sentence(folders, tmp_path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    empty = tmp_path / "empty"
    shutil.copytree(folders["sam"], empty)
    (empty / "model.safetensors").unlink()
    with pytest.raises(InterplayError, match=r"^empty cannot be opened as SamModel \(.*\); put all its files there\.$"):
        Sam.open(empty, torch.float32)
    part = tmp_path / "part"
    shutil.copytree(folders["sam"], part)
    state = load_file(part / "model.safetensors")
    lost = sorted(k for k in state if "mask_decoder" in k)[0]
    kept = {k: v for k, v in state.items() if k != lost}
    save_file(kept, part / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InterplayError, match=rf"^part lacks 1 weights, such as {lost}; put the published files"):
        Sam.open(part, torch.float32)


def test_nothing_is_imported_before_a_model_is_opened() -> None:
    import subprocess
    import sys

    code = (
        "import sys, conftest; import interplay.guidance.grounding.detectors_open; "
        "print('transformers' in sys.modules, 'torchvision' in sys.modules)"
    )
    tests = importlib.import_module("conftest").ROOT / "tests"
    done = subprocess.run([sys.executable, "-c", code], cwd=tests, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
