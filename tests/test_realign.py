"""The loop: on plain values, and on PixelWorld inside ComfyUI."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.grounding.loop import Look, Loop, judged, report, summary
from interplay.guidance.grounding.objects import PictureObject, PictureObjects

PROMPT = "a red robot and a blue box in the forest"
SEED = 3


class Stop(BaseException):
    """Stands for the host's interrupt."""


def seen(score: float, mendable: bool = True) -> Look:
    objects = PictureObjects((PictureObject(f"at {score}"),), torch.ones(1, 2, 2), ("cat",))
    return Look(score, ("colour",) if score < 1 else (), objects, mendable=mendable)


class World:
    """Pictures are lists of scores to come: the first is the present one. A negative score: regions cannot mend it."""

    def __init__(self, futures: list[list[float]], stop_at: int = 99) -> None:
        self.futures, self.stop_at = futures, stop_at
        self.drawn: list[tuple[tuple[int, ...], tuple[str, ...], float]] = []
        self.orders: list[list[Any]] = []

    def loop(self, rounds: int, **options: Any) -> Loop[tuple[int, int]]:
        return Loop(self.look, self.draw, rounds, stopped=(Stop,), **options)

    def look(self, pictures: Any) -> list[Look]:
        return [seen(abs(self.futures[i][n]), self.futures[i][n] > 0) for i, n in pictures]

    def draw(self, orders: Any) -> list[tuple[int, int]]:
        self.orders.append(orders)
        rows, labels = [o.row for o in orders], [o.objects.objects[0].label for o in orders if o.objects.objects]
        self.drawn.append((tuple(rows), tuple(labels), orders[0].strength))
        if len(self.drawn) == self.stop_at:
            raise Stop
        return [(i, len(self.drawn)) for i in rows]

    def first(self) -> list[tuple[int, int]]:
        return [(i, 0) for i in range(len(self.futures))]


def test_only_wrong_pictures_are_drawn_again_and_the_better_one_is_kept() -> None:
    world = World([[1.0], [0.2, 0.6, 0.4, 1.0], [0.5, 0.3, 0.9]])
    found = world.loop(2).run(world.first())
    assert [h.best.look.score for h in found] == [1.0, 0.6, 0.9]
    assert [h.picture for h in found] == [(0, 0), (1, 1), (2, 2)]
    # each pass starts from the best picture so far, and a later pass is stronger
    assert world.drawn == [((1, 2), ("at 0.2", "at 0.5"), 1.0), ((1, 2), ("at 0.6", "at 0.5"), 1.5)]
    assert [len(h.tries) for h in found] == [1, 3, 3]


def test_the_loop_ends_as_soon_as_nothing_is_wrong() -> None:
    world = World([[0.4, 1.0, 0.0], [1.0, 0.0]])
    found = world.loop(8).run(world.first())
    assert len(world.drawn) == 1 and [h.best.look.wrong for h in found] == [(), ()]
    quiet = World([[1.0]])
    assert quiet.loop(8).run(quiet.first())[0].best.number == 0 and quiet.drawn == []


def test_an_equal_picture_does_not_replace_the_first() -> None:
    world = World([[0.5, 0.5]])
    assert world.loop(1).run(world.first())[0].picture == (0, 0)


def test_an_interrupt_keeps_what_is_done() -> None:
    world = World([[0.2, 0.6, 0.7, 0.9]], stop_at=3)
    loop = world.loop(5)
    found = loop.run(world.first())
    assert loop.interrupted and found[0].best.look.score == 0.7 and found[0].picture == (0, 2)
    assert summary(found, True).endswith("interrupted: what was done is kept")


def test_an_interrupt_before_the_first_look_is_passed_on() -> None:
    def look(pictures: Any) -> list[Look]:
        raise Stop

    with pytest.raises(Stop):
        Loop(look, lambda *a: [], 1, stopped=(Stop,)).run([1])


