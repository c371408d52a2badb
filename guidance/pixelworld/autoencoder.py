"""PixelWorld's autoencoder: a stock ``AutoencoderKL`` of which only what the art needs is in use.

Pictures are 32x32 art enlarged four times. The two outer levels of the encoder (128 and 64) average and those of the
decoder repeat. Repeating pixels commutes with 1x1 convolutions, SiLU and GroupNorm, so the same modules can be run on
the small picture, with the same result, at a sixteenth of the cost. Training does that; hosts run the whole model.

The encoder is set, not learned: the four latent channels are the mean of a cell's 2x2 pixels along three colour axes,
and one contrast that tells the 16 patterns of bright and dark pixels apart. The decoder is learned, from noisy
latents, with its surroundings in view.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONFIG: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [
        96,
        64,
        64,
        96,
    ],  # the ends have 3 channels a norm group: a flat colour survives the last GroupNorm
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
LOG_VARIANCE = -12.0  # of the posterior: the encoder is as good as deterministic


# Colour axes (rows; brightness first) and the pattern weights of a cell's four pixels: zero sum, no two subsets alike.
AXES = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
PATTERN = ((4.0, 1.0), (-2.0, -3.0))
ANCHOR = (
    4.0  # constant channels beside every feature, so that GroupNorm cannot take the features' own mean and size away
)


def prepare(vae: Any) -> None:
    """Set the encoder, turn the outer levels into plain averaging and repeating, fix the posterior's variance. In
    place.
    """
    encoder, decoder = vae.encoder, vae.decoder
    with torch.no_grad():
        resnets = [
            r
            for b in (*encoder.down_blocks, encoder.mid_block, decoder.mid_block, *decoder.up_blocks[2:])
            for r in b.resnets
        ]
        for resnet in resnets:
            resnet.conv2.weight.zero_()
            resnet.conv2.bias.zero_()
        for block in (encoder.mid_block, decoder.mid_block):
            block.attentions[0].to_out[0].weight.zero_()
            block.attentions[0].to_out[0].bias.zero_()
        for block in encoder.down_blocks[:2]:
            conv = block.downsamplers[0].conv
            _taps(conv, torch.eye(conv.in_channels) / 4, CELL)
        for block in decoder.up_blocks[1:3]:
            conv = block.upsamplers[0].conv
            _taps(conv, torch.eye(conv.in_channels), CENTRE)
        out = decoder.conv_out
        _taps(out, torch.randn(out.out_channels, out.in_channels) / out.in_channels**0.5, CENTRE)
        _set_encoder(vae)


def _set_encoder(vae: Any) -> None:
    """Write the four features into the encoder's weights."""
    encoder = vae.encoder
    _taps(encoder.conv_in, torch.eye(96, 3), CENTRE)
    _linear(encoder.down_blocks[1].resnets[0].conv_shortcut, torch.eye(64, 96))
    axes = torch.tensor(AXES, dtype=torch.float32)
    axes = axes / axes.norm(dim=1, keepdim=True)
    conv = encoder.down_blocks[2].downsamplers[0].conv
    conv.weight.zero_()
    conv.bias.zero_()
    for y, x in CELL:
        conv.weight[:3, :3, y, x] = axes / 4
        conv.weight[3, :3, y, x] = PATTERN[y][x] / 6
    spread = torch.zeros(96, 64)
    for group in range(32):
        spread[3 * group, group % 4] = 1
    shortcut = encoder.down_blocks[3].resnets[0].conv_shortcut
    _linear(shortcut, spread)
    shortcut.bias[1::3], shortcut.bias[2::3] = ANCHOR, -ANCHOR
    encoder.conv_norm_out.weight.fill_(ANCHOR * (2 / 3) ** 0.5)
    encoder.conv_norm_out.bias.fill_(2 * ANCHOR)  # far on SiLU's straight side
    gather = torch.zeros(8, 96)
    for group in range(32):
        gather[group % 4, 3 * group : 3 * group + 3] = torch.tensor([1.0, -0.5, -0.5]) / 8
    _taps(encoder.conv_out, gather, CENTRE)
    _linear(vae.quant_conv, torch.diag(torch.tensor([1.0] * 4 + [0.0] * 4)))
    vae.quant_conv.bias[4:].fill_(LOG_VARIANCE)


