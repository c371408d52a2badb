"""The ReFL step on diffusers' pipelines: SD1.x and SDXL, and what it keeps for the backward pass."""

from __future__ import annotations

import pytest
import torch
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
from interplay.guidance.hosts.diffusers.refl import PipelineTrainee
from interplay.guidance.training.lora import inject
from interplay.guidance.training.refl import ReflSettings, refl_losses
from interplay.guidance.training.refl_model import twice_instead_of_kept
from interplay.guidance.training.refl_rewards import GradientReward
from tiny_sdxl import tiny_sdxl
from torch import Tensor

PROMPTS = ("a red robot carrying a blue box", "a green cat")
SETTINGS = ReflSettings(batch=2, ladder=6, first=3, last=3, carry=1, eta=0.0, weight=1.0, pretrain_weight=0.5, cfg=2.0)


def redness(pictures: Tensor, prompts: object) -> Tensor:
    """A reward whose best picture is red above and dark below."""
    high = pictures.shape[-2] // 2
    return -((pictures[:, 0, :high] - 1).square().mean((1, 2)) + pictures[:, :, high:].square().mean((1, 2, 3)))


REWARD = GradientReward("red above", 1.0, redness)


def trainee(name: str) -> PipelineTrainee:
    """With a LoRA that is under way, so that both matrices of each layer have a gradient."""
    pipeline = tiny_sdxl() if name == "sdxl" else load_pixelworld()
    model = PipelineTrainee(pipeline, inject(pipeline.unet, 4, seed=1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for adapter in model.lora.adapters:
            adapter.up.normal_(generator=generator).mul_(0.05)
    return model


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_step_down_the_gradient_lowers_the_loss_as_it_says(name):
    model = trainee(name)
    parameters = model.parameters()
    # Read at the first call: a walk to the reading has no gradient, and would answer to the change all the same.
    plain = {"first": 0, "last": 0, "carry": 0, "ladder": 2, "pretrain": "none"}
    settings = ReflSettings(**{**vars(SETTINGS), **plain})

    def loss() -> Tensor:
        return refl_losses(model, REWARD, PROMPTS, settings, 0)["loss"]

    gradients = torch.autograd.grad(loss(), parameters)
    assert all(bool(g.abs().sum() > 0) for g in gradients)
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    values, size = [], 0.02
    for sign in (1, -1):
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p.add_(g / norm, alpha=sign * size)
            values.append(float(loss()))
            for p, g in zip(parameters, gradients, strict=True):
                p.sub_(g / norm, alpha=sign * size)
    assert (values[0] - values[1]) / (2 * size) == pytest.approx(float(norm), rel=0.03)


def test_sdxl_is_told_its_text_and_size():
    model = trainee("sdxl")
    xl, rung = model.pipeline, model.ladder(4)[1]
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    found = model.denoise(x, rung, model.condition(PROMPTS))
    for row, prompt in enumerate(PROMPTS):
        embeds, _, pooled, _ = xl.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        sizes = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]])
        said = {"text_embeds": pooled, "time_ids": sizes}
        eps = xl.unet(x[row : row + 1], int(rung.name), embeds, added_cond_kwargs=said).sample
        torch.testing.assert_close(found[row : row + 1], (x[row : row + 1] - rung.noise * eps) / rung.signal,
                                   rtol=1e-3, atol=1e-3)  # fmt: skip


def kept(model: PipelineTrainee, **changes: object) -> int:
    """Bytes that a step keeps for its backward pass, besides the model itself."""
    settings = ReflSettings(**{**vars(SETTINGS), "cfg": 1.0, "pretrain": "none", **changes})  # type: ignore[arg-type]
    own = {p.untyped_storage().data_ptr() for n in (model.pipeline.unet, model.pipeline.vae) for p in n.parameters()}
    seen: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        if value.untyped_storage().data_ptr() not in own:
            seen[value.untyped_storage().data_ptr()] = value  # kept alive, so that no address is used twice
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        refl_losses(model, REWARD, PROMPTS, settings, 0)["loss"]
    return sum(value.untyped_storage().nbytes() for value in seen.values())


def test_what_a_step_keeps():
    model = trainee("sd1")
    read = kept(model, carry=0)
    with torch.no_grad():
        assert kept(model, carry=0) == 0
    # The walk to the reading costs nothing, however long it is.
    assert kept(model, carry=0, ladder=12, first=9, last=9) == pytest.approx(read, rel=0.01)
    # Each call that carries a gradient costs as much again as the first, and the decoder only once.
    more = [kept(model, carry=n) for n in (1, 2)]
    assert more[1] - more[0] == pytest.approx(more[0] - read, rel=0.02) and more[0] > read
    # The decoder is the peak; a crop of it, and running blocks twice, leave a part.
    assert kept(model, carry=0, decode_crop=8) < 0.7 * read
    assert kept(model, carry=0, checkpoint=True) < 0.5 * read


def test_blocks_that_run_twice_are_those_of_both_networks():
    model = trainee("sd1")
    before = [type(m).__name__ for n in model.heavy() for m in n.modules() if "forward" in vars(m)]
    with twice_instead_of_kept(model.heavy()):
        for network in model.heavy():
            assert any("forward" in vars(m) for m in network.modules())
    assert [type(m).__name__ for n in model.heavy() for m in n.modules() if "forward" in vars(m)] == before == []