def test_where_there_is_nothing_to_go_by_nothing_is_drawn() -> None:
    empty = Look(0.1, ("all",), PictureObjects())
    drawn: list[Any] = []
    loop = Loop(lambda p: [empty] * len(p), lambda *a: drawn.append(a) or [0], 3)
    assert loop.run([0])[0].best.number == 0 and drawn == []
    lacking = replace(empty, objects=PictureObjects(missing=("cat",)))
    Loop(lambda p: [lacking] * len(p), lambda *a: drawn.append(a) or [0], 3).run([0])
    assert len(drawn) == 3


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InterplayError, match="-1 rounds"):
        World([[1.0]]).loop(-1).run([(0, 0)])
    with pytest.raises(InterplayError, match="growth 0"):
        World([[1.0]]).loop(1, growth=0).run([(0, 0)])


def test_another_noise_is_taken_where_regions_cannot_mend_or_just_did_not() -> None:
    world = World([[0.2, 0.1, 0.4, 0.3, 0.5], [-0.2, 0.1, 0.6, 0.7, 0.8]])
    found = world.loop(4, noise="as needed").run(world.first())

    def told(row: int) -> list[tuple[float, int, bool]]:
        orders = [order for orders in world.orders for order in orders if order.row == row]
        return [(order.strength, order.noise, bool(order.objects.objects)) for order in orders]

    # re-weighting did not help; another noise did, and is re-weighted in its turn, in vain
    assert told(0) == [(1.0, 0, True), (0.0, 2, False), (1.0, 2, True), (0.0, 4, False)]
    # regions cannot mend the first, nor is another noise better; the next one is, and is kept as long as it helps
    assert told(1) == [(0.0, 1, False), (0.0, 2, False), (1.0, 2, True), (1.5, 2, True)]
    assert all(o.objects.missing == ("cat",) for orders in world.orders for o in orders)
    assert [h.best.noise for h in found] == [4, 2] and [h.best.look.score for h in found] == [0.5, 0.8]
    same = World([[-0.2, 0.1, 0.6]])
    same.loop(2).run(same.first())
    assert [o.noise for orders in same.orders for o in orders] == [0, 0]
    with pytest.raises(InterplayError, match="noise of further passes can be same or as needed, not 'loud'"):
        World([[1.0]]).loop(1, noise="loud").run([(0, 0)])


def test_who_judged_is_told_for_every_drawing() -> None:
    looks = iter([replace(seen(0.2), judge="llm", raw="{}"), replace(seen(0.6), judge="rules: it timed out")])
    found = Loop(lambda p: [next(looks)], lambda orders: [1], 1).run([0])
    status, raw = judged(found)
    assert status == "picture 0, drawing 0: llm\npicture 0, drawing 1: rules: it timed out"
    assert raw == "--- picture 0, drawing 0 ---\n{}"
    assert [t["judge"] for t in json.loads(report(found))["pictures"][0]["tries"]] == ["llm", "rules: it timed out"]


def test_the_report_tells_every_try() -> None:
    world = World([[0.2, 0.6], [1.0]])
    told = json.loads(report(world.loop(1).run(world.first())))
    assert told["interrupted"] is False
    first, second = told["pictures"]
    assert (first["before"], first["after"], first["kept"]) == (0.2, 0.6, 1)
    assert [t["score"] for t in first["tries"]] == [0.2, 0.6] and first["tries"][1]["strength"] == 1.0
    assert second["tries"] == [second["tries"][0]] and second["before"] == second["after"] == 1.0


# --- inside ComfyUI ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawing() -> Any:
    from interplay.guidance.hosts.comfyui.conditioning import encode
    from interplay.guidance.hosts.comfyui.itm import encode_text
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld
    from interplay.guidance.hosts.comfyui.realign import Drawing
    from interplay.parsing import parse

    torch.set_num_threads(1)
    with torch.inference_mode():
        model, clip, vae = load_pixelworld()
        positive, negative = encode(clip, PROMPT, parse(PROMPT)), encode_text(clip, "")
        latent = {"samples": torch.zeros(3, 4, 16, 16)}
        return Drawing(model, vae, positive, negative, latent, SEED, 20, 5.0, "euler", "normal"), clip


