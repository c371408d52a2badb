"""The guided step on a small differentiable stand-in for a U-Net: attention of a smoothed latent over random tokens."""

from __future__ import annotations

import json
import logging
import math

import pytest
import torch
from guidance_cases import CAT_AND_DOG, CHASE, DOG_AND_CAT, PIGEON
from guidance_cases import gentle as preset
from interplay.errors import InterplayError
from interplay.guidance.engine import Guide, GuidedMaps
from interplay.guidance.losses import action_contrast, contrast, link
from interplay.guidance.maps import attention_columns, gaussian_blur, scaled_kernel, word_maps
from interplay.guidance.presets import PRESETS
from interplay.guidance.update import decay

STEPS = 10
QUIET = {"off_switch": False, "early_stop": False, "skip_met": False, "restore_std": False, "norm_cap": None}


class Toy:
    """A capture: latent channels -> queries, fixed random keys -> attention. Counts its calls."""

    def __init__(self, graph=DOG_AND_CAT, size=(6, 5), batch=2, dtype=torch.float64, key="cond", sharp=2.0) -> None:
        self.graph, self.size, self.key, self.calls = graph, size, key, 0
        generator = torch.Generator().manual_seed(5)
        self.mix = torch.randn(3, 3, 3, 3, dtype=dtype, generator=generator)
        self.keys = sharp * torch.randn(1, graph.length, 6, dtype=dtype, generator=generator)
        self.z = torch.randn(batch, 3, *size, dtype=dtype, generator=generator)

    def maps(self, z):
        features = torch.nn.functional.conv2d(z, self.mix, padding=1)
        q = torch.cat([features, features.tanh()], 1).flatten(2).transpose(1, 2)
        columns = attention_columns(q, self.keys.expand(z.shape[0], -1, -1), 2, self.graph.positions)
        return word_maps(columns, self.graph, *self.size)

    def __call__(self, z):
        self.calls += 1
        assert z.requires_grad and z.is_leaf
        return [GuidedMaps(self.key, self.graph, self.maps(z))]


def _run(guide: Guide, toy, z=None, steps: int = STEPS, upto: int | None = None):
    z = toy.z if z is None else z
    for i in range(steps if upto is None else upto):
        z = guide.step(z, i / steps, toy)
    return z


# --- gradient ---------------------------------------------------------------------------------------------------------


def _total(maps, previous, config):
    """C + A + L of one set of maps, from the losses alone."""
    narrow, wide = (scaled_kernel(*k, *maps.shape[-2:]) for k in (config.kernel_narrow, config.kernel_wide))
    blurred = [None if m is None else gaussian_blur(m, *k) for k in (narrow, wide) for m in (maps, previous)]
    return (
        contrast(blurred[0], blurred[1], DOG_AND_CAT, config.temperature_contrast, config.environment_weight).loss,
        action_contrast(blurred[0], blurred[1], DOG_AND_CAT, config.temperature_contrast).loss,
        link(blurred[2], blurred[3], DOG_AND_CAT, mode="hinge", margin=config.link_margin).loss,
    )


@pytest.mark.parametrize("term", [0, 2])
@pytest.mark.parametrize("size", [(6, 5), (7, 3)])
def test_the_move_of_a_step_is_the_finite_difference_of_its_loss(term: int, size):
    """Second step, so that t+1 maps take part; "gradient" rule: z - z' = a * dL/dz. (A, detached, follows below.)"""
    name = "CAL"[term]
    config = preset(
        "SHY", terms=(name,), cycle=(name,), step_rule="gradient", step=0.1, end=1.0, reference_steps=None,
        link_margin=0.99, **QUIET,
    )  # fmt: skip
    toy = Toy(size=size)
    guide = Guide(config)
    z = guide.step(toy.z, 0.0, toy)
    previous = toy.maps(toy.z).detach()
    moved = guide.step(z, 0.1, toy)
    a = 0.1 * decay(0.1)
    flat = z.flatten()
    for index in range(0, flat.numel(), 3):
        values = []
        for shift in (1e-6, -1e-6):
            x = flat.clone()
            x[index] += shift
            values.append(float(_total(toy.maps(x.reshape(z.shape)), previous, config)[term].sum()))
        wanted = -a * (values[0] - values[1]) / 2e-6
        assert float((moved - z).flatten()[index]) == pytest.approx(wanted, abs=2e-8)


