"""The contrastive trainer on a world of a few kilobytes: gradients, collapse, resume, files, several processes."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.training import contrast, drawing, lora, objectives, records, refl_model  # noqa: E402
from interplay.guidance.training import train_negatives as trainer  # noqa: E402
from interplay.guidance.training.drawing import plot  # noqa: E402
from interplay.guidance.training.learner import Levels, errors  # noqa: E402
from interplay.guidance.training.tripwire import Tripwire  # noqa: E402
from training_world import World  # noqa: E402
from two_processes import LAUNCH  # noqa: E402

SLOW_LIMIT = {"validate_every": 10**6, "save_every": 10**6}


@pytest.fixture(scope="module")
def trained() -> World:
    torch.set_num_threads(1)
    return World()


@pytest.fixture
def world(trained: World) -> World:
    trained.lora.remove()
    fresh = copy.copy(trained)
    fresh.lora = lora.inject(trained.net, 8, seed=0)
    return fresh


def settings(**changes) -> contrast.ContrastSettings:
    plain = {"steps": 4, "batch": 8, "rate": 2e-3, "calibrate": 64, "validate_every": 2, "save_every": 1, "warm": 0}
    return contrast.ContrastSettings(**{**plain, **changes})


def run(world: World, out: Path, resume: bool = False, **changes) -> trainer.Outcome:
    return trainer.train(trainer.Job(world, world.lora, world.material()), settings(**changes), out, resume)


def constants(**changes) -> objectives.Constants:
    plain = {"margin": 0.05, "beta": 20.0, "beta_null": 20.0, "mean": 0.0, "spread": 0.1}
    return objectives.Constants(**{**plain, **changes})


def row(*values: float, grad: bool = True):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


# --- the objectives, against plain rewrites of their formulas ---------------------------------------------------------


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_objectives_are_their_formulas(name):
    c, n, u = row(0.2, 0.3, 0.25), row(0.21, 0.5, 0.2), row(0.4, 0.35, 0.3)
    c_ref, n_ref, u_ref, anchor = row(0.22, 0.3, 0.2), row(0.2, 0.45, 0.25), row(0.41, 0.3, 0.33), row(0.01, 0.02, 0.0)
    k, has = constants(clip=1.0), torch.tensor([True, True, True])
    on = objectives.active(name, c.detach(), n.detach(), has, k)
    t = objectives.Terms(c, has, n, u, c_ref, n_ref, u_ref, anchor)
    got = objectives.loss(name, t, k, on).tolist()
    soft = torch.nn.functional.softplus
    want = []
    for i in range(3):
        a, b, e = (float(x[i].detach()) for x in (c, n, u))
        ar, br, er, kept = (float(x[i].detach()) for x in (c_ref, n_ref, u_ref, anchor))
        below = float(n.detach().mean()) < float(c.detach().mean())
        want.append(
            {
                "noneg": a,
                "softneg_raw": a - e,
                "contrast_hinge": a + max(0.05 - (b - a), 0.0) + kept,
                "hardneg_sample": a - min(b, a) + kept,
                "hardneg_paper": a - (b if below else a),
                "caption_dpo": a + float(soft(torch.tensor(20 * ((a - ar) - (b - br))))) / 20 + kept,
                "softneg_guarded": float(soft(torch.tensor(20 * (a - er)))) / 20 + 0.5 * a + kept,
            }[name]
        )
    assert got == pytest.approx(want, rel=1e-6)


def test_a_negative_that_is_far_enough_has_no_gradient_and_no_bound_is_crossed():
    c, n = row(0.2, 0.2), row(0.21, 0.9)
    k, has = constants(), torch.tensor([True, True])
    on = objectives.active("contrast_hinge", c.detach(), n.detach(), has, k)
    assert on.tolist() == [True, False]
    objectives.loss("contrast_hinge", objectives.Terms(c, has, n), k, on).sum().backward()
    assert n.grad.tolist() == [-1.0, 0.0] and c.grad.tolist() == [2.0, 1.0]


def test_rows_without_a_negative_are_plain_fine_tuning():
    c, n = row(0.2, 0.3), row(0.2, 0.3)
    has, k = torch.tensor([True, False]), constants()
    for name in ("contrast_hinge", "hardneg_sample", "hardneg_paper", "caption_dpo"):
        on = objectives.active(name, c.detach(), n.detach(), has, k)
        t = objectives.Terms(c, has, n, c_ref=c, n_ref=n)
        assert float(objectives.loss(name, t, k, on)[1].detach()) == pytest.approx(0.3)


def test_lambda_is_bounded_and_eq_2_needs_its_tripwire():
    with pytest.raises(InterplayError, match=r"lambda is 1\.2; hardneg_paper"):
        settings(objective="hardneg_paper", clip=1.2)
    assert settings(objective="hardneg_sample", clip=1.3).clip == 1.3
    with pytest.raises(InterplayError, match="lambda"):
        settings(objective="hardneg_sample", clip=1.4)
    with pytest.raises(InterplayError, match="no lower bound"):
        settings(objective="softneg_raw", tripwire=False)
    with pytest.raises(InterplayError, match="objective is one of"):
        settings(objective="soft")


def test_constants_scale_with_the_models_own_errors():
    gaps = torch.tensor([0.1, 0.2, 0.3, 0.6])
    one, ten = objectives.calibrated(gaps, gaps), objectives.calibrated(10 * gaps, 10 * gaps)
    assert ten.margin == pytest.approx(10 * one.margin) and ten.beta == pytest.approx(one.beta / 10)
    assert one.margin == pytest.approx(float(gaps.mean() + gaps.std()))
    with pytest.raises(InterplayError, match="do not differ"):
        objectives.calibrated(torch.zeros(4), gaps)


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_errors_are_those_of_what_the_model_predicts(kind):
    """From an estimate of x0 to the error of eps, v and velocity, by their definitions."""
    g = torch.Generator().manual_seed(0)
    x0, eps, wrong = (torch.randn(3, 4, 5, 5, generator=g, dtype=torch.float64) for _ in range(3))
    s = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64)
    n = 1 - s if kind == "flow" else (1 - s**2).sqrt()
    levels = Levels.of(kind, s, s, n)
    x, a, b = levels.signal * x0 + levels.noise * eps, levels.signal, levels.noise
    if kind == "eps":
        estimate, target = (x - b * wrong) / a, eps
    elif kind == "v":
        estimate, target = a * x - b * wrong, a * eps - b * x0
    else:
        estimate, target = x - b * wrong, eps - x0
    want = (wrong - target).square().mean((1, 2, 3))
    torch.testing.assert_close(errors(estimate.float(), x0.float(), levels).double(), want, rtol=1e-3, atol=1e-5)


# --- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look_first", [True, False])
def test_only_active_negatives_have_a_gradient_and_it_is_the_right_one(world: World, look_first: bool):
    """The loss built row by row with everything recorded, by finite differences along the gradient."""
    s, data = settings(objective="contrast_hinge", look_first=look_first), world.material()
    with torch.no_grad():
        for p in world.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
        batch = contrast.make_batch(world, data, s, "train", 0, range(8))
        plain, _ = contrast.terms(world, batch, s, constants(), 0, torch.Tensor.mean)
    gaps = (plain.n - plain.c).sort().values
    k = constants(margin=float(gaps[3] + gaps[4]) / 2)
    found = contrast.step_losses(world, data, s, k, 0, range(8))
    assert 0 < float(found.figures["active"]) < 1
    grads = torch.autograd.grad(found.loss, world.parameters())
    size, width = torch.stack([g.square().sum() for g in grads]).sum().sqrt(), 1e-3
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, g in zip(world.parameters(), grads, strict=True):
                p.add_(sign * width * g / size)
        values.append(float(contrast.step_losses(world, data, s, k, 0, range(8)).loss.detach()))
        with torch.no_grad():
            for p, g in zip(world.parameters(), grads, strict=True):
                p.sub_(sign * width * g / size)
    assert (values[0] - values[1]) / (2 * width) == pytest.approx(float(size), rel=0.05)


def test_looking_first_and_not_looking_make_the_same_step(world: World):
    data, k = world.material(), constants(margin=0.3)
    with torch.no_grad():
        for p in world.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    for name in ("contrast_hinge", "hardneg_sample", "hardneg_paper"):
        grads = []
        for look in (True, False):
            s = settings(objective=name, look_first=look)
            grads.append(
                torch.autograd.grad(contrast.step_losses(world, data, s, k, 0, range(8)).loss, world.parameters())
            )
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_where_and_when_negatives_count(world: World):
    """Above a noise level, in the first share of the run: elsewhere a step is the right caption and the anchor."""
    data, k = world.material(), constants(margin=0.3)
    with torch.no_grad():
        for p in world.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    s = settings(steps=10, contrast_from=0.5, contrast_until=0.4)
    batch = contrast.make_batch(world, data, s, "train", 3, range(8))
    assert batch.has.tolist() == [u >= 0.5 for u in batch.levels.name.tolist()] and 0 < int(batch.has.sum()) < 8

    def errors_of(number: int) -> dict[str, torch.Tensor]:
        b = contrast.make_batch(world, data, s, "train", number, range(8))
        texts = {"c": b.captions, "n": b.negatives, "u": [""] * 8}
        found = {name: errors(value, b.clean, b.levels) for name, value in contrast.predict(world, b, texts).items()}
        with torch.no_grad(), world.adapter_off():
            still = contrast.predict(world, b, {"u": [""] * 8})["u"]
        moved = contrast.predict(world, b, {"u": [""] * 8})["u"]
        return {**found, "anchor": errors(moved, still, b.levels), "has": b.has}

    for number in (3, 4):
        e = errors_of(number)
        hinge = torch.relu(0.3 - (e["n"] - e["c"])) * e["has"] * (number < 4)
        got = contrast.step_losses(world, data, s, k, number, range(8))
        assert float(got.loss) == pytest.approx(float((e["c"] + hinge + e["anchor"]).mean()), rel=1e-4)
        assert ("L_n" in got.figures) == (number < 4)


def test_at_low_noise_a_model_can_be_held_to_itself(world: World):
    """Held rows follow the frozen prediction, whatever the picture; the others learn as ever. A plain rewrite."""
    data, k = world.material(), constants(margin=0.3, kappa=2.0)
    with torch.no_grad():
        for p in world.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    s = settings(hold_below=0.5, tripwire=False)
    batch = contrast.make_batch(world, data, s, "train", 3, range(8))
    assert batch.held.tolist() == [float(u) < 0.5 for u in batch.levels.name] and 0 < batch.held.sum() < 8
    assert not (batch.has & batch.held).any() and (batch.has & ~batch.held).any()
    texts = {"c": batch.captions, "n": batch.negatives, "u": [""] * 8}
    own = contrast.predict(world, batch, texts)
    with torch.no_grad(), world.adapter_off():
        frozen = contrast.predict(world, batch, texts)

    def far(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).square().flatten(1).mean(1) * batch.levels.weight(s.space)

    c, n, anchor = far(own["c"], batch.clean), far(own["n"], batch.clean), 2.0 * far(own["u"], frozen["u"])
    learned = c + torch.relu(0.3 - (n - c)) * batch.has
    want = torch.where(batch.held, far(own["c"], frozen["c"]), learned) + anchor
    got = contrast.step_losses(world, data, s, k, 3, range(8)).loss.detach()
    assert float(got) == pytest.approx(float(want.mean().detach()), rel=1e-4)
    with pytest.raises(InterplayError, match=r"hold_below is 0\.9"):
        settings(hold_below=0.9)


def test_weights_of_the_error_and_of_the_contrast(world: World):
    """min(SNR, gamma)^power / SNR on the error of the noise; the contrast as an error of the clean picture."""
    data, k = world.material(), constants(margin=0.3)
    s = settings(min_snr=5.0, snr_power=0.5, contrast_space="clean", lean=0.5, tripwire=False)
    batch = contrast.make_batch(world, data, s, "train", 1, range(8))
    even = contrast.make_batch(world, data, settings(), "train", 1, range(8)).levels.name
    torch.testing.assert_close(batch.levels.name, 0.1 + 0.8 * ((even - 0.1) / 0.8).sqrt())
    a, noise = batch.levels.signal.flatten(), batch.levels.noise.flatten()
    snr = (a / noise) ** 2
    raw = {
        name: (value - batch.clean).square().flatten(1).mean(1)
        for name, value in contrast.predict(world, batch, {"c": batch.captions, "n": batch.negatives}).items()
    }
    l_c = raw["c"] * snr * snr.clamp(max=5).sqrt() / snr
    want = l_c + torch.relu(0.3 - (raw["n"] - raw["c"]))  # the LoRA is new, so the anchor is 0
    got = contrast.step_losses(world, data, s, k, 1, range(8))
    assert float(got.loss) == pytest.approx(float(want.mean()), rel=1e-4)
    found = contrast.calibrate(world, data, s)
    b = contrast.make_batch(world, data, s, "calibrate", 0, range(8))
    first = contrast.predict(world, b, {"c": b.captions, "n": b.negatives})
    gaps = [(v - b.clean).square().flatten(1).mean(1) for v in (first["n"], first["c"])]
    one = contrast.calibrate(world, data, replace(s, calibrate=8))
    assert one.mean == pytest.approx(float((gaps[0] - gaps[1]).mean()), rel=1e-3) and found.spread > 0


def test_a_lead_beyond_the_margin_is_worth_no_more_and_a_smaller_error_is(world: World, tmp_path: Path):
    run(world, tmp_path, steps=2)
    job = trainer.Job(world, world.lora, world.material())
    made = trainer.Run(tmp_path / "b", {}, world.parameters(), 1e-3, 1.0, 0, 0.0, False)
    made.state.notes["constants"] = {**vars(constants(margin=0.1, spread=0.1)), "rho": 0.5, "clip": 1.0}
    one = trainer._Trainer(job, settings(), made, *world.material().split(0.1, 32, 0))
    first = {"step": 0, "wins": 0.5, "margin": 0.2, "held_out_L_c": 0.2}
    made.state.notes["validations"] = [first]
    much, more = ({**first, "margin": margin} for margin in (1.0, 9.0))
    assert one.worth(first) < one.worth(much) == one.worth(more) < one.worth({**much, "held_out_L_c": 0.19})


@pytest.mark.parametrize(("ratio", "negatives"), [(1.02, True), (1.04, False)])
def test_negatives_rest_while_the_model_strays(world: World, tmp_path: Path, ratio: float, negatives: bool):
    job, s = trainer.Job(world, world.lora, world.material()), settings(contrast_rest=1.03, watch_every=100)
    made = trainer.Run(tmp_path / "b", {}, world.parameters(), 1e-3, 1.0, 0, 0.0, False)
    made.state.notes |= {"constants": vars(constants(margin=9.0)), "tripwire": {"c": ratio, "c_ref": 1.0}}
    one = trainer._Trainer(job, s, made, *world.material().split(0.1, 32, 0))
    one.step()
    line = json.loads((tmp_path / "b/metrics.jsonl").read_text().splitlines()[-1])
    assert ("L_n" in line) == negatives
    with pytest.raises(InterplayError, match=r"contrast_rest is 0\.9"):
        settings(contrast_rest=0.9)


def test_what_is_drawn_is_read_by_the_frozen_model(world: World, tmp_path: Path):
    """Against a plain rewrite; and the share is in the validations and decides which step is kept."""
    with torch.no_grad():
        for p in world.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    captions = [world.caption(pair) for pair in world.pairs[:6]]
    negatives = [[world.caption(pair[::-1]), world.caption(("bus", "car"))] for pair in world.pairs[:6]]
    got = drawing.drawn_apart(world, captions, negatives, 5, 0.3, 0.9, 4)
    made = drawing.draw_latents(world, captions, 5)
    right = 0
    for i in range(6):
        noise = torch.randn(world.shape, generator=torch.Generator().manual_seed(refl_model.seed_of("apart", 5, i)))
        totals = []
        for text in (captions[i], *negatives[i]):
            total = 0.0
            for u in (0.3, 0.5, 0.7, 0.9):
                at = world.levels(torch.tensor([u]))
                with torch.no_grad(), world.adapter_off():
                    said = world.denoise(at.signal * made[i] + at.noise * noise, at, world.condition([text]))
                total += float(((said - made[i]) ** 2).mean() * at.signal.flatten() / at.noise.flatten())
            totals.append(total)
        right += totals[0] < min(totals[1:])
    assert got == right / 6 and got > 0
    fresh = trainer.Job(world, world.lora, world.material(), checked=4)
    found = trainer.train(fresh, settings(held_out=0.3, tripwire=False), tmp_path)
    assert [v["step"] for v in found.validations] == [0, 2, 4]
    assert all("margin" in v and v["drawn"] in (0, 0.25, 0.5, 0.75, 1) for v in found.validations)


def test_anchor_and_tripwire_cost_nothing_on_the_steps_between(world: World):
    """Rows that the network sees: captions and negatives; every fourth step the empty caption and the frozen two."""
    data, k = world.material(), constants()
    seen: list[int] = []
    hook = world.net.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    s = settings(anchor_every=4, watch_every=4, look_first=False)
    for number, want in ((0, 8 * 5), (1, 8 * 2), (3, 8 * 2), (4, 8 * 5)):
        seen.clear()
        figures = contrast.step_losses(world, data, s, k, number, range(8)).figures
        assert sum(seen) == want and ("anchor" in figures) == ("L_c_ref" in figures) == (want == 40)
    seen.clear()
    contrast.step_losses(world, data, settings(objective="softneg_raw", watch_every=4), k, 1, range(8))
    hook.remove()
    assert sum(seen) == 8 * 4  # eq. 2 is watched at every step


def test_a_rare_anchor_weighs_as_many_times_as_much(world: World):
    data, k = world.material(), constants()
    with torch.no_grad():
        for p in world.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    often, rare = (contrast.step_losses(world, data, settings(anchor_every=n), k, 0, range(8)) for n in (1, 3))
    assert float(often.figures["anchor"]) > 0
    assert float(rare.figures["anchor"]) == pytest.approx(3 * float(often.figures["anchor"]), rel=1e-4)
    more = float(rare.loss.detach() - often.loss.detach())
    assert more == pytest.approx(2 * float(often.figures["anchor"]), rel=1e-3)


def test_a_step_depends_on_nothing_but_seed_step_and_row(world: World):
    data, s = world.material(), settings()
    whole = contrast.make_batch(world, data, s, "train", 3, range(8))
    torch.manual_seed(99)
    part = contrast.make_batch(world, data, s, "train", 3, [5])
    assert part.captions == whole.captions[5:6] and torch.equal(part.noise[0], whole.noise[5])
    assert not torch.equal(whole.noise, contrast.make_batch(world, data, s, "train", 4, range(8)).noise)
    first = [c for n in range(30) for c in contrast.make_batch(world, data, s, "train", n, range(8)).captions]
    assert sorted(first) == sorted(r.caption for r in data.records)  # once through, everything once


def test_what_is_held_out_is_never_trained_on(world: World):
    training, apart = world.material().split(0.2, 100, 0)
    assert apart.records and not {r.caption for r in training.records} & {r.caption for r in apart.records}
    assert len(training.records) == len(training.latents)


def test_equation_2_runs_away_and_the_tripwire_brings_it_back(world: World, tmp_path: Path):
    data = {"objective": "softneg_raw", "steps": 2000, "rate": 1e-3, "validate_every": 10**6, "save_every": 10}
    with pytest.raises(trainer.Tripped, match=r"stopped at step (\d+) of 2000, because the error .* times the frozen"):
        run(world, tmp_path, **data)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    stopped = rows[-1]["stopped_at"]
    assert stopped < 100  # 5 % of the run
    kept = lora.load(tmp_path / "lora.safetensors")
    world.lora.take(kept)
    k = constants()
    found = contrast.step_losses(world, world.material(), settings(batch=64), k, 1, range(64)).figures
    assert float(found["L_u"]) < 1.3 * float(found["L_u_ref"])  # inside the limits again, on pictures of another draw
    assert float(found["L_c"]) < 1.15 * float(found["L_c_ref"])


@pytest.mark.parametrize(("term", "limit"), [("u", 1.3), ("c", 1.15)])
def test_the_tripwire_stands_where_it_is_said_to(term: str, limit: float):
    batch = {"c": 1.0, "c_ref": 1.0, "u": 1.0, "u_ref": 1.0}
    assert Tripwire({}).see({**batch, term: limit - 0.01}) == ""
    assert f"L_{term}" in Tripwire({}).see({**batch, term: limit + 0.01})


def test_how_far_the_model_may_stray_can_be_chosen(world: World, tmp_path: Path):
    batch = {"u": 1.0, "u_ref": 1.0, "c": 1.29, "c_ref": 1.0}
    assert Tripwire({}, 1.3).see(batch) == "" and "1.3 is the limit" in Tripwire({}, 1.3).see({**batch, "c": 1.31})
    assert "L_u" in Tripwire({}, 1.9).see({**batch, "u": 1.31})
    wires = [Tripwire({"c": 1.12, "c_ref": 1.0}, stray) for stray in (1.15, 1.3)]
    assert [wire.healthy for wire in wires] == [False, True]
    job = trainer.Job(world, world.lora, world.material())
    made = trainer.Run(tmp_path, {}, world.parameters(), 1e-3, 1.0, 0, 0.0, False)
    made.state.notes |= {"constants": vars(constants()), "tripwire": {"c": 1.25, "c_ref": 1.0}}
    made.save()
    figures = {"L_c": 1.25, "L_c_ref": 1.0}
    parts = world.material().split(0.1, 32, 0)
    trainer._Trainer(job, settings(stray=1.3), made, *parts).watch(figures)
    with pytest.raises(trainer.Tripped, match=r"1\.25 times the frozen model's, and 1\.15 is the limit"):
        trainer._Trainer(job, settings(), made, *parts).watch(figures)
    for wrong in (1.0, 2.1):
        with pytest.raises(InterplayError, match="stray is"):
            settings(stray=wrong)


def test_the_tripwire_names_the_term_and_lets_good_runs_be():
    wire = Tripwire({})
    assert all(not wire.see({"c": 0.9, "c_ref": 1.0, "u": 1.05, "u_ref": 1.0}) for _ in range(50)) and wire.healthy
    assert "L_u" in wire.see({"c": 0.9, "c_ref": 1.0, "u": float("nan"), "u_ref": 1.0})
    wire = Tripwire({})
    said = [wire.see({"c": 1.0 + 0.05 * i, "c_ref": 1.0, "u": 1.0, "u_ref": 1.0}) for i in range(20)]
    assert "(L_c) is 1.1" in next(s for s in said if s)
    assert not wire.healthy


@pytest.mark.slow
def test_the_hinge_tells_pictures_apart_where_plain_fine_tuning_does_not(trained: World, tmp_path: Path):
    scores = {}
    for name in ("noneg", "contrast_hinge"):
        trained.lora.remove()
        fresh = copy.copy(trained)
        fresh.lora = lora.inject(trained.net, 8, seed=0)
        run(fresh, tmp_path / name, objective=name, steps=500, batch=64, rate=1e-3, **SLOW_LIMIT)
        scores[name] = fresh.image_score()
    assert scores["contrast_hinge"] > scores["noneg"] + 0.1


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_that_was_ended_goes_on_bit_for_bit(world: World, trained: World, tmp_path: Path):
    run(world, tmp_path / "whole", steps=6, ema=0.9)
    whole = lora.load(tmp_path / "whole" / "lora.safetensors")
    world.lora.remove()
    again = copy.copy(trained)
    again.lora = lora.inject(trained.net, 8, seed=0)

    class Ended(BaseException):
        pass

    def end(step, steps, figures):
        if step == 3:
            raise Ended

    job = trainer.Job(again, again.lora, again.material(), report=end)
    with pytest.raises(Ended):
        trainer.train(job, settings(steps=6, ema=0.9), tmp_path / "part")
    assert (tmp_path / "part" / "lora.safetensors").is_file()  # an interrupt leaves a LoRA
    again.lora.remove()
    other = copy.copy(trained)
    other.lora = lora.inject(trained.net, 8, seed=123)  # what it starts from must not matter
    run(other, tmp_path / "part", resume=True, steps=6, ema=0.9)
    part = lora.load(tmp_path / "part" / "lora.safetensors")
    assert all(torch.equal(part[k], whole[k]) for k in whole)
    with pytest.raises(InterplayError, match=r"has rate 0\.002, not 0\.5"):
        run(other, tmp_path / "part", resume=True, steps=6, ema=0.9, rate=0.5)
    with pytest.raises(InterplayError, match="already"):
        run(other, tmp_path / "part", steps=6, ema=0.9)


def test_the_rate_rises_and_falls(world: World, tmp_path: Path):
    run(world, tmp_path, steps=8, warm=2, fade=0.5, rate=1e-3)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [r["lr"] for r in rows if "lr" in r]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4])
    with pytest.raises(InterplayError, match=r"fade is 1\.5"):
        settings(fade=1.5)


def test_small_batches_at_once_make_the_same_step(world: World):
    data, k = world.material(), constants()
    with torch.no_grad():
        for p in world.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    whole = torch.autograd.grad(contrast.step_losses(world, data, settings(), k, 0, range(8)).loss, world.parameters())
    parts = [contrast.step_losses(world, data, settings(), k, 0, range(i, i + 2)).loss / 4 for i in (0, 2, 4, 6)]
    split = torch.autograd.grad(sum(parts), world.parameters())
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_early_stop_keeps_the_best(world: World, tmp_path: Path):
    shares = iter([0.1, 0.9, 0.2, 0.2, 0.2, 0.2])
    job = trainer.Job(world, world.lora, world.material(), check=lambda: next(shares))
    outcome = trainer.train(job, settings(steps=100, validate_every=2, save_every=2, patience=2, rate=1e-6), tmp_path)
    assert outcome.kept == 2 and outcome.steps == 6 and "no better validation" in outcome.why


def test_curves_and_samples_are_drawn(world: World, tmp_path: Path):
    from PIL import Image

    job = trainer.Job(world, world.lora, world.material(), prompts=("cat left of dog",))
    trainer.train(job, settings(), tmp_path)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [f"step_{i:06d}.png" for i in (0, 2, 4)]
    with Image.open(plot(tmp_path / "metrics.jsonl", tmp_path / "again.png")) as picture:
        assert {(0x7F, 0x7F, 0x7F), (0xD6, 0x27, 0x28)} <= {c for _, c in picture.getcolors(10**6)}


WORKER = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import conftest
from training_world import World
from interplay.guidance.training import train_negatives as t, contrast
w = World(train=20)
s = contrast.ContrastSettings(objective={objective!r}, steps=2, batch=4, rate=1e-2, calibrate=8, warm=0,
                              held_out=0.0, save_every=2, validate_every=2)
out = __import__("pathlib").Path(sys.argv[1])
t.train(t.Job(w, w.lora, w.material(16)), s, out)
import os
(out / ("process " + os.environ.get("RANK", "alone"))).touch()
"""