def how(clip: Any, **changes: Any) -> Any:
    from interplay.guidance.hosts.comfyui.perception import PIXELWORLD, Perception
    from interplay.guidance.hosts.comfyui.realign import Refinement
    from interplay.guidance.hosts.comfyui.realign_stages import judge_by, tagger_by
    from interplay.guidance.modulation import modulation

    config = modulation("RealignDiff (recommended)")
    given = {"tagger": tagger_by(PIXELWORLD), "judge": judge_by("rules"), "clip": clip, **changes}
    return Refinement(Perception(), config, **given)


@pytest.mark.comfy
def test_some_rows_of_a_batch_get_the_noise_that_they_had(drawing: Any) -> None:
    import comfy.sample
    from interplay.guidance.hosts.comfyui.realign import rows_of

    latent = {"samples": torch.zeros(4, 4, 16, 16), "noise_mask": torch.arange(4.0).reshape(4, 1, 1, 1)}
    whole = comfy.sample.prepare_noise(latent["samples"], 7)
    part = rows_of(latent, [1, 3])
    assert torch.equal(comfy.sample.prepare_noise(part["samples"], 7, part["batch_index"]), whole[[1, 3]])
    assert part["noise_mask"].flatten().tolist() == [1.0, 3.0]
    again = rows_of(part, [1])
    assert again["batch_index"] == [3]
    assert rows_of(latent, range(4)) is latent


@pytest.mark.comfy
def test_pictures_get_better_or_stay_and_the_score_is_that_of_the_exact_judge(drawing: Any) -> None:
    from interplay.guidance.hosts.comfyui.realign import refine
    from interplay.guidance.pixelworld.detect import judge

    settings, clip = drawing
    with torch.inference_mode():
        plain = settings.draw(settings.model, settings.positive, settings.latent)
        outcome = refine(settings, how(clip))
        assert torch.equal(outcome.first_images, settings.vae.decode(plain))
    for i, item in enumerate(outcome.histories):
        right = judge(PROMPT, outcome.images[i].numpy()).all_right
        assert right == (not item.best.look.wrong) == (item.best.look.score == 1.0)
        assert item.best.look.score >= item.before.score
        kept = torch.equal(outcome.samples[i], plain[i])
        assert kept == (item.best.number == 0)
        assert len(item.tries) == 1 if not item.before.wrong else len(item.tries) == 2
    assert any(item.best.number for item in outcome.histories)
    assert len(outcome.objects.pictures) == 3 and outcome.objects.height == 128


@pytest.mark.comfy
def test_a_second_pass_is_what_the_separate_steps_make(drawing: Any) -> None:
    from interplay.guidance.hosts.comfyui.realign import refine, rows_of
    from interplay.guidance.hosts.comfyui.reweight import reweight

    settings, clip = drawing
    with torch.inference_mode():
        one = replace(settings, latent={"samples": torch.zeros(1, 4, 16, 16)})
        outcome = refine(one, how(clip))
        (item,) = outcome.histories
        assert item.best.number == 1
        first = refine(one, how(clip, rounds=0)).objects
        made = reweight(one.model, one.positive, first, how(clip).config, clip)
        again = one.draw(made.model, made.conditioning, rows_of(one.latent, [0]))
    assert torch.equal(outcome.samples, again)


@pytest.mark.comfy
def test_interrupting_the_host_keeps_the_first_drawing(drawing: Any) -> None:
    import comfy.model_management
    from interplay.guidance.hosts.comfyui import realign

    settings, clip = drawing

    class Interrupting(realign.Drawing):
        calls = 0

        def draw(self, model: Any, positive: Any, latent: Any, other: int = 0) -> Any:
            Interrupting.calls += 1
            if Interrupting.calls == 2:
                comfy.model_management.interrupt_current_processing()
                comfy.model_management.throw_exception_if_processing_interrupted()
            return super().draw(model, positive, latent, other)

    with torch.inference_mode():
        outcome = realign.refine(Interrupting(**vars(settings)), how(clip, rounds=3))
    assert outcome.interrupted and torch.equal(outcome.images, outcome.first_images)
    assert not comfy.model_management.processing_interrupted()


