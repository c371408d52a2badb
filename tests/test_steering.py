"""Walks of the trainers under guidance: the same pictures as the pipeline's own under it, and what a gradient sees."""

from __future__ import annotations

import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.hosts.diffusers.guidance import guided as guided_pipeline
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
from interplay.guidance.hosts.diffusers.refl import PixelWorldTrainee
from interplay.guidance.training.lora import inject
from interplay.guidance.training.raft import RaftSettings, draw_winners
from interplay.guidance.training.refl import ReflSettings
from interplay.guidance.training.refl_model import conditions, descend, draw, guided, noise_like, steered
from interplay.guidance.training.refl_rewards import pixelworld_reward
from interplay.guidance.training.twins import draw_points, go_on
from torch import Tensor

STEPS, CFG = 12, 5.0
PROMPTS = ["a red robot carrying a blue box", "a purple cat chasing a green cat", "a purple cat chasing a green cat",
           "a blue bird and a red bird"]  # fmt: skip
NAMES = [("steering", i) for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def model() -> PixelWorldTrainee:
    pipeline = load_pixelworld()
    pipeline.set_progress_bar_config(disable=True)
    return PixelWorldTrainee(pipeline, inject(pipeline.unet, 2))


def apart(one: Tensor, other: Tensor) -> list[float]:
    """Distance row by row, as a share."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(one, other, strict=True)]


def by_the_pipeline(model: PixelWorldTrainee, guide: str, steps: int) -> Tensor:
    """The pipeline's own call from the same noise, picture by picture, down to the clean latent."""
    pipeline, noise = model.pipeline, noise_like(model, NAMES) * model.ladder(steps)[0].noise
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, set_alpha_to_one=True)
    options = {"num_inference_steps": steps, "guidance_scale": CFG, "output_type": "latent"}
    rows = []
    for prompt, latents in zip(PROMPTS, noise, strict=True):
        with guided_pipeline(pipeline, guide, prompt):
            rows.append(pipeline(prompt, latents=latents[None], **options).images)
    return torch.cat(rows)


@pytest.mark.parametrize(("guide", "steps"), [("SHY", 25), ("CONFORM", 12)])
def test_a_walk_is_the_pipelines_own_under_guidance(model, guide, steps):
    found, plain = (draw(model, PROMPTS, NAMES, steps, CFG, name) for name in (guide, ""))
    assert max(apart(found, by_the_pipeline(model, guide, steps))) < 1e-4
    assert max(apart(found, plain)) > 0.1  # and it is another picture


def test_each_walk_begins_anew(model):
    """Guides keep the maps of the step before; nothing of a walk may reach the next."""
    first, second = (draw(model, PROMPTS, NAMES, STEPS, CFG, "SHY") for _ in range(2))
    assert torch.equal(first, second)
    alone = torch.cat([draw(model, [p], [n], STEPS, CFG, "SHY") for p, n in zip(PROMPTS, NAMES, strict=True)])
    assert max(apart(first, alone)) < 1e-4


def test_a_move_is_a_constant_for_the_gradient(model):
    rungs, said = model.ladder(STEPS), conditions(model, PROMPTS[:1], 1.0, "SHY", STEPS)
    x = noise_like(model, NAMES[:1]).requires_grad_()
    moved = steered(x, rungs, 2, said)
    assert not torch.equal(moved, x)
    torch.manual_seed(0)
    weights = torch.randn_like(x)
    assert torch.equal(torch.autograd.grad((moved * weights).sum(), x)[0], weights)
    assert steered(x, rungs, 11, said) is not None and torch.equal(steered(x, rungs, 11, said), x)  # its window is over
    assert steered(x, rungs, 2, conditions(model, PROMPTS[:1], 1.0)) is x


def test_points_of_twins_are_drawn_under_guidance(model, tmp_path):
    """Against the same by hand; here guidance has something to do."""
    settings = ReflSettings(
        batch=1, ladder=STEPS, first=2, last=2, cfg=CFG, eta=0.0, twins=2, points=1, guide="SHY", seed=4
    )
    reward = pixelworld_reward("itm")
    pairs = [(PROMPTS[0], ["a blue robot carrying a red box"])]
    (point,) = draw_points(model, lambda p, t: reward(p, t).detach(), "itm", pairs, settings, tmp_path)
    rungs, said = model.ladder(STEPS), conditions(model, PROMPTS[:1], CFG, "SHY", STEPS)
    x = noise_like(model, [(4, "point", 0)]) * rungs[0].noise
    with torch.no_grad():
        for i in range(2):
            x = steered(x, rungs, i, said)
            x = descend(x, guided(model, x, rungs[i], said), rungs[i], rungs[i + 1], 0.0, None)
        assert apart(point.walk[-1:], x)[0] < 1e-4
        for place, end in enumerate(point.ends):
            side, k = divmod(place, 2)
            own = conditions(model, [(point.prompt, point.twin)[side]], CFG, "SHY", STEPS)
            wanted = go_on(model, own, rungs, 2, x, settings.stride, [(4, "end", 0, side, k)])
            assert apart(end[None].float(), wanted)[0] < 5e-3  # ends are kept in half precision
    held = torch.load(next((tmp_path / "points").glob("*.pt")), weights_only=True)
    assert held["how"]["guide"] == "SHY"
    plain = ReflSettings(**{**vars(settings), "guide": ""})
    with pytest.raises(InterplayError, match="points of other prompts or settings"):
        draw_points(model, reward, "itm", pairs, plain, tmp_path)


def test_ends_of_twins_are_drawn_under_guidance(model):
    rungs, x = model.ladder(STEPS), noise_like(model, [(4, "point", 0)])
    with torch.no_grad():
        said = [conditions(model, PROMPTS[:1], CFG, guide, STEPS) for guide in ("SHY", "")]
        ends = [go_on(model, each, rungs, 1, x, 3, [(4, "end")]) for each in said]
    assert apart(*ends)[0] > 0.1


def test_winners_are_drawn_under_guidance(model, tmp_path):
    settings = RaftSettings(pictures=2, draw_steps=STEPS, draw_batch=2, guide="SHY", seed=1)

    def redness(pictures: Tensor, prompts) -> Tensor:
        return pictures[:, 0].mean((1, 2))

    (winner,) = draw_winners(model, redness, PROMPTS[1:2], settings, 0, tmp_path)
    both = draw(model, PROMPTS[1:3], [(1, "raft", 0, 0, i) for i in range(2)], STEPS, CFG, "SHY")
    best = both[int(redness(model.decode(both).clamp(0, 1), ()).argmax())]
    assert apart(winner.latent[None], best[None])[0] < 1e-4


@pytest.mark.parametrize("kind", [ReflSettings, RaftSettings])
def test_a_preset_that_there_is_not(kind):
    with pytest.raises(InterplayError, match="no guidance preset called 'shy'"):
        kind(guide="shy")
