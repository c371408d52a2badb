"""Ghosts: what a part that stands twice looks like, which captions allow it, its error, alone and in each trainer."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.training import contrast, lora  # noqa: E402
from interplay.guidance.training.contrast import ContrastSettings, Material  # noqa: E402
from interplay.guidance.training.ghosts import (  # noqa: E402
    GHOSTS_FROM,
    GHOSTS_TO,
    STRENGTH,
    ghost_loss,
    once_each,
    with_ghost,
)
from interplay.guidance.training.raft import RaftSettings, Winner, raft_loss  # noqa: E402
from interplay.guidance.training.refl import ReflSettings, refl_losses  # noqa: E402
from interplay.guidance.training.refl_model import noise_like, seed_of  # noqa: E402
from interplay.guidance.training.twins import Lesson, twin_losses  # noqa: E402
from refl_cases import TinyTrainee, Wanted  # noqa: E402
from torch import Tensor  # noqa: E402
from training_world import World  # noqa: E402

ONCE, MANY = "a red cup and a blue box", "two cups"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- what a ghost is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 16, 16), (4, 24, 16), (16, 12, 20)])
def test_a_ghost_is_a_fainter_copy_beside_its_original(shape):
    """Found again from the outside: one square of the result, and no other pixel, is a mix of itself and of another
    square of the picture, in one proportion for all channels.
    """
    for seed in range(20):
        latent = torch.randn(shape, generator=generator(seed), dtype=torch.float64)
        before, got = latent.clone(), with_ghost(latent, generator(seed + 100))
        assert torch.equal(latent, before)
        rows, columns = (got != latent).any(0).nonzero().T
        top, left = int(rows.min()), int(columns.min())
        side = int(rows.max()) - top + 1
        assert side == int(columns.max()) - left + 1 and side in range(
            min(shape[1:]) // 4, 1 + round(min(shape[1:]) * 0.375)
        )

        def cut(x: Tensor, at: tuple[int, int], side: int = side) -> Tensor:
            return x[:, at[0] : at[0] + side, at[1] : at[1] + side]

        found = []
        for there in [(i, j) for i in range(shape[1] - side + 1) for j in range(shape[2] - side + 1)]:
            change = cut(latent, there) - cut(latent, (top, left))
            moved = cut(got, (top, left)) - cut(latent, (top, left))
            share = float((change * moved).sum() / change.square().sum().clamp(min=1e-12))
            if torch.allclose(moved, share * change, atol=1e-9):
                found.append((there, share))
        assert len(found) == 1
        (there, share), gap = found[0], max(abs(found[0][0][0] - top), abs(found[0][0][1] - left))
        assert STRENGTH[0] <= share <= STRENGTH[1] and gap >= side


def test_the_lively_part_is_copied():
    """A thing on an even ground: a random square of this side shows some of it in 17 of 100 cases, the best of six in
    most.
    """
    latent = torch.zeros(4, 32, 32)
    latent[:, 20:24, 5:9] = torch.randn(4, 4, 4, generator=generator(0))
    seen = [bool((with_ghost(latent, generator(seed)) != latent).any()) for seed in range(100)]
    assert sum(seen) > 70


def test_ghosts_depend_on_their_seed_alone_and_small_pictures_have_none():
    latent = torch.randn(4, 16, 16, generator=generator(0))
    first = with_ghost(latent, generator(1))
    torch.randn(3)
    assert torch.equal(first, with_ghost(latent, generator(1)))
    assert not torch.equal(first, with_ghost(latent, generator(2)))
    assert torch.equal(with_ghost(latent[:, :1, :1], generator(1)), latent[:, :1, :1])


@pytest.mark.parametrize(
    "caption, once",
    [
        (ONCE, True),
        ("red cup, blue box in forest", True),
        ("a photo of a knight riding a horse in the snow", True),
        ("one dog on a lawn", True),
        (MANY, False),
        ("a dog chasing a dog", False),
        ("a woman holding flowers", False),
        ("a group of sheep on a hill", False),
        ("3 birds", False),
        ("masterpiece, best quality, 8k", False),
        ("", False),
    ],
)
def test_only_what_is_named_once_may_not_stand_twice(caption, once):
    assert once_each(caption) is once


# --- its error --------------------------------------------------------------------------------------------------------


class Captioned(TinyTrainee):
    """Takes any text."""

    shape = (2, 8, 8)

    def condition(self, prompts):
        made = [torch.randn(3, generator=generator(seed_of(p) % 2**31), dtype=self.dtype) for p in prompts]
        return torch.stack(made)


def woken() -> Captioned:
    model = Captioned()
    with torch.no_grad():
        model.up.normal_(generator=generator(5)).mul_(0.3)
    return model


@pytest.mark.parametrize("own", [False, True])
def test_the_loss_is_the_mean_over_captions_that_name_things_once(own):
    """A plain rewrite, row by row. The goal is the picture, or, for the model's own, what it expected of it before."""
    model, captions = woken(), [ONCE, MANY, "a cat on a mat", ""]
    clean = torch.randn(4, *model.shape, generator=generator(3), dtype=torch.float64)
    names, total = [("seed", row) for row in range(4)], torch.zeros((), dtype=torch.float64)

    def estimate(x: Tensor, rung, said: Tensor) -> Tensor:
        return (x - rung.noise * model.eps(x, rung.name, said)) / rung.signal

    for row in (0, 2):
        share = GHOSTS_FROM + (GHOSTS_TO - GHOSTS_FROM) * (seed_of("seed", row, "level") % 10_000 / 10_000)
        rung, said, one = model.random_rung(share), model.condition([captions[row]]), clean[row : row + 1]
        ghost = with_ghost(clean[row], generator(seed_of("seed", row, "ghost")))[None]
        noise, goal = noise_like(model, [("seed", row, "noise")]), one
        if own:
            with torch.no_grad(), model.adapter_off():
                goal = estimate(rung.signal * one + rung.noise * noise, rung, said)
        total = total + (estimate(rung.signal * ghost + rung.noise * noise, rung, said) - goal).square().mean()
    got = ghost_loss(model, captions, clean, names, own)
    assert float(got.detach()) == pytest.approx(float(total.detach()) / 4, rel=1e-4) and float(total.detach()) > 0
    ours, plain = (torch.autograd.grad(e, model.parameters()) for e in (got, total / 4))
    assert all(torch.allclose(a, b.to(a), rtol=1e-3) for a, b in zip(ours, plain, strict=True))
    parts = [ghost_loss(model, captions[i : i + 1], clean[i : i + 1], names[i : i + 1], own) for i in range(4)]
    assert float(got.detach()) == pytest.approx(sum(float(p.detach()) for p in parts) / 4, rel=1e-5)