CENTRE = ((1, 1),)
CELL = ((0, 0), (0, 1), (1, 0), (1, 1))  # with the encoder's padding on the right and below, the 2x2 pixels of a cell


def _taps(conv: Any, matrix: Tensor, taps: tuple[tuple[int, int], ...]) -> None:
    """Make a 3x3 convolution apply one channel matrix at the given taps and nothing elsewhere."""
    conv.weight.zero_()
    conv.bias.zero_()
    for y, x in taps:
        conv.weight[:, :, y, x] = matrix


def _linear(conv: Any, matrix: Tensor) -> None:
    """Make a 1x1 convolution apply a channel matrix."""
    conv.weight.copy_(matrix[:, :, None, None])
    conv.bias.zero_()


def _point(conv: Any, x: Tensor) -> Tensor:
    """A 3x3 convolution of which only the centre is set, as the 1x1 convolution that it is."""
    return F.conv2d(x, conv.weight[:, :, 1:2, 1:2], conv.bias)


def encode_small(vae: Any, image: Tensor) -> Tensor:
    """(B, 3, 32, 32) in [-1, 1] to the posterior mean (B, 4, 16, 16), as ``vae.encode`` of the enlarged picture gives
    it.
    """
    encoder = vae.encoder
    h = _point(encoder.conv_in, image)
    h = encoder.down_blocks[1].resnets[0].conv_shortcut(h)
    h = encoder.down_blocks[2].downsamplers[0](h)
    h = encoder.conv_norm_out(encoder.down_blocks[3].resnets[0].conv_shortcut(h))
    return vae.quant_conv(encoder.conv_out(F.silu(h)))[:, :4]


def decode_small(vae: Any, latent: Tensor) -> Tensor:
    """Unscaled latents (B, 4, 16, 16) to the art (B, 3, 32, 32), as ``vae.decode`` gives it enlarged."""
    decoder = vae.decoder
    h = decoder.up_blocks[0](decoder.conv_in(vae.post_quant_conv(latent)))
    for resnet in decoder.up_blocks[1].resnets:
        h = resnet(h, None)
    h = decoder.up_blocks[3].resnets[0].conv_shortcut(h)
    return _point(decoder.conv_out, F.silu(decoder.conv_norm_out(h)))


def normalise(vae: Any, mean: Tensor, std: Tensor) -> None:
    """Fold the latents' per-channel statistics (4,) into the weights: latents times 0.18215 then have unit variance.

    ComfyUI's SD1.5 latent format and diffusers' ``scaling_factor`` then both hold without any setting of our own.
    """
    gain = 1 / (std * CONFIG["scaling_factor"])
    with torch.no_grad():
        vae.quant_conv.weight[:4] *= gain[:, None, None, None]
        vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - mean) * gain
        weight = vae.post_quant_conv.weight
        vae.post_quant_conv.bias += (weight[:, :, 0, 0] * mean).sum(1)
        weight /= gain[None, :, None, None]


def decoder_parameters(vae: Any) -> list[nn.Parameter]:
    """What training may move: all that :func:`decode_small` runs through."""
    decoder = vae.decoder
    parts = (
        vae.post_quant_conv,
        decoder.conv_in,
        decoder.up_blocks[0],
        decoder.up_blocks[1].resnets,
        decoder.up_blocks[3].resnets[0].conv_shortcut,
        decoder.conv_norm_out,
        decoder.conv_out,
    )
    return [p for part in parts for p in part.parameters()]