@pytest.mark.parametrize("objective", ["contrast_hinge", pytest.param("hardneg_paper", marks=pytest.mark.slow)])
def test_two_processes_make_the_update_of_one(objective, tmp_path: Path):
    """``accelerate launch``, as it is, on two processes (--cpu would start one); the global batch is the same."""
    pytest.importorskip("accelerate")
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), objective=objective))
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, script, one], check=True, capture_output=True, timeout=300)
    subprocess.run([*LAUNCH, script, two], check=True, capture_output=True, timeout=300)
    assert {p.name for p in two.glob("process*")} == {"process 0", "process 1"}
    a, b = lora.load(one / "lora.safetensors"), lora.load(two / "lora.safetensors")
    moved = max(float(v.abs().max()) for k, v in a.items() if "lora_up" in k)
    assert moved > 1e-3
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-6)


def test_running_blocks_twice_gives_the_same_step_and_keeps_less():
    """On PixelWorld's U-Net: gradients, and the bytes that autograd holds on to."""
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
    from interplay.guidance.hosts.diffusers.training import PipelineLearner
    from interplay.guidance.training.refl_model import twice_instead_of_kept

    model = PipelineLearner(load_pixelworld(), 4)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    rows = [
        records.Record(str(i), "a red robot chasing a blue cat", ("a blue robot chasing a red cat",)) for i in (0, 1)
    ]
    data = contrast.Material(rows, torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2)))
    grads, kept = [], []
    for twice in (False, True):
        held: list[int] = []

        def keep(tensor, held=held):
            held.append(tensor.numel())
            return tensor

        with twice_instead_of_kept(model.heavy(), twice):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                found = contrast.step_losses(model, data, settings(batch=2), constants(margin=9.0), 0, [0, 1])
            kept.append(sum(held))
            grads.append(torch.autograd.grad(found.loss, model.parameters()))
    model.close()
    assert kept[1] < 0.5 * kept[0]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", lora.FORMS)