# --- in the trainers --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> World:
    torch.set_num_threads(1)
    return World()


def settings(**changes) -> ContrastSettings:
    plain = {"steps": 4, "batch": 8, "rate": 2e-3, "calibrate": 64, "low": 0.05, "high": 0.95}
    return ContrastSettings(**{**plain, **changes})


def wakened(trained: World) -> World:
    trained.lora.remove()
    trained.lora = lora.inject(trained.net, 8, seed=0)
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(torch.randn(p.shape, generator=generator(1)) * 0.05)
    return trained


@pytest.mark.parametrize("changes", [{}, {"hold_below": 0.7}, {"objective": "noneg", "dropout": 0.5}])
def test_contrast_has_the_error_of_noisy_rows_beside_its_own(trained, changes):
    world = wakened(trained)
    data, k = world.material(), contrast.calibrate(world, world.material(), settings(**changes))
    for number in range(3):
        plain = contrast.step_losses(world, data, settings(**changes), k, number, range(8))
        got = contrast.step_losses(world, data, settings(ghosts=0.3, **changes), k, number, range(8))
        batch = contrast.make_batch(world, data, settings(**changes), "train", number, range(8))
        each = torch.zeros(8)
        for row in range(8):
            u, caption = float(batch.levels.name[row]), batch.captions[row]
            if u < max(GHOSTS_FROM, changes.get("hold_below", 0)) or not caption:
                continue
            level, one = batch.levels.rows(torch.tensor([row])), batch.clean[row : row + 1]
            ghost = with_ghost(batch.clean[row], generator(seed_of(0, "ghost", number, row)))[None]
            x = level.signal * ghost + level.noise * batch.noise[row : row + 1]
            each[row] = (world.denoise(x, level, world.condition([caption])) - one).square().mean().detach()
        assert 0 < int((each > 0).sum()) < 8
        assert float(got.figures["ghosts"]) == pytest.approx(float(each.mean()), rel=1e-4)
        assert float(got.loss.detach()) == pytest.approx(
            float(plain.loss.detach()) + 0.3 * float(each.mean()), rel=1e-4
        )


