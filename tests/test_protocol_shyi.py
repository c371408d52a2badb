"""SHYI's U-Net in a pipeline, held against diffusers' own gated U-Net."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import UNet2DConditionModel
from interplay.cli import main
from interplay.errors import InterplayError
from interplay.guidance.bench import results
from interplay.guidance.hosts.diffusers import models
from interplay.guidance.hosts.diffusers.interaction import (
    base_unet,
    interaction_net,
    on_null_tokens,
    transformer_blocks,
)
from interplay.guidance.interaction.network import PositionNet
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def gated() -> UNet2DConditionModel:
    """random-tiny's U-Net as diffusers builds it with gated layers, whose gates are open."""
    plain = models.random_pipeline("random-tiny").unet
    torch.manual_seed(3)
    made = UNet2DConditionModel.from_config(plain.config, attention_type="gated")
    made.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if ".alpha_" in name:
                value.fill_(0.7)
    return made.eval()


@pytest.fixture(scope="module")
def tokenizer() -> PositionNet:
    torch.manual_seed(4)
    net = PositionNet(width=32, slots=5, hidden=16)
    with torch.no_grad():
        for value in net.parameters():
            value.normal_(std=0.5)
    return net


@pytest.fixture(scope="module")
def file(gated, tokenizer, tmp_path_factory) -> Path:
    """The layout of interactdiffusion/diffusers-v1-2: unet/diffusion_pytorch_model.safetensors."""
    folder = tmp_path_factory.mktemp("interact") / "unet"
    folder.mkdir()
    state = {k: v for k, v in gated.state_dict().items() if not k.startswith("position_net.")}
    state |= {f"position_net.{k}": v for k, v in tokenizer.state_dict().items()}
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({key: value.contiguous().clone() for key, value in state.items()}, str(path), {"heads": "2"})
    return path


class NullTokens(torch.nn.Module):
    """Stands where diffusers' tokenizer of boxes would, and gives the tokens of no interaction."""

    def __init__(self, tokenizer: PositionNet) -> None:
        super().__init__()
        self.tokens = tokenizer.null_tokens(2).detach()

    def forward(self, boxes: None) -> torch.Tensor:
        return self.tokens


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    return torch.randn(2, 4, 16, 16), torch.tensor([801, 801]), torch.randn(2, 77, 32)


def test_null_tokens_run_the_fusers_where_diffusers_runs_them(gated, tokenizer, file):
    sample, time, text = inputs()
    gated.position_net = NullTokens(tokenizer)
    with torch.no_grad():
        expected = gated(sample, time, text, cross_attention_kwargs={"gligen": {"boxes": None}}).sample
    unet = base_unet(models.random_pipeline("random-tiny").unet, file)
    net = interaction_net(unet, file)
    assert len(transformer_blocks(unet)) == len(net.fusers) == 16
    with torch.no_grad():
        off = unet(sample, time, text).sample
        with on_null_tokens(unet, net):
            on = unet(sample, time, text).sample
        again = unet(sample, time, text).sample
    assert torch.allclose(on, expected, atol=2e-5)
    assert (on - off).abs().max() > 1e-2
    assert torch.equal(off, again)  # nothing is left behind


def test_without_tokens_the_base_is_the_plain_unet(gated, file):
    sample, time, text = inputs()
    pipeline = models.random_pipeline("random-tiny")
    with torch.no_grad():
        expected = pipeline.unet(sample, time, text).sample
        found = base_unet(pipeline.unet, file)(sample, time, text).sample
    assert torch.equal(found, expected)


def test_shyi_draws_on_the_other_unet_and_puts_ours_back(file, tmp_path):
    """The file holds the pipeline's own base, so SHYI with its fusers off is SHY; null tokens are another picture."""
    out = tmp_path / "out"
    shown = ["--model", "random-tiny", "--device", "cpu", "--steps", "2", "--limit", "1", "--seeds", "7"]
    named = ["--methods", "SHYI (null tokens)", "SHYI", "SHY", "--interact", str(file)]
    assert main(["bench", "shyi", "--out", str(out), *shown, *named]) == 0
    null, off, shy = (np.frombuffer((out / row.file).read_bytes(), np.uint8) for row in results.read_results(out))
    assert np.array_equal(off, shy) and not np.array_equal(null, shy)
    methods = results.read_settings(out)["method_settings"]
    assert methods["SHYI"]["fusers"] == "off" and methods["SHYI (null tokens)"]["fusers"] == "null"


def test_other_files_are_refused(tmp_path, file):
    unet = models.random_pipeline("random-tiny").unet
    with pytest.raises(InterplayError, match="There is no U-Net of InteractDiffusion"):
        base_unet(unet, tmp_path)
    save_file({"input_blocks.0.0.weight": torch.zeros(1)}, str(tmp_path / "ldm.safetensors"))
    with pytest.raises(InterplayError, match="not in diffusers' form"):
        base_unet(unet, tmp_path / "ldm.safetensors")
    wide = SimpleNamespace(
        down_blocks=[], up_blocks=[], mid_block=None, dtype=torch.float32, device=torch.device("cpu")
    )
    with pytest.raises(InterplayError, match="do not fit the 0 blocks"):
        interaction_net(wide, file)
