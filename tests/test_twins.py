"""ReFL on twins: what ends say, how points are drawn and kept, the losses, and a run by a reward without a gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.training.refl import ReflJob, ReflSettings, train_refl
from interplay.guidance.training.refl_model import conditions, descend, draw, guided, noise_like, seed_of
from interplay.guidance.training.refl_watch import Watch
from interplay.guidance.training.twins import (
    HOLD_MOST,
    POINTS,
    Lesson,
    Point,
    apart,
    draw_points,
    go_on,
    lessons,
    negatives_by_rule,
    paired,
    twin_losses,
)
from refl_cases import TinyTrainee, Wanted
from torch import Tensor

PROMPTS = ("red", "blue", "green")
SMALL = ReflSettings(
    steps=6, batch=3, ladder=8, first=0, last=2, cfg=2.0, eta=0.0, rate=3e-2, weight=1.0, pretrain_weight=0.5,
    save_every=100, validate_every=2, twins=3, points=7, balance=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def others(prompt: str) -> list[str]:
    """Every other prompt is a twin."""
    return [p for p in PROMPTS if p != prompt]


def blind(pictures: Tensor, prompts) -> Tensor:
    """A reward in steps: no gradient anywhere."""
    return (Wanted()(pictures, prompts).detach() * 50).round() / 50


def changed(**changes: object) -> ReflSettings:
    return ReflSettings(**{**vars(SMALL), **changes})


def drawn(out: Path, settings: ReflSettings = SMALL, model: TinyTrainee | None = None, judged="blind", tell=None):
    return draw_points(model or TinyTrainee(), blind, judged, paired(PROMPTS, others), settings, out, tell)


# --- what ends say ----------------------------------------------------------------------------------------------------


def test_ends_show_the_gradient_of_the_expected_reward():
    """For Gaussian ends, against central differences of the mean reward on the same noise."""
    generator, spread = torch.Generator().manual_seed(0), 0.6
    middle, noise = torch.tensor([0.3, -0.5]), torch.randn(400_000, 2, generator=generator)

    def reward(x: Tensor) -> Tensor:
        return torch.sin(2 * x[:, 0]) + x[:, 1] ** 3 - x[:, 0] * x[:, 1]

    ends = middle + spread * noise
    small = 1e-3
    shown = apart(ends.view(-1, 2, 1, 1), reward(ends), small).flatten() / small / spread**2
    for i in range(2):
        step = torch.zeros(2)
        step[i] = 1e-4
        wanted = (reward(ends + step).mean() - reward(ends - step).mean()) / 2e-4
        assert float(shown[i]) == pytest.approx(float(wanted), rel=0.02)


def test_what_sets_twins_apart_turns_with_the_sign():
    torch.manual_seed(3)
    ends, leads = torch.randn(6, 2, 3, 3), torch.randn(6)
    d = apart(ends, leads, 4.0)
    weights = [torch.exp(sign * 4.0 * leads) for sign in (1, -1)]
    means = [sum(w * e for w, e in zip(v / v.sum(), ends, strict=True)) for v in weights]
    assert torch.allclose(d, (means[0] - means[1]) / 2)
    assert torch.allclose(apart(ends, -leads, 4.0), -d)
    assert torch.allclose(apart(ends + 3.0, leads, 4.0), d)  # what all ends share cancels out
    assert torch.allclose(apart(ends, leads, 1e6), (ends[leads.argmax()] - ends[leads.argmin()]) / 2)


def test_a_reward_in_other_units_teaches_the_same():
    torch.manual_seed(1)
    points = [Point("red", "blue", torch.randn(2, 2, 4, 4), torch.randn(6, 2, 4, 4), torch.randn(6)) for _ in range(4)]
    loud = [Point(p.prompt, p.twin, p.walk, p.ends, 1000 * p.leads) for p in points]
    for one, other in zip(lessons(points, 5.0, 0.1), lessons(loud, 5.0, 0.1), strict=True):
        assert torch.allclose(one.apart, other.apart, atol=1e-6)


def test_points_without_both_twins_teach_nothing():
    walk, ends = torch.zeros(1, 2, 4, 4), torch.randn(4, 2, 4, 4)
    both = Point("red", "blue", walk, ends, torch.tensor([0.2, 0.9, -1.0, -0.5]))
    one = Point("red", "green", walk, ends, torch.tensor([0.6, 0.9, 1.0, 0.5]))
    found = lessons([both, one], 7.0, 0.1)
    assert [f.twin for f in found] == ["blue"] and torch.equal(found[0].clean, ends[1].float())
    assert len(lessons([both, one], 7.0, 0.0)) == 2
    with pytest.raises(InterplayError, match="of no prompt and its twin differ"):
        lessons([one], 7.0, 0.1)


def test_prompts_without_a_twin_are_left_out():
    prompts = ["a red cup and a blue box", "a cat", "a dog chasing a cat"]
    pairs = paired(prompts, negatives_by_rule)
    assert dict(pairs)[prompts[0]] == ["a blue cup and a red box"]
    assert dict(pairs)[prompts[2]] == ["a cat chasing a dog"] and len(pairs) == 2
    with pytest.raises(InterplayError, match="No prompt has a twin"):
        paired(["a cat"], negatives_by_rule)


# --- points -----------------------------------------------------------------------------------------------------------


def test_points_are_walks_and_ends_of_the_model_as_it_was(tmp_path):
    """Against the same drawn by hand, one row at a time; a LoRA that is under way changes nothing."""
    woken = TinyTrainee()
    with torch.no_grad():
        woken.up.fill_(0.7)
    points, model, settings = drawn(tmp_path, model=woken), TinyTrainee(), SMALL
    rungs, seed = model.ladder(settings.ladder), settings.seed
    assert len(points) == settings.points
    for row, point in enumerate(points):
        fork = seed_of(seed, "fork", row // settings.batch * settings.batch) % 3
        said = conditions(model, [point.prompt], settings.cfg)
        x = noise_like(model, [(seed, "point", row)]) * rungs[0].noise
        with torch.no_grad():
            for i in range(fork):
                assert torch.allclose(point.walk[i].double(), x[0], atol=1e-6)
                x = descend(x, guided(model, x, rungs[i], said), rungs[i], rungs[i + 1], 0.0, None)
            assert len(point.walk) == fork + 1 and torch.allclose(point.walk[-1].double(), x[0], atol=1e-6)
            for place, end in enumerate(point.ends):
                side, k = divmod(place, settings.twins)
                own = conditions(model, [(point.prompt, point.twin)[side]], settings.cfg)
                wanted = go_on(model, own, rungs, fork, x, settings.stride, [(seed, "end", row, side, k)])
                assert torch.allclose(end.double(), wanted[0], rtol=2e-3, atol=2e-3)
                picture = model.decode(wanted).clamp(0, 1)
                lead = blind(picture, [point.prompt]) - blind(picture, [point.twin])
                assert float(point.leads[place]) == pytest.approx(float(lead[0]), abs=1e-6)
    assert len({len(p.walk) for p in points}) > 1  # twins part at several steps
    assert {p.prompt for p in points[:3]} == set(PROMPTS)  # every prompt once a pass


def test_ends_go_down_the_ladder_and_differ_at_its_top():
    model = TinyTrainee()
    rungs, said = model.ladder(12), conditions(model, ["red"], 1.0)
    x = torch.randn(1, *model.shape)
    model.calls.clear()
    with torch.no_grad():
        go_on(model, said, rungs, 1, x, 3, [("a",)])
        met = [t for t, _ in model.calls]
        assert met == [rungs[i].name for i in (1, 2, 3, 6, 9, 11)]
        ends = [go_on(model, said, rungs, 1, x, 3, [(name,)]) for name in "ab"]
        assert not torch.allclose(*ends)
        last = [go_on(model, said, rungs, 11, x, 3, [(name,)]) for name in "ab"]
    assert torch.equal(*last) and torch.equal(last[0], guided(model, x, rungs[11], said).detach())


def test_points_are_drawn_once(tmp_path):
    told: list[int] = []
    first = drawn(tmp_path, tell=lambda done, planned, figures: told.append(done))
    assert told == [3, 6, 7]
    (tmp_path / POINTS / "000003.pt").unlink()
    model = TinyTrainee()
    again = drawn(tmp_path, model=model)
    assert len(model.calls) > 0 and all(torch.equal(a.ends, b.ends) for a, b in zip(first, again, strict=True))
    model.calls.clear()
    drawn(tmp_path, changed(steps=9, push=4.0, rate=1e-3), model)  # what training alone depends on may change
    assert not model.calls
    for settings, judged in ((changed(cfg=3.0), "blind"), (changed(seed=1), "blind"), (SMALL, "another")):
        with pytest.raises(InterplayError, match="points of other prompts or settings"):
            drawn(tmp_path, settings, judged=judged)


def test_a_reward_that_is_not_finite_is_said(tmp_path):
    def broken(pictures: Tensor, prompts) -> Tensor:
        return torch.full((len(pictures),), torch.nan)

    with pytest.raises(InterplayError, match="not finite"):
        draw_points(TinyTrainee(), broken, "broken", paired(PROMPTS, others), SMALL, tmp_path)
    assert not list((tmp_path / POINTS).iterdir())


# --- the losses -------------------------------------------------------------------------------------------------------


def woken() -> TinyTrainee:
    model = TinyTrainee()
    with torch.no_grad():
        model.up.normal_(generator=torch.Generator().manual_seed(5)).mul_(0.3)
    return model


def test_losses_against_a_plain_rewrite(tmp_path):
    learnt = lessons(drawn(tmp_path), 7.0, 0.0)
    model, settings, number = woken(), changed(push=1.5), 3
    losses = twin_losses(model, learnt, settings, number, range(3))
    rungs, errors, wanted, held = model.ladder(8), [], [], []
    for row in range(3):
        turn, place = divmod(number * 3 + row, len(learnt))
        order = torch.randperm(
            len(learnt), generator=torch.Generator().manual_seed(seed_of(0, "lessons", turn))
        ).tolist()
        one = learnt[order[place]]
        at = seed_of(0, "rung", number, row) % len(one.walk)

        def moved(x: Tensor, rung, text: str) -> Tensor:
            said = model.condition([text])
            new = model.denoise(x, rung, said)
            with model.adapter_off():
                return new - model.denoise(x, rung, said)

        x = one.walk[at : at + 1].double()
        for text, sign in ((one.prompt, 1.5), (one.twin, -1.5)):
            errors.append((moved(x, rungs[at], text) - sign * one.apart.double()).square().mean())
        wanted.append((1.5 * one.apart.double()).square().mean())
        if row % 2:
            rung = rungs[4 + seed_of(0, "quiet", number, row) % 4]
            x = rung.signal * one.clean.double() + rung.noise * noise_like(model, [(0, "hold", number, row)])
            weight = min(max((rung.signal / rung.noise) ** 2, 1.0), HOLD_MOST)
            held.append(weight * moved(x, rung, one.prompt).square().mean())
        else:
            held.append(max((rungs[at].signal / rungs[at].noise) ** 2, 1.0) * moved(x, rungs[at], "").square().mean())
    twins, held = torch.stack(errors).mean(), torch.stack(held).mean()
    assert float(losses["twins"]) == pytest.approx(float(twins.detach()), rel=1e-4)
    assert float(losses["pretrain"]) == pytest.approx(float(held.detach()), rel=1e-4)
    assert float(losses["loss"]) == pytest.approx(float((twins + 0.5 * held).detach()), rel=1e-4)
    assert float(losses["untaught"]) == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-4)
    plain = torch.autograd.grad(twins + 0.5 * held, model.parameters())
    for ours, theirs in zip(torch.autograd.grad(losses["loss"], model.parameters()), plain, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-7)
    free = twin_losses(model, learnt, changed(pretrain="none"), number, range(3))
    assert "pretrain" not in free and float(free["loss"]) != float(losses["loss"])


def test_a_lora_that_does_nothing_has_learnt_nothing(tmp_path):
    losses = twin_losses(TinyTrainee(), lessons(drawn(tmp_path), 7.0, 0.0), SMALL, 0, range(3))
    assert float(losses["twins"]) == pytest.approx(float(losses["untaught"])) and float(losses["pretrain"]) == 0.0


def test_rows_of_a_batch_do_not_depend_on_each_other(tmp_path):
    learnt, model = lessons(drawn(tmp_path), 7.0, 0.0), woken()
    whole = twin_losses(model, learnt, SMALL, 4, range(3))["loss"]
    parts = [twin_losses(model, learnt, SMALL, 4, [row])["loss"] for row in range(3)]
    assert float(whole) == pytest.approx(float(sum(parts)) / 3, rel=1e-6)


def test_only_the_difference_is_learnt():
    """Where both captions of a lesson are one, its gradients cancel."""
    one = Lesson("red", "red", torch.randn(1, 2, 4, 4), torch.randn(2, 4, 4), torch.randn(2, 4, 4))
    model, settings = woken(), changed(pretrain="none", push=1.0)
    asked = [torch.autograd.grad(twin_losses(model, [one], changed(pretrain="none", push=p), 0, [0])["loss"],
                                 model.parameters()) for p in (0.0, 50.0)]  # fmt: skip
    for calm, pushed in zip(*asked, strict=True):
        assert torch.allclose(calm, pushed, atol=1e-9)
    assert settings.push == 1.0


# --- the run ----------------------------------------------------------------------------------------------------------


def train(out: Path, settings: ReflSettings, resume: bool = False, report=None, watched: bool = True):
    model = TinyTrainee()
    reward = Wanted()
    reward.__class__ = type("Blind", (Wanted,), {"__call__": lambda self, p, t: blind(p, t)})
    watch = Watch(PROMPTS, Wanted(), "judge") if watched else None
    job = ReflJob(model, reward, PROMPTS, watch, report=report, negatives=others)
    return model, train_refl(job, settings, out, resume)


def test_a_reward_without_a_gradient_leads(tmp_path):
    """Pictures drawn from new noise, with the LoRA and without: those of a prompt are liked better, by that prompt."""
    settings = changed(steps=150, points=60, twins=6, rate=1e-2, cfg=1.0, balance=0.1, batch=6)
    model, outcome = train(tmp_path, settings, watched=False)
    assert outcome.steps == 150
    texts = [p for p in PROMPTS for _ in range(40)]
    names = [("new", i) for i in range(len(texts))]
    learnt, before = [], []
    for found, on in ((learnt, True), (before, False)):
        model.on = on
        pictures = model.decode(draw(model, texts, names, 8, 1.0)).clamp(0, 1)
        found.append(Wanted()(pictures, texts))
    gain = learnt[0] - before[0]
    assert float(gain.mean()) > 4 * float(gain.std()) / len(gain) ** 0.5


@pytest.mark.parametrize("stop", [1, 5])
def test_an_interrupted_run_goes_on_to_the_last_bit(tmp_path, stop):
    whole, outcome = train(tmp_path / "whole", SMALL)

    def interrupt(step: int, steps: int, figures: object) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", SMALL, report=interrupt)
    parts, again = train(tmp_path / "parts", SMALL, True)
    assert again == outcome
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"twins": -1}, "twins is -1"),
        ({"points": 0}, "points is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"balance": 0.5}, "balance is 0.5"),
        ({"pretrain": "images"}, "Twins are held by the anchor"),
        ({"form": "literal"}, "Twins are held by the anchor"),
    ],
)
def test_settings_that_do_not_fit(changes, words):
    with pytest.raises(InterplayError, match=words):
        changed(**changes)
