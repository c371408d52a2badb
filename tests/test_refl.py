"""The ReFL step and its run: gradients, signs, noise levels, resuming, stopping."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.training import refl, refl_state
from interplay.guidance.training.refl import ReflJob, ReflSettings, Step, refl_losses, reward_loss, train_refl
from interplay.guidance.training.refl_model import (
    Rung,
    conditions,
    crop,
    descend,
    noise_like,
    noise_of,
    stacked,
    walk,
)
from interplay.guidance.training.refl_state import Stopped
from interplay.guidance.training.refl_watch import Watch
from refl_cases import TinyTrainee, Wanted
from torch import Tensor

PROMPTS = ("red", "blue", "green")
SMALL = ReflSettings(
    steps=6, batch=3, ladder=8, first=2, last=5, rate=3e-2, weight=1.0, save_every=100, validate_every=2, eta=0.5
)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def woken() -> TinyTrainee:
    """A model whose LoRA is already under way, so that both of its matrices have a gradient."""
    model = TinyTrainee()
    with torch.no_grad():
        model.up.normal_(generator=torch.Generator().manual_seed(5)).mul_(0.3)
    return model


# --- the step ---------------------------------------------------------------------------------------------------------


def reference_rewards(model: TinyTrainee, settings: ReflSettings, number: int, fixed: dict[int, Tensor]) -> Tensor:
    """The loss of a step, rewritten plainly: a network call sees the x that ``fixed`` has for its rung, or sets it."""
    step, rows = Step(settings, number), range(settings.batch)
    texts, stop, rungs = step.prompts(PROMPTS, rows), step.stop(), model.ladder(settings.ladder)
    condition, empty = model.condition(texts), model.condition([""] * len(texts))

    def eps(i: int, x: Tensor) -> Tensor:
        x = fixed.setdefault(i, x.detach().clone())
        said = model.eps(x, rungs[i].name, condition)
        if settings.cfg == 1:
            return said
        without = model.eps(x, rungs[i].name, empty)
        return without + settings.cfg * (said - without)

    frozen = [p.detach().clone() for p in model.parameters()]
    x = noise_like(model, step.names("start", rows)) * rungs[0].noise
    for i in range(stop):
        e = eps(i, x)
        if i not in step.carried(stop):
            e = fixed.setdefault(100 + i, e.detach().clone())
        a, b = rungs[i], rungs[i + 1]
        clean = (x - a.noise * e) / a.signal
        sigma = settings.eta * b.noise / a.noise * max(0.0, 1 - (a.signal / b.signal) ** 2) ** 0.5
        fresh = noise_like(model, step.names("fresh", rows, i))
        x = b.signal * clean + (b.noise**2 - sigma**2) ** 0.5 * e + sigma * fresh
    clean = (x - rungs[stop].noise * eps(stop, x)) / rungs[stop].signal
    del frozen
    rewards = Wanted()(model.decode(clean), texts)
    return torch.relu(1.0 - rewards).mean()


@pytest.mark.parametrize(("carry", "cfg"), [(0, 1.0), (0, 3.0), (2, 1.0), (3, 2.0)])
def test_gradient_of_a_step_is_that_of_the_reward_through_the_calls_that_carry_it(carry, cfg):
    model = woken()
    settings = ReflSettings(**{**vars(SMALL), "carry": carry, "cfg": cfg, "pretrain": "none"})
    losses = refl_losses(model, Wanted(), PROMPTS, settings, 3)
    found = torch.autograd.grad(losses["loss"], model.parameters())
    fixed: dict[int, Tensor] = {}
    with torch.no_grad():
        assert float(reference_rewards(model, settings, 3, fixed)) == pytest.approx(
            float(losses["loss"].detach()), abs=1e-9
        )
        for parameter, gradient in zip(model.parameters(), found, strict=True):
            assert gradient.abs().max() > 1e-4
            for place in range(parameter.numel()):
                values = []
                for sign in (1, -1):
                    parameter.view(-1)[place] += sign * 1e-5
                    values.append(float(reference_rewards(model, settings, 3, dict(fixed))))
                    parameter.view(-1)[place] -= sign * 1e-5
                assert float(gradient.view(-1)[place]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-7)


def test_only_the_last_call_is_recorded_unless_others_carry():
    for carry in (0, 2):
        model = TinyTrainee()
        settings = ReflSettings(**{**vars(SMALL), "carry": carry, "pretrain": "none"})
        stop = Step(settings, 1).stop()
        refl_losses(model, Wanted(), PROMPTS, settings, 1)
        assert [grad for _, grad in model.calls].count(True) == carry + 1
        assert len(model.calls) == stop + 1 and model.calls[-1][1]


def test_literal_form_lowers_the_reward_and_margin_form_raises_it():
    before, after = {}, {}
    for form in refl.FORMS:
        model = TinyTrainee()
        settings = ReflSettings(**{**vars(SMALL), "form": form, "pretrain": "none", "eta": 0.0})
        optimiser = torch.optim.AdamW(model.parameters(), 0.05)
        for number in range(40):
            optimiser.zero_grad()
            losses = refl_losses(model, Wanted(), PROMPTS, settings, number)
            losses["loss"].backward()
            optimiser.step()
        rows = []
        for lora in (False, True):
            model.on = lora
            with torch.no_grad():
                rows.append(float(refl_losses(model, Wanted(), PROMPTS, settings, 999)["reward"]))
        before[form], after[form] = rows
    assert before["margin"] == before["literal"]
    assert after["margin"] > before["margin"] + 0.02
    assert after["literal"] < before["literal"] - 0.02


def test_reward_loss_is_the_hinge():
    rewards = torch.tensor([-1.0, 0.5, 2.0])
    assert float(reward_loss(rewards, "margin", 1.0, 3.0)) == pytest.approx(3 * (2 + 0.5 + 0) / 3)
    assert float(reward_loss(rewards, "literal", 1.0, 3.0)) == pytest.approx(3 * (0 + 0.5 + 2) / 3)


@pytest.mark.parametrize("kind", ["anchor", "images"])
def test_pretraining_term(kind):
    model = woken()
    examples = refl.Examples(torch.randn(4, *model.shape), ["red", "blue", "green", "red"])
    settings = ReflSettings(**{**vars(SMALL), "pretrain": kind, "pretrain_weight": 0.7})
    losses = refl_losses(model, Wanted(), PROMPTS, settings, 0, examples=examples)
    losses = {name: value.detach() for name, value in losses.items()}
    assert float(losses["loss"]) == pytest.approx(float(losses["reward_loss"] + 0.7 * losses["pretrain"]))
    asleep = TinyTrainee()
    term = refl_losses(asleep, Wanted(), PROMPTS, settings, 0, examples=examples)["pretrain"]
    assert (float(term) == 0.0) == (kind == "anchor")  # a LoRA that does nothing is at its anchor
    if kind == "anchor":
        assert float(losses["pretrain"]) > 1e-4


def test_images_are_asked_for():
    settings = ReflSettings(**{**vars(SMALL), "pretrain": "images"})
    with pytest.raises(InterplayError, match="needs pictures with captions"):
        refl_losses(TinyTrainee(), Wanted(), PROMPTS, settings, 0)


def test_running_blocks_twice_changes_no_gradient():
    gradients = []
    for checkpoint in (False, True):
        model = woken()
        settings = ReflSettings(**{**vars(SMALL), "checkpoint": checkpoint})
        loss = refl_losses(model, Wanted(), PROMPTS, settings, 2)["loss"]
        gradients.append(torch.autograd.grad(loss, model.parameters()))
        assert "forward" not in vars(model.block)
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_rows_of_a_batch_do_not_depend_on_each_other():
    model, settings = woken(), ReflSettings(**{**vars(SMALL), "carry": 1})
    whole = refl_losses(model, Wanted(), PROMPTS, settings, 4)["loss"]
    parts = [refl_losses(model, Wanted(), PROMPTS, settings, 4, [row])["loss"] for row in range(3)]
    assert float(whole) == pytest.approx(float(sum(parts)) / 3, abs=1e-12)


def test_every_prompt_is_met_once_a_pass():
    settings = ReflSettings(batch=2, ladder=40)
    met = [text for number in range(3) for text in Step(settings, number).prompts(PROMPTS, range(2))]
    assert sorted(met[:3]) == sorted(met[3:]) == sorted(PROMPTS)


def test_read_steps_cover_the_range():
    stops = {Step(ReflSettings(ladder=10, first=3, last=6), n).stop() for n in range(200)}
    assert stops == {3, 4, 5, 6}


# --- the walk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_steps_are_those_of_diffusers_ddim(eta):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False
    )
    scheduler.set_timesteps(10)
    x, eps, fresh = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    for t, following in zip(scheduler.timesteps[:-1], scheduler.timesteps[1:], strict=True):
        here, there = (
            Rung(float(k), float(a) ** 0.5, (1 - float(a)) ** 0.5)
            for k in (t, following)
            for a in [scheduler.alphas_cumprod[k]]
        )
        wanted = scheduler.step(eps, t, x, eta=eta, variance_noise=fresh if eta else None)
        clean = (x - here.noise * eps) / here.signal
        assert torch.allclose(clean, wanted.pred_original_sample, atol=1e-5)
        assert torch.allclose(descend(x, clean, here, there, eta, fresh), wanted.prev_sample, atol=1e-5)


def test_the_same_walk_in_sigma_scale():
    """A host that keeps x0 + sigma * eps (ComfyUI) ends at the same picture as one that keeps variance."""
    model = woken()
    said, noise = conditions(model, ["red", "blue"], 1.0), torch.randn(2, *model.shape)
    rungs = model.ladder(6)

    class Sigma(TinyTrainee):
        def denoise(self, x: Tensor, rung: Rung, condition: Tensor) -> Tensor:
            signal = 1 / (1 + rung.noise**2) ** 0.5
            return x - rung.noise * model.eps(x * signal, rung.name, condition)

    sigmas = [Rung(r.name, 1.0, r.noise / r.signal) for r in rungs]
    start = noise * rungs[0].noise
    fresh = [torch.randn(2, *model.shape) for _ in range(6)]
    plain = walk(model, said, rungs, 5, noise, 0.8, lambda i: fresh[i])
    other = walk(Sigma(), said, sigmas, 5, start / rungs[0].signal / sigmas[0].noise, 0.8, lambda i: fresh[i])
    assert torch.allclose(plain, other, atol=1e-9)


def test_a_level_for_each_row():
    model, x = woken(), torch.randn(2, 2, 4, 4)
    rungs, said = [model.rung(100), model.rung(700)], model.condition(["red", "blue"])
    both = noise_of(x, model.denoise(x, stacked(rungs), said), stacked(rungs))
    for row, rung in enumerate(rungs):
        one = noise_of(x[row : row + 1], model.denoise(x[row : row + 1], rung, said[row : row + 1]), rung)
        assert torch.allclose(both[row : row + 1], one, atol=1e-6)  # stacked levels are single precision


def test_crop_is_a_part_that_its_name_fixes():
    latents = torch.arange(2 * 3 * 6 * 8.0).view(2, 3, 6, 8)
    part = crop(latents, 4, ("a", 1))
    assert part.shape == (2, 3, 4, 4) and torch.equal(part, crop(latents, 4, ("a", 1)))
    offset = int(part[0, 0, 0, 0])
    top, left = divmod(offset, 8)
    assert torch.equal(part, latents[..., top : top + 4, left : left + 4])
    assert len({int(crop(latents, 4, ("a", n))[0, 0, 0, 0]) for n in range(60)}) == 15
    assert crop(latents, None, ()) is latents


# --- the run ----------------------------------------------------------------------------------------------------------


def train(out: Path, settings: ReflSettings = SMALL, resume: bool = False, watch=None, report=None, reward=None):
    model = TinyTrainee()
    outcome = train_refl(ReflJob(model, reward or Wanted(), PROMPTS, watch, report=report), settings, out, resume)
    return model, outcome


def test_a_run_raises_the_reward(tmp_path):
    settings = ReflSettings(**{**vars(SMALL), "steps": 30})
    watch = Watch(PROMPTS, Wanted(), "judge")
    _, outcome = train(tmp_path / "run", settings, watch=watch)
    rewards = [line["judge"] for line in outcome.validations]
    assert rewards[-1] > rewards[0] + 0.02 and outcome.kept > 0


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_interrupted_run_goes_on_to_the_last_bit(tmp_path, ema):
    settings = ReflSettings(**{**vars(SMALL), "ema": ema})
    watch = Watch(PROMPTS, Wanted(), "judge", Wanted(), "second")
    whole, outcome = train(tmp_path / "whole", settings, watch=watch)

    def interrupt(step: int, steps: int, figures: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", settings, watch=watch, report=interrupt)
    saved = refl_state.latest(tmp_path / "parts")
    assert saved is not None and saved.name == "step_3"
    parts, again = train(tmp_path / "parts", settings, True, watch)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "parts/metrics.jsonl").read_text()
    assert again.validations == outcome.validations


def test_a_run_that_was_killed_between_checkpoints_goes_on_to_the_last_bit(tmp_path):
    settings = ReflSettings(**{**vars(SMALL), "save_every": 2})
    whole, _ = train(tmp_path / "whole", settings)

    class Killed(BaseException):
        pass

    def kill(step: int, steps: int, figures: object) -> None:
        if step == 5:
            raise Killed

    original = refl_state.Run.save
    with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(refl_state.Run, "save", lambda run: original(run) if run.state.step != 5 else None)
        train(tmp_path / "parts", settings, report=kill)
    parts, _ = train(tmp_path / "parts", settings, True)
    assert torch.equal(whole.up, parts.up) and torch.equal(whole.down, parts.down)
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "parts/metrics.jsonl").read_text()


def test_a_checkpoint_is_whole_or_not_there(tmp_path):
    settings = ReflSettings(**{**vars(SMALL), "save_every": 2})

    def full(state: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    def fill(step: int, steps: int, figures: object) -> None:
        if step == 4:
            patch.setattr(refl_state.torch, "save", full)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError):
        train(tmp_path / "run", settings, report=fill)
    saved = refl_state.latest(tmp_path / "run")
    assert saved is not None and saved.name == "step_2"
    train(tmp_path / "run", settings, True)


class Sick(Wanted):
    """Not a number from the fourth step on."""

    def __call__(self, pictures: Tensor, prompts: object) -> Tensor:
        found = super().__call__(pictures, prompts)
        return found * float("nan") if self.asked > 3 else found


def test_not_a_number_stops_and_keeps_what_was_good(tmp_path):
    settings = ReflSettings(**{**vars(SMALL), "save_every": 2})
    model = TinyTrainee()
    with pytest.raises(Stopped, match=r"step 4, because the loss is not finite; the LoRA of step 2 is kept"):
        train_refl(ReflJob(model, Sick(), PROMPTS), settings, tmp_path / "run")
    good, _ = train(tmp_path / "good", ReflSettings(**{**vars(SMALL), "steps": 2}))
    assert torch.equal(model.up, good.up) and bool(torch.isfinite(model.up).all())


def test_reward_hacking_is_seen_by_the_unused_reward(tmp_path):
    """The second reward dislikes what the first asks for, so it must fall when the first rises."""
    settings = ReflSettings(**{**vars(SMALL), "steps": 60, "pretrain": "none"})
    prompts = [p for p in PROMPTS for _ in range(4)]
    watch = Watch(prompts, Wanted(), "judge", lambda pictures, texts: -Wanted()(pictures, texts), "second")
    _, outcome = train(tmp_path / "run", settings, watch=watch)
    assert outcome.why.startswith("reward hacking") and outcome.steps < 60 and "'second'" in outcome.why


def test_validation_ends_the_run_and_keeps_the_best(tmp_path):
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2])
    watch = Watch(PROMPTS, lambda pictures, prompts: torch.full((len(prompts),), next(scores)), "judge")
    settings = ReflSettings(**{**vars(SMALL), "steps": 20, "patience": 2})
    model, outcome = train(tmp_path / "run", settings, watch=watch)
    assert (outcome.steps, outcome.kept) == (6, 2) and "no better 'judge' in 2 validations" in outcome.why
    best, _ = train(tmp_path / "best", ReflSettings(**{**vars(SMALL), "steps": 2}))
    assert torch.equal(model.up, best.up)


def test_the_literal_form_is_stopped_by_its_own_validation(tmp_path, caplog):
    settings = ReflSettings(**{**vars(SMALL), "steps": 60, "form": "literal", "pretrain": "none"})
    with pytest.raises(Stopped, match="equation 5 as printed"):
        train(tmp_path / "run", settings, watch=Watch(PROMPTS, Wanted(), "judge"))
    assert "lowers the reward" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    judged = [line["judge"] for line in lines if line.get("validation")]
    assert judged[-1] < judged[0] and lines[-1]["step"] < 60


def test_a_folder_holds_one_run(tmp_path):
    train(tmp_path / "run")
    with pytest.raises(InterplayError, match="There is a run in"):
        train(tmp_path / "run")
    with pytest.raises(InterplayError, match=r"has rate 0.03, not 0.01"):
        train(tmp_path / "run", ReflSettings(**{**vars(SMALL), "rate": 0.01}), True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"first": 30, "last": 50}, "do not lie on a ladder of 40"),
        ({"form": "paper"}, "one of margin, literal"),
        ({"pretrain": "kl"}, "pre-training term is one of"),
        ({"rate": 0.0}, "learning rate is 0.0"),
        ({"weight": -1.0}, "weight is -1.0"),
    ],
)
def test_settings_that_cannot_be(change, words):
    with pytest.raises(InterplayError, match=words):
        ReflSettings(**change)