@pytest.mark.comfy
def test_presence_joins_the_guidance_that_a_model_has_and_leaves_others_alone(drawing: Any) -> None:
    from interplay.guidance.grounding.objects import ObjectsBatch
    from interplay.guidance.hosts.comfyui.guidance import WRAPPERS, patch_model
    from interplay.guidance.hosts.comfyui.passes import WRAPPER_KEY
    from interplay.guidance.hosts.comfyui.realign import presence
    from interplay.guidance.presets import preset

    def config(model: Any) -> Any:
        (call,) = model.get_wrappers(WRAPPERS.OUTER_SAMPLE, WRAPPER_KEY)
        return call.__self__.config

    model = drawing[0].model
    lacking = ObjectsBatch((PictureObjects(missing=("blue box",)), PictureObjects()), 128, 128)
    assert presence(model, ObjectsBatch((PictureObjects(),), 128, 128), 1.0) is model
    assert presence(model, lacking, 0.0) is model
    assert config(presence(model, lacking, 1.0)).terms == ("P",)
    both = config(presence(patch_model(model, preset("SHY")), lacking, 0.5))
    assert both.terms == ("C", "R", "P") and both.presence == (("blue box",), ())
    assert model.get_wrappers(WRAPPERS.OUTER_SAMPLE, WRAPPER_KEY) == []


@pytest.mark.comfy
def test_presence_changes_only_the_pictures_that_lack_something(drawing: Any) -> None:
    from interplay.guidance.grounding.objects import ObjectsBatch
    from interplay.guidance.hosts.comfyui.realign import presence

    settings, _ = drawing
    lacking = ObjectsBatch((PictureObjects(), PictureObjects(missing=("robot",)), PictureObjects()), 128, 128)
    with torch.inference_mode():
        quick = replace(settings, steps=6)
        plain = quick.draw(quick.model, quick.positive, quick.latent)
        guided = quick.draw(presence(quick.model, lacking, 2.0), quick.positive, quick.latent)
    assert torch.allclose(plain[[0, 2]], guided[[0, 2]], atol=1e-5)
    assert float((plain[1] - guided[1]).abs().max()) > 0.05


@pytest.mark.comfy
@pytest.mark.parametrize("kind", ["DiffusionITM", "things found"])
def test_other_scores_need_no_exact_judge(drawing: Any, kind: str) -> None:
    from interplay.guidance.hosts.comfyui.realign import refine

    settings, clip = drawing
    with torch.inference_mode():
        outcome = refine(replace(settings, steps=4), how(clip, score=kind, rounds=0))
        for item in outcome.histories:
            look = item.best.look
            assert 0.0 <= look.score <= 1.0
            lacking = [w for w in look.wrong if w.startswith("missing")]
            assert len(lacking) == len(look.objects.missing)
            if kind == "things found":
                assert look.score == pytest.approx(1 - len(look.objects.missing) / 2)
        with pytest.raises(InterplayError, match="connect 'clip'"):
            refine(replace(settings, steps=1), how(None, score="DiffusionITM", rounds=0))
        with pytest.raises(InterplayError, match="no score called 'taste'"):
            refine(settings, how(clip, score="taste"))


@pytest.mark.comfy
def test_conditioning_without_a_hypergraph_is_refused_before_drawing(drawing: Any) -> None:
    from interplay.guidance.hosts.comfyui.realign import refine

    settings, clip = drawing
    plain = [[c[0], {}] for c in settings.positive]
    with pytest.raises(InterplayError, match="carries no hypergraph"):
        refine(replace(settings, positive=plain), how(clip))