@pytest.mark.parametrize("targets", lora.TARGETS)
def test_files_of_every_form_give_the_same_change(form, targets, tmp_path: Path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, cross_attention_dim=16, attention_head_dim=2, block_out_channels=(16, 16), norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2, layers_per_block=1,
    ).requires_grad_(False)  # fmt: skip
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor(300), torch.randn(2, 5, 16)
    plain = unet(x, t, text).sample
    made = lora.inject(unet, 3, alpha=6.0, targets=targets)
    assert torch.equal(unet(x, t, text).sample, plain)  # at first it changes nothing
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape) * 0.3)
    changed = unet(x, t, text).sample
    assert float((changed - plain).abs().max()) > 1e-2
    with made.off():
        assert torch.equal(unet(x, t, text).sample, plain)
    file = lora.save(made, tmp_path / "a.safetensors", form)
    made.remove()
    assert torch.equal(unet(x, t, text).sample, plain)
    with lora.applied(unet, lora.load(file)):
        torch.testing.assert_close(unet(x, t, text).sample, changed, rtol=1e-4, atol=1e-5)
    with lora.applied(unet, lora.load(file), 0.0):
        assert torch.equal(unet(x, t, text).sample, plain)
    assert torch.equal(unet(x, t, text).sample, plain)