def test_captions_of_several_things_have_no_ghosts(trained):
    world = wakened(trained)
    data = world.material()
    many = [type(r)(r.image, "two " + r.caption, r.negatives) for r in data.records]
    batch = contrast.make_batch(world, Material(many, data.latents), settings(ghosts=1.0), "train", 0, range(8))
    assert batch.haunted is None and batch.ghosts is None
    once = contrast.make_batch(world, data, settings(ghosts=1.0), "train", 0, range(8))
    assert once.haunted is not None and once.ghosts is not None and len(once.ghosts) == len(once.haunted) > 0
    for what in ("calibrate", "validate"):
        assert contrast.make_batch(world, data, settings(ghosts=1.0), what, 0, range(8)).ghosts is None


def test_twins_and_refl_have_the_loss_beside_their_own():
    torch.set_default_dtype(torch.float64)
    try:
        model, number = woken(), 2
        one = Lesson(
            ONCE, "a blue cup and a red box", torch.randn(3, 2, 8, 8), torch.randn(2, 8, 8), torch.randn(2, 8, 8)
        )
        small = {"steps": 4, "batch": 3, "ladder": 8, "first": 0, "last": 2, "cfg": 2.0}
        plain, haunted = (ReflSettings(**small, twins=2, ghosts=g) for g in (0.0, 0.7))
        want = ghost_loss(
            model, [ONCE] * 3, torch.stack([one.clean] * 3), [(0, "ghost", number, r) for r in range(3)], True
        )
        losses = [twin_losses(model, [one], s, number, range(3)) for s in (plain, haunted)]
        assert float((losses[1]["loss"] - losses[0]["loss"]).detach()) == pytest.approx(
            0.7 * float(want.detach()), rel=1e-6
        )
        assert float(losses[1]["ghosts"]) == pytest.approx(float(want.detach()), rel=1e-6) and "ghosts" not in losses[0]
        alone, beside = (ReflSettings(**small, ghosts=g) for g in (0.0, 0.7))
        reward = type("Any", (Wanted,), {"__call__": lambda self, pictures, prompts: pictures.mean((1, 2, 3))})()
        losses = [refl_losses(model, reward, [ONCE], s, number) for s in (alone, beside)]
        added = float((losses[1]["loss"] - losses[0]["loss"]).detach())
        assert added == pytest.approx(0.7 * float(losses[1]["ghosts"]), rel=1e-6) and added > 0
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("clean", [0.0, 20.0])
def test_raft_has_the_loss_beside_its_own(clean):
    model, winners = woken(), [Winner(ONCE, torch.randn(2, 8, 8, generator=generator(4)), (1.0, 0.0))]
    plain, haunted = (RaftSettings(clean=clean, dropout=0.0, ghosts=g) for g in (0.0, 0.7))
    losses = [raft_loss(model, winners, s, 3, range(4)).detach() for s in (plain, haunted)]
    names = [(0, "raft step", 3, row, "ghost") for row in range(4)]
    want = ghost_loss(model, [ONCE] * 4, torch.stack([winners[0].latent] * 4), names).detach()
    assert float(want) > 0 and float(losses[1] - losses[0]) == pytest.approx(0.7 * float(want), rel=1e-3)


def test_a_weight_that_cannot_be():
    for kind in (ContrastSettings, ReflSettings, RaftSettings):
        with pytest.raises(InterplayError, match=r"ghosts is -1; give a number of 0 or more"):
            kind(ghosts=-1)


def test_the_command_has_the_setting(capsys):
    from interplay.cli import main

    for trainer in ("negatives-lora", "refl", "raft"):
        with pytest.raises(SystemExit):
            main(["train", trainer, "--help"])
        assert "--ghosts" in capsys.readouterr().out
