"""Names of tensors: which file is which, and every published form brought to one.

The one form is Stable Diffusion's own ("LDM") names without a prefix, split into base, fusers (numbered in the order in
which blocks run) and tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ...errors import InterplayError

Tensors = dict[str, Tensor]
FUSER = re.compile(r"(.+)\.transformer_blocks\.(\d+)\.fuser\.(.+)")
TOKENIZER = "position_net."
PREFIX = "model.diffusion_model."
SLOTS = 30  # interactions in the published pipelines
XL_WIDTH, XL_HEAD = 2048, 64  # of SDXL's prompts and of each of its attention heads
CLIP_PREFIX, CLIP2_PREFIX, VAE_PREFIX = "cond_stage_model.", "cond_stage_model_2.", "first_stage_model."
_ATTENTION = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")
_FEED = ("net.0.proj.weight", "net.0.proj.bias", "net.2.weight", "net.2.bias")
FUSER_KEYS = frozenset(
    [
        *("alpha_attn", "alpha_dense", "linear.weight", "linear.bias"),
        *(f"attn.{key}" for key in _ATTENTION),
        *(f"ff.{key}" for key in _FEED),
        *(f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")),
    ]
)
PLACE = "place.weight"  # of fusers that are told where cells are; the published ones have none
_LAYERS = tuple(f"{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias"))
TOKENIZER_KEYS = frozenset(
    [
        *("null_positive_feature", "null_action_feature", "null_position_feature"),
        *("interaction_embedding.emb.weight", "position_embedding.emb.weight"),
        *(f"{mlp}.{key}" for mlp in ("linears", "linear_action") for key in _LAYERS),
    ]
)
_STAGES = {"input_blocks": 0, "middle_block": 1, "output_blocks": 2}


@dataclass(frozen=True)
class Parts:
    """An InteractDiffusion file taken apart.

    fusers: one dict of 17 tensors for each block, by ``FUSER_KEYS`` (18 with ``PLACE``); blocks: where they stand, in
    LDM names, those of SDXL once for each of their fusers; tokenizer: 17 tensors by ``TOKENIZER_KEYS``; base: the U-Net
    without them, empty when the file has none; clip, clip2, vae: tensors as the file names them, empty when it has
    none; form: of the file; heads: of every fuser's attention, or head_width: of one head, where wide fusers have more.
    """

    form: str
    fusers: tuple[Tensors, ...]
    blocks: tuple[str, ...]
    tokenizer: Tensors
    base: Tensors = field(default_factory=dict)
    clip: Tensors = field(default_factory=dict)
    vae: Tensors = field(default_factory=dict)
    heads: int = 8
    notes: tuple[str, ...] = ()
    head_width: int = 0
    clip2: Tensors = field(default_factory=dict)

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the blocks."""
        return tuple(int(fuser["linear.bias"].shape[0]) for fuser in self.fusers)

    @property
    def width(self) -> int:
        """The width of a token, which is that of the prompt's features."""
        return int(self.tokenizer["null_positive_feature"].shape[0])

    @property
    def placed(self) -> bool:
        """Whether the fusers are told where cells are."""
        return PLACE in self.fusers[0]

    @property
    def xl(self) -> bool:
        """Whether these are interactions of SDXL, whose phrases two text encoders read."""
        return self.width == XL_WIDTH

    @property
    def rows(self) -> int:
        """How many interactions have an embedding."""
        return int(self.tokenizer["interaction_embedding.emb.weight"].shape[0])

    @property
    def slots(self) -> int:
        """How many interactions fit. SDXL's has more embeddings than its pipeline has places."""
        return min(self.rows, SLOTS) if self.xl else self.rows

    @property
    def hidden(self) -> int:
        """The width inside the tokenizer."""
        return int(self.tokenizer["linears.0.weight"].shape[0])


def diffusers_to_ldm(state: Mapping[str, Tensor]) -> Tensors:
    """A diffusers U-Net's tensors under LDM names. Works on any depth and width; fusers and tokenizer come along."""
    renamed = _block_names(state)
    out: Tensors = {}
    for key, value in state.items():
        out[_ldm_name(key, renamed)] = value
    return out