def test_diffusers_own_reader_takes_the_diffusers_form(tmp_path: Path):
    pytest.importorskip("peft")
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld

    pipeline = load_pixelworld()
    made = lora.inject(pipeline.unet, 4)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape) * 0.2)
    x, t, text = torch.randn(1, 4, 16, 16), torch.tensor(500), torch.randn(1, 77, 64)
    with torch.no_grad():
        want = pipeline.unet(x, t, text).sample
        file = lora.save(made, tmp_path / "a.safetensors", "diffusers")
        made.remove()
        pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
        torch.testing.assert_close(pipeline.unet(x, t, text).sample, want, rtol=1e-3, atol=1e-4)


def test_a_lora_of_another_model_is_turned_down(world: World, tmp_path: Path):
    state = world.lora.state("kohya")
    some = next(iter(state))
    for broken, said in (
        ({k: v for k, v in state.items() if k != some}, "has nothing for the layer"),
        ({**state, "lora_unet_more.lora_up.weight": torch.zeros(2, 2)}, "nothing here takes"),
        ({**state, some: torch.zeros(8, 3)}, "of another model"),
    ):
        with pytest.raises(InterplayError, match=said):
            world.lora.take(broken)
    with pytest.raises(InterplayError, match="no attention layers"):
        lora.inject(torch.nn.Linear(2, 2))