def test_the_move_of_the_action_term_is_the_finite_difference_with_objects_held():
    """Only the action's map follows the latent; every object's map is held at its value."""
    config = preset(
        "SHY", terms=("A",), cycle=("A",), step_rule="gradient", step=0.1, end=1.0, reference_steps=None, **QUIET
    )
    toy = Toy()
    delta = (Guide(config).step(toy.z, 0.0, toy) - toy.z).flatten()
    held = toy.maps(toy.z)

    def loss(z):
        maps = held.clone()
        maps[:, 2] = toy.maps(z)[:, 2]  # "plays"
        return float(_total(maps, None, config)[1].sum())

    flat = toy.z.flatten()
    for index in range(0, flat.numel(), 3):
        values = []
        for shift in (1e-6, -1e-6):
            x = flat.clone()
            x[index] += shift
            values.append(loss(x.reshape(toy.z.shape)))
        assert float(delta[index]) == pytest.approx(-0.1 * (values[0] - values[1]) / 2e-6, abs=2e-8)


def test_sum_is_the_sum_of_the_single_terms_and_weights_count():
    def move(**changes):
        config = preset("SHY", step_rule="gradient", step=0.1, end=1.0, reference_steps=None, link_margin=0.99, **QUIET)
        toy = Toy()
        config = preset("SHY", **{**config.to_dict(), **changes})
        return Guide(config).step(toy.z, 0.0, toy) - toy.z

    single = {name: move(terms=(name,), cycle=(name,)) for name in "CAL"}
    assert torch.allclose(move(selection="sum"), sum(single.values()), atol=1e-14)
    weighted = move(selection="sum", weights=(("C", 2.0), ("L", 0.5)))
    assert torch.allclose(weighted, 2 * single["C"] + single["A"] + 0.5 * single["L"], atol=1e-14)


def test_two_conds_add_by_their_weights():
    config = preset("CONFORM", step_rule="gradient", step=0.1, end=1.0, reference_steps=None, **QUIET)
    first, second = Toy(key="a"), Toy(PIGEON, key="b")
    z = first.z

    def both(x):
        one, other = first(x)[0], second(x)[0]
        other.weight = 0.25
        return [one, other]

    together = Guide(config).step(z, 0.0, both) - z
    alone = [Guide(config).step(z, 0.0, toy) - z for toy in (first, second)]
    assert torch.allclose(together, alone[0] + 0.25 * alone[1], atol=1e-14)


# --- what it is for ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SHY", "SHY (combined)", "CONFORM"])
def test_guidance_lowers_its_losses(name: str):
    config = preset(name, end=1.0, step=0.05, norm_cap=0.1, off_switch=False, skip_met=False)
    guide, toy = Guide(config), Toy(batch=3)
    _run(guide, toy, steps=30)
    for term in config.terms[:2]:
        rows = [row for step in guide.report.steps[1:] for row in step.curve[term]]
        assert all(last < first - 0.01 for first, last in zip(rows[0], rows[-1], strict=True))


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_runs_moves_and_stays_finite(name: str):
    guide, toy = Guide(preset(name), steps=STEPS), Toy(dtype=torch.float32)
    z = _run(guide, toy)
    assert torch.isfinite(z).all() and not torch.equal(z, toy.z)
    assert z.dtype == torch.float32 and not z.requires_grad
    assert guide.report.guided_steps > 0 and guide.report.nonfinite == 0


# --- batch, determinism, strength 0 -----------------------------------------------------------------------------------


SCHEDULES = ["cycle", "weighted cycle", "phase", "worst first", "random", "sum", "combined"]


@pytest.mark.parametrize("selection", SCHEDULES)
def test_a_batch_does_what_its_images_do_one_by_one(selection: str):
    """With early stop, refinement, skipping and the off-switch on: images finish at different times."""
    config = preset(
        "SHY", selection=selection, end=1.0, step=0.1, norm_cap=0.2, refine_at=(0.2, 0.5), refine_iterations=(6, 6),
        targets=(("C", 0.72), ("A", 0.62), ("L", 0.5)), skip_met=True,
    )  # fmt: skip
    toy = Toy(batch=4)
    guide = Guide(config, seed=3)
    together = _run(guide, toy)
    singles, off = [], []
    for image in range(4):
        alone = Guide(config, seed=3)
        singles.append(_run(alone, toy, toy.z[image : image + 1]))
        off += alone.report.off_at
    assert torch.allclose(together, torch.cat(singles), atol=1e-10)
    assert guide.report.off_at == off
    assert len({*off}) > 1, "the case must have images that finish at different times"


