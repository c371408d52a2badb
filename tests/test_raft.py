"""RAFT: the best of several pictures, what is learned from, and runs that go on where they were ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.training import raft
from interplay.guidance.training.raft import RaftJob, RaftSettings, Winner, choose, draw_winners, raft_loss, train_raft
from interplay.guidance.training.refl_model import draw, noise_like, seed_of
from interplay.guidance.training.refl_watch import Watch
from refl_cases import TinyTrainee, Wanted

PROMPTS = ("red", "blue", "green")
SMALL = RaftSettings(
    pictures=4, draw_steps=5, draw_cfg=2.0, draw_batch=4, steps=4, batch=4, rate=3e-2, save_every=100, validate_every=2
)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_winners_are_the_best_of_their_prompts(tmp_path):
    model = TinyTrainee()
    winners = draw_winners(model, Wanted(), PROMPTS, SMALL, 0, tmp_path)
    assert [w.prompt for w in winners] == list(PROMPTS)
    for place, winner in enumerate(winners):
        names = [(SMALL.seed, "raft", 0, place, i) for i in range(4)]
        every = draw(model, [winner.prompt] * 4, names, 5, 2.0)
        rewards = Wanted()(model.decode(every).clamp(0, 1), [winner.prompt] * 4)
        assert torch.allclose(torch.tensor(winner.rewards), rewards.float().double(), atol=1e-6)
        assert torch.allclose(winner.latent.double(), every[int(rewards.argmax())], atol=1e-5)
        assert winner.reward == max(winner.rewards) > min(winner.rewards)


def test_several_winners_a_prompt_stand_in_order(tmp_path):
    model, settings = TinyTrainee(), RaftSettings(**{**vars(SMALL), "winners": 2})
    winners = draw_winners(model, Wanted(), PROMPTS, settings, 0, tmp_path)
    assert [w.prompt for w in winners] == [p for p in PROMPTS for _ in range(2)]
    for number, winner in enumerate(winners):
        names = [(SMALL.seed, "raft", 0, number // 2, i) for i in range(4)]
        every = draw(model, [winner.prompt] * 4, names, 5, 2.0)
        rewards = Wanted()(model.decode(every).clamp(0, 1), [winner.prompt] * 4)
        order = rewards.argsort(descending=True)
        assert torch.allclose(winner.latent.double(), every[int(order[number % 2])], atol=1e-5)
        assert winner.reward == pytest.approx(float(rewards[order[number % 2]]), abs=1e-6)
    lowest = min(w.reward for w in winners)
    assert len(choose(winners, RaftSettings(winners=2, keep=lowest + 1e-9))) == len(winners) - 1


def test_another_reward_chooses_between_equals(tmp_path):
    """Rewards without a difference leave the choice to the other; where they differ it has no say."""
    model, wanted = TinyTrainee(), Wanted()

    def rewards(prompt: str, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        names = [(SMALL.seed, "raft", 0, place, i) for i in range(4)]
        every = draw(model, [prompt] * 4, names, 5, 2.0)
        return every, wanted(model.decode(every).clamp(0, 1), [prompt] * 4)

    def two_classes(pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return (wanted(pictures, prompts) < middle).float()  # the worse half

    middle = torch.cat([rewards(p, place)[1] for place, p in enumerate(PROMPTS)]).median()
    found = draw_winners(model, two_classes, PROMPTS, SMALL, 0, tmp_path / "a", tie=wanted)
    for place, winner in enumerate(found):
        every, values = rewards(winner.prompt, place)
        worse = values < middle
        best = torch.where(worse, values, -torch.inf).argmax() if worse.any() else values.argmax()
        assert torch.allclose(winner.latent.double(), every[int(best)], atol=1e-5)
        assert winner.reward == float(worse.any())
    plain = draw_winners(model, two_classes, PROMPTS, SMALL, 0, tmp_path / "b")
    assert any(not torch.equal(a.latent, b.latent) for a, b in zip(found, plain, strict=True))


def test_what_was_drawn_is_not_drawn_again(tmp_path):
    score = Wanted()
    first = draw_winners(TinyTrainee(), score, PROMPTS, SMALL, 0, tmp_path)
    asked = score.asked
    (tmp_path / "winners/round_0/000001.pt").unlink()
    again = draw_winners(TinyTrainee(), score, PROMPTS, SMALL, 0, tmp_path)
    assert asked == 3 and score.asked == 4
    assert all(torch.equal(a.latent, b.latent) and a.rewards == b.rewards for a, b in zip(first, again, strict=True))
    with pytest.raises(InterplayError, match="pictures of other prompts"):
        draw_winners(TinyTrainee(), score, ("blue", "red", "green"), SMALL, 0, tmp_path)
    with pytest.raises(InterplayError, match="other prompts, rewards"):
        draw_winners(TinyTrainee(), score, PROMPTS, SMALL, 0, tmp_path, judged="itm")
    with pytest.raises(InterplayError, match="other prompts, rewards, sizes or settings"):
        draw_winners(TinyTrainee(), score, PROMPTS, RaftSettings(**{**vars(SMALL), "draw_steps": 6}), 0, tmp_path)


def test_choice():
    def winner(*rewards: float) -> Winner:
        return Winner("red", torch.zeros(1), rewards)

    winners = [winner(0.2, 0.3), winner(0.9, 0.1), winner(0.8, 0.79), winner(0.5, 0.0)]

    def found(**settings: object) -> list[float]:
        return [w.reward for w in choose(winners, RaftSettings(**settings))]

    assert found() == [0.9, 0.8, 0.5, 0.3]
    assert found(keep=0.5) == [0.9, 0.8, 0.5]
    assert found(best=0.5) == [0.9, 0.8]
    assert found(spread=0.2) == [0.9, 0.5]
    with pytest.raises(InterplayError, match=r"best reward is 0\.9"):
        found(keep=0.95)


@pytest.mark.parametrize("clean", [0.0, 0.4])
def test_loss_is_the_error_on_winners(clean):
    model = TinyTrainee()
    winners = [Winner(p, torch.randn(model.shape), (float(i),)) for i, p in enumerate(PROMPTS)]
    settings = RaftSettings(**{**vars(SMALL), "dropout": 0.5, "low": 0.2, "high": 0.9, "clean": clean})
    found = raft_loss(model, winners, settings, 7, range(4))
    total, dropped, levels, weights = 0.0, 0, [], []
    for row in range(4):
        key = (settings.seed, "raft step", 7, row)
        winner = winners[seed_of(*key, "which") % 3]
        empty = seed_of(*key, "drop") % 10_000 < 5000
        dropped += empty
        share = 0.2 + 0.7 * (seed_of(*key, "level") % 10_000 / 10_000 + row) / 4
        levels.append(share)
        rung = model.random_rung(share)
        noise = noise_like(model, [(*key, "noise")])
        x = rung.signal * winner.latent + rung.noise * noise
        eps = model.eps(x, rung.name, model.condition(["" if empty else winner.prompt]))
        ratio = rung.signal / rung.noise  # an error of the noise is an error of the clean picture over this ratio
        weights.append(min(1.0, clean * ratio**2) / ratio**2 if clean else 1.0)
        total += weights[-1] * float((eps - noise).pow(2).mean().detach()) / 4
    assert float(found.detach()) == pytest.approx(total, abs=1e-5)
    if clean:  # both sides of the bound
        assert max(weights) == pytest.approx(clean) and min(weights) < 0.5 * clean
    assert all(0.2 + 0.7 * i / 4 <= share < 0.2 + 0.7 * (i + 1) / 4 for i, share in enumerate(levels))


def train(out: Path, settings: RaftSettings = SMALL, resume: bool = False, report=None, watch=None, score=None):
    model = TinyTrainee()
    job = RaftJob(model, score or Wanted(), "wanted", PROMPTS, watch, report)
    return model, train_raft(job, settings, out, resume)


def test_learning_from_winners_makes_them_likelier(tmp_path):
    settings = RaftSettings(**{**vars(SMALL), "steps": 40, "dropout": 0.0})
    model, _ = train(tmp_path / "run", settings)
    winners = draw_winners(model, Wanted(), PROMPTS, settings, 0, tmp_path / "run", judged="wanted, none")
    with torch.no_grad():
        after = sum(float(raft_loss(model, winners, settings, n, range(4))) for n in range(100, 120))
        model.on = False
        before = sum(float(raft_loss(model, winners, settings, n, range(4))) for n in range(100, 120))
    assert after < before


@pytest.mark.parametrize("stop", [1, 5])
def test_an_interrupted_run_goes_on_to_the_last_bit(tmp_path, stop):
    settings = RaftSettings(**{**vars(SMALL), "rounds": 2})
    watch = Watch(PROMPTS, Wanted(), "judge")
    whole, outcome = train(tmp_path / "whole", settings, watch=watch)
    assert outcome.steps == 8

    def interrupt(step: int, steps: int, figures: object) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", settings, report=interrupt, watch=watch)
    score = Wanted()
    parts, again = train(tmp_path / "parts", settings, True, watch=watch, score=score)
    assert torch.equal(whole.up, parts.up) and torch.equal(whole.down, parts.down)
    assert again == outcome
    lines = [json.loads(x) for x in (tmp_path / "parts/winners/round_1.jsonl").read_text().splitlines()]
    assert [x["prompt"] for x in lines] == list(PROMPTS) and len(lines[0]["rewards"]) == 4


def test_second_round_draws_with_what_the_first_has_learned(tmp_path):
    train(tmp_path / "run", RaftSettings(**{**vars(SMALL), "rounds": 2, "steps": 20}))
    first, second = (
        [json.loads(x)["rewards"] for x in (tmp_path / f"run/winners/round_{i}.jsonl").read_text().splitlines()]
        for i in range(2)
    )
    assert first != second


def test_a_reward_that_is_no_number(tmp_path):
    with pytest.raises(InterplayError, match="is not finite"):
        train(tmp_path / "run", score=lambda pictures, prompts: torch.full((len(prompts),), float("nan")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pictures": 1}, "Best of 1 is no choice"),
        ({"pictures": 3, "winners": 3}, "3 winners of 3 pictures"),
        ({"rounds": 0}, "rounds is 0"),
        ({"low": 0.9, "high": 0.1}, "shares in order"),
        ({"rate": 2.0}, "learning rate is 2.0"),
        ({"clean": -1.0}, "clean is -1.0"),
    ],
)
def test_settings_that_cannot_be(change, words):
    with pytest.raises(InterplayError, match=words):
        raft.RaftSettings(**change)