def test_a_plain_pickle_is_never_read(tmp_path: Path):
    import pickle

    file = tmp_path / "bad.safetensors"
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InterplayError, match="cannot be read"):
        lora.load(file)


# --- data -------------------------------------------------------------------------------------------------------------


def picture(path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (hash(path.name) % 255, 0, 0)).save(path)


def test_every_kind_of_data_gives_records(tmp_path: Path):
    for name in ("j/a.png", "j/images/b.png", "m/a.png", "k/3_cats/a.png", "k/1_dogs/b.png", "t/a.png", "t/b.png"):
        picture(tmp_path / name)
    line = {"image": "a.png", "caption": "a cat", "negatives": ["a dog"], "weight": 2}
    (tmp_path / "j" / "captions.jsonl").write_text(json.dumps(line) + '\n{"image": "b.png", "caption": "b"}\n')
    (tmp_path / "m" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a cat"}\n')
    (tmp_path / "k" / "3_cats" / "a.txt").write_text("a cat on\n a mat\n")
    (tmp_path / "k" / "3_cats" / "a.neg.txt").write_text("a mat on a cat\na dog\n")
    (tmp_path / "k" / "1_dogs" / "b.txt").write_text("a dog")
    table = "title\tfilepath\tneg_caption\tneg_image\na cat\tx/a.png\t['a dog', 'a cow']\t[1]\nb\tx/b.png\t[]\t[0]\n"
    (tmp_path / "t" / "train_neg_clip.tsv").write_text(table)
    found = {name: records.read_records(tmp_path / name) for name in "jmkt"}
    assert [(r.caption, r.negatives, r.weight) for r in found["j"]] == [("a cat", ("a dog",), 2.0), ("b", (), 1.0)]
    assert found["m"][0].caption == "a cat"
    both = {(r.caption, r.weight): r.negatives for r in found["k"]}
    assert both == {("a dog", 1.0): (), ("a cat on a mat", 3.0): ("a mat on a cat", "a dog")}
    assert found["t"][0].negatives == ("a dog", "a cow") and found["t"][0].neg_images[0].endswith("b.png")
    again = records.read_records(records.write_records(found["j"], tmp_path / "j" / "out.jsonl"))
    assert again == found["j"]


def test_the_command_trains_goes_on_and_writes_for_both_readers(tmp_path: Path, capsys):
    """On PixelWorld, two steps; its files are read by our reader in either form and change the pictures alike."""
    from interplay.cli import main
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld

    options = ["train", "negatives-lora", "--out", str(tmp_path), "--scenes", "6", "--batch", "2", "--calibrate", "4"]
    options += ["--held-out", "0", "--diffusers", "--seed", "3"]
    assert main([*options, "--steps", "2"]) == 0
    assert "holds the LoRA of step 2 of 2" in capsys.readouterr().out
    assert main([*options, "--steps", "3"]) == 2 and main([*options, "--steps", "3", "--resume"]) == 0
    unet = load_pixelworld().unet
    x, t, text = torch.randn(1, 4, 16, 16), torch.tensor(500), torch.randn(1, 77, 64)
    said = []
    for name in ("lora.safetensors", "lora_diffusers.safetensors"):
        with torch.no_grad(), lora.applied(unet, lora.load(tmp_path / name)):
            said.append(unet(x, t, text).sample)
    torch.testing.assert_close(*said, rtol=1e-4, atol=1e-5)
    assert float((said[0] - unet(x, t, text).sample).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Line 1 .* is not JSON"),
        ('{"image": "a.png"}', "needs an image .* and a caption"),
        ('{"image": "none.png", "caption": "x"}', "'none.png' is missing"),
        ('{"image": "a.png", "caption": "x", "weight": 0}', "above 0"),
        ('{"image": "a.png", "caption": "x", "negatives": [1]}', "list of texts"),
        ("[]", "has to be an object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text, said):
    picture(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_text(text + "\n")
    with pytest.raises(InterplayError, match=said):
        records.read_records(tmp_path)


def test_pictures_are_encoded_once_and_changed_ones_again(tmp_path: Path):
    from interplay.guidance.training.latents import encoded
    from PIL import Image

    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    rows = [records.Record(str(tmp_path / name), name) for name in ("a.png", "b.png")]
    seen = []

    def encode(pictures):
        seen.append(len(pictures))
        return torch.stack([torch.tensor([float(p.getpixel((0, 0))[0])]) for p in pictures])

    first = encoded(rows, encode, "key", tmp_path / "cache")
    assert torch.equal(encoded(rows[::-1], encode, "key", tmp_path / "cache"), first.flip(0)) and sum(seen) <= 2
    Image.new("RGB", (8, 8), (255, 255, 255)).save(tmp_path / "a.png")
    before = sum(seen)
    assert float(encoded(rows, encode, "key", tmp_path / "cache")[0]) == 255.0 and sum(seen) == before + 1


def test_the_workflow_and_the_command_train_alike():
    """The preset of PixelWorld is what the workflow's node is set to."""
    from interplay.guidance.training.negatives_lora_command import PRESETS

    file = Path(__file__).parents[1] / "workflows" / "api" / "negative_lora_pixelworld.json"
    nodes = json.loads(file.read_text(encoding="utf-8")).values()
    found = next(n["inputs"] for n in nodes if n["class_type"] == "Interplay_NegativeLoRATrainer")
    names = {"rate": "learning_rate", "eta": "contrast", "anchor_every": "look_every", "watch_every": "look_every"}
    names |= {"k": "margin_k"}
    preset = PRESETS["pixelworld"]
    apart = {key for key in preset if found.get(names.get(key, key)) != preset[key]}
    assert apart == {"calibrate"}  # the node has no widget for it


# --- the training ground ----------------------------------------------------------------------------------------------


def test_nothing_held_out_is_shown_said_or_denied():
    from interplay.guidance.pixelworld import world as w
    from interplay.guidance.training.pixelworld import pixelworld_records, says_held_out

    assert all(
        says_held_out(p) for name in ("actions held out", "two objects held out") for p in w.PROMPT_SETS[name](20)
    )
    made, scenes = pixelworld_records(40, 3)
    assert not any(w.held_out().hits(scene) for scene in scenes)
    for record, scene in zip(made, scenes, strict=True):
        asked = w.request(record.caption)
        assert [(t.object, t.colour) for t in asked.things] == [(t.object, t.colour) for t in scene.things]  # careful
        assert record.negatives and not any(says_held_out(t) for t in (record.caption, *record.negatives))
        assert all(w.request(n) != asked for n in record.negatives)


def test_the_wording_and_the_negative_of_a_draw_have_nothing_to_do_with_each_other(world: World):
    data = world.material(8)
    made = [replace(r, negatives=("first", "second"), positives=("other words",)) for r in data.records]
    data = contrast.Material(made, data.latents)
    seen = set()
    for step in range(12):
        batch = contrast.make_batch(world, data, settings(), "train", step, range(8))
        seen |= {(c == "other words", n) for c, n in zip(batch.captions, batch.negatives, strict=True)}
    assert seen == {(said, n) for said in (True, False) for n in ("first", "second")}
