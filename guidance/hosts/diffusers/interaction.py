"""InteractDiffusion's U-Net in diffusers pipelines, without boxes: its base alone, or with its fusers on null tokens.

Without grounding tokens the gated layers are never run, so the base alone is what SHYI's authors sampled; since the
base was frozen in training, it equals Stable Diffusion 1.5. Null tokens let the trained fusers act.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import InterplayError
from ...interaction.build import build
from ...interaction.files import load_parts, read_file
from ...interaction.network import InteractionNet


def base_unet(unet: Any, path: Path) -> Any:
    """A U-Net like ``unet`` with the base weights of an InteractDiffusion file in diffusers' form.

    Raises:
        InterplayError: the file is of another form, or its shapes are others.
    """
    content, _ = read_file(_weights(path))
    if "conv_in.weight" not in content:
        raise InterplayError(
            f"{path} is not in diffusers' form; SHYI needs interactdiffusion/diffusers-v1-2 of huggingface.co "
            "(its unet folder or the file in it)."
        )
    base = {key: value for key, value in content.items() if ".fuser." not in key and "position_net." not in key}
    made = type(unet).from_config(unet.config)
    try:
        made.load_state_dict(base)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InterplayError(
            f"The U-Net in {path} does not fit the pipeline's ({reason}); use Stable Diffusion 1.5."
        ) from error
    return made.to(unet.device, unet.dtype).eval().requires_grad_(False)


def interaction_net(unet: Any, path: Path) -> InteractionNet:
    """The file's fusers and tokenizer, on the U-Net's device.

    Raises:
        InterplayError: the file is no InteractDiffusion file, or its fusers do not fit the U-Net's blocks.
    """
    net = build(load_parts(_weights(path)), dtype=unet.dtype, device=unet.device).to(unet.device)
    widths = tuple(block.norm1.normalized_shape[0] for block in transformer_blocks(unet))
    if widths != net.widths:
        raise InterplayError(
            f"The {len(net.widths)} fusers in {path} do not fit the {len(widths)} blocks of the U-Net; "
            "use a pipeline of the Stable Diffusion that they were trained on."
        )
    return net.requires_grad_(False)


def _weights(path: Path) -> Path:
    """The U-Net's file of a folder, or the file itself.

    Raises:
        InterplayError: there is none.
    """
    places = (path, path / "diffusion_pytorch_model.safetensors", path / "unet" / "diffusion_pytorch_model.safetensors")
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InterplayError(
            f"There is no U-Net of InteractDiffusion in {path}; get interactdiffusion/diffusers-v1-2 of "
            "huggingface.co and name its unet folder."
        )
    return found


def transformer_blocks(unet: Any) -> list[Any]:
    """Every block with a cross-attention, in the order in which they run."""
    stages = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    return [
        block
        for stage in stages
        for transformer in getattr(stage, "attentions", None) or ()
        for block in transformer.transformer_blocks
    ]


class Fusing:
    """What fusers see while they are on: tokens (R, 3N, D) for the R rows of a U-Net's batch, or one row for all; and
    how strongly they act. Both may be changed between calls. ``latent``: rows and columns of what the U-Net was last
    called with.
    """

    def __init__(self, tokens: Tensor, scale: float = 1.0) -> None:
        self.tokens, self.scale = tokens, scale
        self.latent: tuple[int, int] | None = None

    def rows(self, batch: int) -> Tensor:
        """The tokens of a batch of so many rows."""
        return self.tokens.expand(batch, -1, -1) if self.tokens.shape[0] == 1 else self.tokens


@contextmanager
def fused(unet: Any, net: InteractionNet, fusing: Fusing) -> Iterator[Fusing]:
    """Inside, every block runs its fuser between self- and cross-attention.

    The block adds its input x to what its self-attention gives, a; the fuser stands behind that sum. So a is replaced
    by fuser(x + a) - x.
    """

    def measure(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        height, width = (args[0] if args else kwargs["sample"]).shape[-2:]
        fusing.latent = (height, width)

    with ExitStack() as stack:
        stack.callback(unet.register_forward_pre_hook(measure, with_kwargs=True).remove)
        for block, fuser in zip(transformer_blocks(unet), net.fusers, strict=True):
            _fuse(stack, block, fuser, fusing)
        yield fusing


@contextmanager
def on_null_tokens(unet: Any, net: InteractionNet, scale: float = 1.0) -> Iterator[None]:
    """Inside, the fusers see tokens of no interaction."""
    with torch.no_grad():
        tokens = net.position_net.null_tokens().to(unet.device, unet.dtype)
    with fused(unet, net, Fusing(tokens, scale)):
        yield


def _fuse(stack: ExitStack, block: Any, fuser: Any, fusing: Fusing) -> None:
    seen: list[Tensor] = []

    def remember(norm: Any, args: tuple[Tensor, ...]) -> None:
        seen[:] = [args[0]]

    def behind(attention: Any, args: Any, output: Tensor) -> Tensor:
        x = seen.pop()
        return fuser(x + output, fusing.rows(x.shape[0]), fusing.scale, fusing.latent) - x

    stack.callback(block.norm1.register_forward_pre_hook(remember).remove)
    stack.callback(block.attn1.register_forward_hook(behind).remove)