def test_runs_repeat_exactly_and_the_seed_counts_for_random_only():
    toy = Toy()
    for selection in ("random", "weighted cycle"):
        config = preset("SHY", selection=selection, end=1.0, skip_met=False)
        first, again, other = (_run(Guide(config, seed=s), toy) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert torch.equal(first, other) == (selection != "random")


def test_strength_zero_gives_the_latent_itself_and_looks_at_nothing():
    toy = Toy()
    guide = Guide(preset("SHY", strength=0.0))
    assert not guide.active(0.0)
    assert guide.step(toy.z, 0.0, toy) is toy.z and toy.calls == 0
    assert guide.report.summary() == "SHY: no step was guided."


def test_strength_scales_the_move():
    toy = Toy()
    moves = [Guide(preset("SHY", strength=s, restore_std=False)).step(toy.z, 0.0, toy) - toy.z for s in (0.5, 1.0)]
    assert torch.allclose(2 * moves[0], moves[1], atol=1e-14)


def test_works_inside_inference_mode():
    toy = Toy()
    with torch.inference_mode():
        z = Guide(preset("SHY")).step(toy.z.clone(), 0.0, toy)
    assert not z.is_inference() and torch.equal(z, Guide(preset("SHY")).step(toy.z, 0.0, toy))


# --- when -------------------------------------------------------------------------------------------------------------


def test_window():
    guide = Guide(preset("SHY", start=0.2, end=0.5))
    assert [i for i in range(10) if guide.active(i / 10)] == [2, 3, 4]
    assert [i for i in range(50) if Guide(preset("CONFORM (paper)")).active(i / 50)] == list(range(25))


def test_a_term_acts_in_its_own_window_only():
    """C alone in the first half, L alone in the second: each half is what a run of that term alone does there."""
    common = {"selection": "sum", "end": 1.0, "use_previous": False, "link_margin": 0.99, "link_mode": "hinge", **QUIET}
    both = preset("SHY", terms=("C", "L"), windows=(("C", 0.0, 0.5), ("L", 0.5, 0.9)), **common)
    toy = Toy()
    guide, lone = Guide(both), {t: Guide(preset("SHY", terms=(t,), cycle=(t,), **common)) for t in "CL"}
    z = toy.z
    for i in range(STEPS):
        moved = guide.step(z, i / STEPS, toy)
        alone = lone["C" if i < 5 else "L"].step(z, i / STEPS, toy)
        torch.testing.assert_close(moved, alone if i < 9 else z, atol=0, rtol=0)
        z = moved
    assert [step.progress for step in guide.report.steps] == pytest.approx([i / STEPS for i in range(9)])


def test_the_off_switch_waits_for_terms_whose_window_is_to_come():
    common = {"end": 1.0, "use_previous": False, "targets": (("C", 1.0), ("L", 0.0)), "link_margin": 0.99}
    late = Guide(preset("SHY", terms=("C", "L"), windows=(("L", 0.4, 1.0),), **common))
    _run(late, Toy())
    assert next(step.progress for step in late.report.steps if step.iterations) == pytest.approx(0.4)
    early = Guide(preset("SHY", terms=("C",), cycle=("C",), **common))
    _run(early, Toy())
    assert early.report.off_at == [0.0, 0.0] and early.report.guided_steps == 0


def test_impossible_windows_are_refused():
    with pytest.raises(InterplayError, match=r"The term C cannot act from 0.5 to 0.2"):
        preset("SHY", windows=(("C", 0.5, 0.2),))
    with pytest.raises(InterplayError, match=r"no loss term called 'X'"):
        preset("SHY", windows=(("X", 0.0, 0.2),))


def test_refinement_of_the_papers():
    """20 more iterations at steps 0, 10 and 20 of 50, one at each other guided step."""
    guide, toy = Guide(preset("CONFORM (paper)")), Toy(dtype=torch.float32)
    _run(guide, toy, steps=50)
    assert [s.iterations for s in guide.report.steps] == [21 if i in (0, 10, 20) else 1 for i in range(25)]
    assert toy.calls == guide.report.forwards == 3 * 21 + 22


def test_refinement_places_are_met_by_any_step_count():
    guide, toy = Guide(preset("CONFORM (paper)")), Toy(dtype=torch.float32)
    _run(guide, toy, steps=7)
    assert [s.iterations for s in guide.report.steps] == [21, 1, 21, 21]  # 0, .14, .29, .43


def test_a_step_that_failed_can_be_tried_again_with_its_refinement():
    toy = Toy()

    def failing(z):
        raise MemoryError

    guide = Guide(preset("CONFORM", refine_at=(0.0,), refine_iterations=(3,), **QUIET))
    with pytest.raises(MemoryError):
        guide.step(toy.z, 0.0, failing)
    guide.step(toy.z, 0.0, toy)
    assert toy.calls == 4


def test_a_step_in_which_no_cond_is_in_use_moves_nothing_and_ends_nothing():
    toy = Toy()
    guide = Guide(preset("SHY"))
    assert torch.equal(guide.step(toy.z, 0.0, lambda z: []), toy.z)
    assert guide.active(0.1) and guide.report.idle_steps == 1
    assert not torch.equal(guide.step(toy.z, 0.1, toy), toy.z)


def test_no_refinement_without_positives():
    """One-word groups: at the first step nothing has a pair, and 20 iterations would do nothing."""
    guide, toy = Guide(preset("CONFORM (paper)")), Toy(CAT_AND_DOG, dtype=torch.float32)
    z = guide.step(toy.z, 0.0, toy)
    assert torch.equal(z, toy.z) and toy.calls == 1
    assert guide.report.idle_steps == 1
    moved = guide.step(z + 0.1, 0.02, toy)
    assert not torch.equal(moved, z + 0.1) and toy.calls == 2


def test_maps_of_the_step_before_are_those_before_its_last_move():
    """After a refinement of two, t+1 is what the third forward saw."""
    seen = []
    toy = Toy()

    def spy(z):
        seen.append(z.detach().clone())
        return toy(z)

    config = preset("CONFORM", refine_at=(0.0,), refine_iterations=(2,), end=1.0, **QUIET)
    guide = Guide(config)
    guide.step(toy.z, 0.0, spy)
    assert len(seen) == 3
    assert torch.equal(guide._previous["cond"].maps, toy.maps(seen[2]))
    assert not guide._previous["cond"].maps.requires_grad


def test_no_previous_maps_when_they_are_turned_off():
    toy = Toy(CAT_AND_DOG)
    guide = Guide(preset("CONFORM", use_previous=False))
    assert torch.equal(_run(guide, toy), toy.z)


def test_off_switch_leaves_finished_images_alone_for_good():
    config = preset("SHY", end=1.0, targets=(("C", 1.0), ("A", 1.0), ("L", 1.0)))
    guide, toy = Guide(config), Toy()
    z = guide.step(toy.z, 0.0, toy)
    assert torch.equal(z, toy.z) and guide.active(0.1)  # t+1 maps may yet bring pairs: not switched off
    z = guide.step(z, 0.1, toy)
    assert torch.equal(z, toy.z) and not guide.active(0.2)
    assert guide.report.off_at == [0.1, 0.1] and toy.calls == 2
    assert guide.step(z, 0.2, toy) is z and toy.calls == 2
    assert "2 of 2 images on target by 10% of the schedule" in guide.report.summary()


def test_off_switch_is_per_image():
    toy = Toy(batch=2, sharp=3.0)
    p = []
    for image in range(2):
        guide = Guide(preset("CONFORM", end=1.0, off_switch=False))
        _run(guide, toy, toy.z[image : image + 1], upto=2)
        p.append(guide.report.steps[1].curve["C"][0][0])
    easy = p.index(min(p))
    guide = Guide(preset("CONFORM", end=1.0, targets=(("C", sum(p) / 2),)))
    first = guide.step(toy.z, 0.0, toy)
    second = guide.step(first, 0.1, toy)
    assert torch.equal(second[easy], first[easy]) and not torch.equal(second[1 - easy], first[1 - easy])
    assert guide.report.off_at[easy] == 0.1 and guide.report.off_at[1 - easy] is None


def test_a_term_moves_an_image_only_once_it_woke_and_then_until_its_target():
    """Two images, one on each side of the threshold; nothing else is set, so the target alone would move both."""
    toy = Toy(batch=2, sharp=3.0)
    common = {"end": 1.0, "use_previous": False, "targets": (("L", 0.01),), "terms": ("L",), "link_margin": 0.99}
    common |= {"refine_at": (), "refine_iterations": (), "early_stop": False, "wake": ()}
    seen = Guide(preset("SHY", **{**common, "step": 0.0, "off_switch": False}))
    seen.step(toy.z, 0.0, toy)
    p = seen.report.steps[0].curve["L"][0]
    worse, better = (p.index(max(p)), p.index(min(p)))
    between = sum(p) / 2
    guide = Guide(preset("SHY", **{**common, "wake": (("L", between),), "step": 0.03}))
    z = guide.step(toy.z, 0.0, toy)
    assert torch.equal(z[better], toy.z[better]) and not torch.equal(z[worse], toy.z[worse])
    assert guide.report.off_at[better] == 0.0 and guide.report.off_at[worse] is None
    for i in range(1, 6):
        before, z = z, guide.step(z, i / 10, toy)
        assert torch.equal(z[better], toy.z[better])
        reached = guide.report.steps[-1].curve["L"][0][worse]
        assert torch.equal(z[worse], before[worse]) == (reached <= 0.01)
    assert reached < between  # below the threshold it woke at, and moved on


def test_early_stop_ends_a_refinement_that_stands_still():
    """A step of nothing: after two iterations without a change the rest is not computed."""
    config = preset(
        "SHY", step=0.0, refine_at=(0.0,), refine_iterations=(20,), off_switch=False, early_stop=True, end=1.0
    )
    toy = Toy()
    Guide(config).step(toy.z, 0.0, toy)
    assert toy.calls == 3


def test_skip_met_gives_turns_to_terms_that_need_them():
    targets = (("C", 1.0), ("A", 0.0), ("L", 1.0))
    config = preset("SHY", selection="cycle", end=1.0, off_switch=False, targets=targets, skip_met=True)
    toy = Toy()
    moved = _run(Guide(config), toy, upto=3)
    only_a = preset("SHY", terms=("A",), cycle=("A",), selection="cycle", end=1.0, off_switch=False, targets=())
    assert torch.allclose(moved, _run(Guide(only_a), toy, upto=3), atol=1e-12)


def test_step_length_and_cap():
    toy = Toy()
    size = toy.z.flatten(1).norm(dim=1)
    for changes, share in (({"step": 0.02}, 0.02), ({"step": 0.5, "norm_cap": 0.03}, 0.03)):
        guide = Guide(preset("CONFORM", restore_std=False, **changes))
        moved = guide.step(toy.z, 0.0, toy)
        assert torch.allclose((moved - toy.z).flatten(1).norm(dim=1) / size, torch.full((2,), share).double())
        assert guide.report.moved == pytest.approx([share, share])
    ten = Guide(preset("CONFORM", restore_std=False, reference_steps=25), steps=50).step(toy.z, 0.0, toy) - toy.z
    assert torch.allclose(ten.flatten(1).norm(dim=1) / size, torch.full((2,), 0.0075).double())


def test_restored_deviation():
    toy = Toy()
    moved = Guide(preset("CONFORM", step=0.2, norm_cap=None, restore_std=True)).step(toy.z, 0.0, toy)
    assert torch.allclose(moved.std((-2, -1)), toy.z.std((-2, -1)), rtol=1e-9)


# --- numbers that are not finite --------------------------------------------------------------------------------------


class Spoiler(torch.autograd.Function):
    """Passes values through; the gradient of the images in ``bad`` becomes infinite."""

    @staticmethod
    def forward(ctx, x, bad):
        ctx.bad = bad
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        g = g.clone()
        g[ctx.bad] = math.inf
        return g, None


class ThroughHalf(torch.autograd.Function):
    """A backward pass whose gradient is as small as a U-Net's and goes through fp16."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return (g * 1e-7).half().float() * 1e7


class SpoilingToy(Toy):
    def __init__(self, bad_calls, bad_images=(1,), **kw) -> None:
        super().__init__(**kw)
        self.bad_calls, self.bad_images = bad_calls, list(bad_images)

    def __call__(self, z):
        bad = self.bad_images if self.calls in self.bad_calls else []
        self.calls += 1
        return [GuidedMaps(self.key, self.graph, self.maps(Spoiler.apply(z, bad)))]


def test_a_gradient_that_is_not_finite_is_taken_again_with_half_the_scale():
    toy = SpoilingToy({0})
    guide = Guide(preset("SHY", **QUIET))
    moved = guide.step(toy.z, 0.0, toy)
    assert torch.allclose(moved, Guide(preset("SHY", **QUIET)).step(toy.z, 0.0, Toy()), atol=1e-12)
    assert (guide.report.retries, guide.report.nonfinite, toy.calls) == (1, 0, 2)
    assert guide._scale.tolist() == [4096.0, 2048.0]


def test_a_gradient_that_stays_infinite_is_left_out_and_counted(caplog):
    toy = SpoilingToy(range(100))
    guide = Guide(preset("SHY", **QUIET))
    with caplog.at_level(logging.WARNING):
        moved = guide.step(toy.z, 0.0, toy)
    assert torch.equal(moved[1], toy.z[1]) and not torch.equal(moved[0], toy.z[0])
    assert (guide.report.retries, guide.report.nonfinite, toy.calls) == (1, 1, 2)
    assert "not finite" in caplog.text
    assert "1 updates left out" in guide.report.summary()


def test_maps_that_are_not_numbers_spoil_their_own_image_only():
    toy = Toy()

    def spoiled(z):
        (guided,) = toy(z)
        guided.maps = torch.cat([guided.maps[:1], guided.maps[1:] * math.nan])
        return [guided]

    for selection in ("weighted cycle", "combined"):
        guide = Guide(preset("SHY", selection=selection))
        moved = guide.step(toy.z, 0.0, spoiled)
        assert torch.equal(moved[1], toy.z[1])
        clean = Guide(preset("SHY", selection=selection)).step(toy.z, 0.0, toy)
        assert torch.allclose(moved[0], clean[0], atol=1e-12)
        assert guide.report.nonfinite == 1


def test_loss_scale_keeps_half_precision_gradients_alive():
    """A capture whose backward runs through fp16: without the scale the gradient is all zero."""
    toy = Toy(dtype=torch.float32)

    def half(z):
        return [GuidedMaps("cond", toy.graph, toy.maps(ThroughHalf.apply(z)))]

    moves = {s: Guide(preset("SHY", loss_scale=s)).step(toy.z, 0.0, half) - toy.z for s in (1.0, 4096.0)}
    exact = Guide(preset("SHY")).step(toy.z, 0.0, toy) - toy.z
    assert moves[1.0].abs().max() == 0
    assert torch.nn.functional.cosine_similarity(moves[4096.0].flatten(), exact.flatten(), dim=0) > 0.99


def test_a_latent_that_is_not_finite_gets_one_sentence():
    toy = Toy()
    toy.z[1, 0, 0, 0] = math.nan
    with pytest.raises(InterplayError, match=r"^The latent holds values that are not finite at 10% of .*\.$"):
        Guide(preset("SHY")).step(toy.z, 0.1, toy)


def test_another_batch_needs_another_guide():
    toy = Toy()
    guide = Guide(preset("SHY"))
    guide.step(toy.z, 0.0, toy)
    with pytest.raises(ValueError, match="from 2 to 1 images"):
        guide.step(toy.z[:1], 0.1, toy)


# --- report -----------------------------------------------------------------------------------------------------------


def test_report_has_the_curve_of_every_image_and_iteration():
    config = preset("SHY", end=0.5, refine_at=(0.2,), refine_iterations=(2,), **QUIET)
    guide, toy = Guide(config, steps=STEPS), Toy(CHASE)
    _run(guide, toy)
    data = json.loads(json.dumps(guide.report.to_dict()))
    assert "C" not in data["steps"][0]["curve"] and "A" not in data["steps"][1]["curve"]
    assert [len(s["curve"]["C"]) for s in data["steps"][1:]] == [1, 3, 1, 1]
    assert all(len(row) == 2 and all(0 <= p <= 1 for p in row) for row in data["steps"][2]["curve"]["C"])
    text = guide.report.summary()
    assert text.startswith("SHY: ") and "C " in text and "→" in text and "\n" not in text