# --- models under the host's memory management ------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    import folder_paths
    import objects_models as tiny

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "interplay", ([str(tmp_path / "interplay")], set()))
    tiny.dino(tmp_path / "interplay" / "grounding-dino-tiny")
    tiny.sam(tmp_path / "interplay" / "my-sam")
    return tmp_path / "interplay"


@pytest.mark.comfy
def test_models_are_listed_used_one_at_a_time_and_gone_afterwards(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    import comfy.model_management
    from interplay.guidance.grounding.detectors_dino import GroundingDino
    from interplay.guidance.grounding.segment import Sam
    from interplay.guidance.hosts.comfyui.perception import Perception, detectors, segmenters
    from interplay.parsing import parse

    assert "my-sam" in segmenters() and "my-sam" not in detectors()
    loaded = comfy.model_management.current_loaded_models
    before, counts = len(loaded), []
    for cls, name in ((GroundingDino, "find"), (Sam, "masks")):
        real = getattr(cls, name)

        def counted(self: Any, *args: Any, real: Any = real) -> Any:
            counts.append(len(loaded) - before)
            return real(self, *args)

        monkeypatch.setattr(cls, name, counted)
    images = torch.rand(2, 48, 80, 3)
    with torch.inference_mode():
        found = Perception("grounding-dino-tiny", "my-sam", 0.0).look(images, parse(PROMPT), [(), ("lamp",)], [{}, {}])
        none = Perception("grounding-dino-tiny", "my-sam", 1.0).look(images, parse(PROMPT), [(), ()], [{}, {}])
    assert counts == [1] * 6 and len(loaded) == before  # never two at a time; the empty batch needs no masks
    assert all(o.label in ("robot", "box", "lamp") for p in found.pictures for o in p.objects)
    for picture in found.pictures:
        assert len(picture.objects) > 0 and picture.masks.shape == (len(picture.objects), 48, 80)
        assert len({o.label for o in picture.objects}) == len(picture.objects)
    assert [p.missing for p in none.pictures] == [("red robot", "blue box")] * 2 and none.stacked().shape == (1, 48, 80)


@pytest.mark.comfy
def test_missing_and_unfit_models_are_one_sentence(folder: Any) -> None:
    from interplay.guidance.hosts.comfyui.perception import Perception

    with pytest.raises(InterplayError, match=r"The model sam3 for finding things is missing; put the files of hugging"):
        Perception("sam3").check()
    with pytest.raises(InterplayError, match=r"The model sam-vit-base for masks is missing; put the files of"):
        Perception("grounding-dino-tiny", "sam-vit-base").check()
    with pytest.raises(InterplayError, match=r"my-sam is of the kind 'sam'; for finding things use one of grounding-d"):
        Perception("my-sam").check()
    Perception("grounding-dino-tiny", "my-sam").check()


@pytest.mark.comfy
def test_the_nodes_run() -> None:
    from interplay.nodes.objects import GroundObjects, ObjectsFromMasks, PresenceGuidance
    from interplay.parsing import parse

    image = torch.full((2, 128, 128, 3), 0.9)
    given = {"detector": "PixelWorld (exact)", "segmenter": "boxes as masks", "threshold": 0.3, "instances": "joined"}
    objects, masks, labels, preview, missing, lacks, text = GroundObjects.execute(
        image=image, hypergraph=parse(PROMPT), **given
    ).result
    assert (labels, missing, lacks) == ("", "red robot, blue box", True)
    assert masks.shape == (1, 128, 128) and preview.shape[0] == 2 and len(json.loads(text)["pictures"]) == 2
    assert len(objects.pictures) == 2
    hand = ObjectsFromMasks.execute(torch.ones(1, 8, 8), "robot | red robot", "an object each").result
    assert hand[2] == "robot" and hand[5] is False and np.isclose(float(hand[1].mean()), 1.0)
    model = object()
    assert PresenceGuidance.execute(model, objects, 1.0, enabled=False).result == (model,)