_WHOLE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _count(keys: Iterable[str], prefix: str) -> int:
    """How many numbered parts start with ``prefix``."""
    found = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(m[1]) + 1 for m in map(found.match, keys) if m), default=0)


def _block_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Prefix of a diffusers block -> prefix in LDM names."""
    names = {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    names["mid_block.resnets.1"] = "middle_block.2"
    place = 1
    for level in range(_count(state, "down_blocks.")):
        block = f"down_blocks.{level}"
        for layer in range(_count(state, f"{block}.resnets.")):
            names[f"{block}.resnets.{layer}"] = f"input_blocks.{place}.0"
            names[f"{block}.attentions.{layer}"] = f"input_blocks.{place}.1"
            place += 1
        if f"{block}.downsamplers.0.conv.weight" in state:
            names[f"{block}.downsamplers.0.conv"] = f"input_blocks.{place}.0.op"
            place += 1
    place = 0
    for level in range(_count(state, "up_blocks.")):
        block = f"up_blocks.{level}"
        attends = _count(state, f"{block}.attentions.") > 0
        for layer in range(_count(state, f"{block}.resnets.")):
            names[f"{block}.resnets.{layer}"] = f"output_blocks.{place}.0"
            names[f"{block}.attentions.{layer}"] = f"output_blocks.{place}.1"
            place += 1
        names[f"{block}.upsamplers.0.conv"] = f"output_blocks.{place - 1}.{2 if attends else 1}.conv"
    return names


def _ldm_name(key: str, blocks: Mapping[str, str]) -> str:
    if key.startswith(TOKENIZER):
        return key
    for ours, theirs in _WHOLE.items():
        if key.startswith(ours + "."):
            return theirs + key[len(ours) :]
    head = re.match(r"((?:down|up)_blocks\.\d+|mid_block)\.(\w+)\.(\d+)(\.conv(?=\.))?", key)
    block = blocks.get(head[0]) if head else None
    if head is None or block is None:
        raise InterplayError(
            f"The tensor '{key}' belongs to no U-Net of Stable Diffusion 1.x or XL: choose another file."
        )
    rest = key[head.end() + 1 :]
    if head[2] == "resnets":
        layer, _, part = rest.rpartition(".")
        rest = f"{_RESNET.get(layer, layer)}.{part}"
    return f"{block}.{rest}"


def block_order(block: str) -> tuple[int, ...]:
    """Sorts block names (``input_blocks.1.1``) by when they run."""
    stage, *numbers = block.split(".")
    return (_STAGES[stage], *(int(n) for n in numbers))


def split(state: Mapping[str, Tensor]) -> tuple[Tensors, tuple[str, ...], tuple[Tensors, ...], Tensors]:
    """U-Net tensors under LDM names -> base, blocks with fusers in running order, their fusers, tokenizer."""
    base: Tensors = {}
    tokenizer: Tensors = {}
    fusers: dict[tuple[str, int], Tensors] = {}
    for key, value in state.items():
        if key.startswith(TOKENIZER):
            tokenizer[key[len(TOKENIZER) :]] = value
        elif found := FUSER.fullmatch(key):
            fusers.setdefault((found[1], int(found[2])), {})[found[3]] = value
        else:
            base[key] = value
    places = sorted(fusers, key=lambda place: (block_order(place[0]), place[1]))
    return base, tuple(block for block, _ in places), tuple(fusers[place] for place in places), tokenizer


def joined(blocks: Iterable[str], fusers: Iterable[Mapping[str, Tensor]], tokenizer: Mapping[str, Tensor]) -> Tensors:
    """The opposite of ``split`` for fusers and tokenizer: flat LDM names."""
    out: Tensors = {}
    seen: dict[str, int] = {}
    for block, fuser in zip(blocks, fusers, strict=True):
        number = seen[block] = seen.get(block, -1) + 1
        out |= {f"{block}.transformer_blocks.{number}.fuser.{name}": value for name, value in fuser.items()}
    return out | {f"{TOKENIZER}{name}": value for name, value in tokenizer.items()}
