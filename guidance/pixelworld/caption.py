"""PixelWorld's caption model: it says what a picture shows, and compares sentences with sentences and with pictures.

An eye (a small convolutional network with two transformer layers on 8x8 places), a decoder that writes the caption word
by word, and a reader that turns a sentence into a vector. The eye has a vector of the picture, too, in the same space,
as CLIP and the first half of BLIP-2 have. ``caption_train`` makes the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InterplayError
from . import file_digest, sprites
from .world import ACTIONS, COLOURS, ENVIRONMENTS, OBJECTS, PATTERNS, SIZES

SIDE = 32  # pixels that the eye sees
PAD, START, END, UNKNOWN = range(4)
_SMALL = ("a", "an", "the", "in", "is", "of", "picture", "photo", "pixel", "art", "drawing", "and", "nearby", ",")
WORDS = ("", "<start>", "<end>", "<unknown>", *OBJECTS, *COLOURS, *SIZES, *PATTERNS, *ACTIONS, *ENVIRONMENTS, *_SMALL)
CONTENT = frozenset((*OBJECTS, *COLOURS, *SIZES, *PATTERNS, *ACTIONS, *ENVIRONMENTS))
LENGTH = 32  # words of the longest sentence, with start and end
FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class CaptionConfig:
    """Sizes of the model."""

    width: int = 128
    eye: int = 48  # channels of the first convolutions, on 16x16 places
    heads: int = 4
    layers: int = 2  # of each of eye, decoder and reader
    space: int = 64  # length of the vectors that are compared
    words: tuple[str, ...] = WORDS


class _Block(nn.Module):
    """Two 3x3 convolutions beside a straight way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) to the same."""
        h = self.first(F.silu(self.norms[0](x)))
        return x + self.second(F.silu(self.norms[1](h)))


class _Layer(nn.Module):
    """A transformer layer, norms first; ``crossed``: it looks at a picture's places, too."""

    def __init__(self, width: int, heads: int, crossed: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.crossed = crossed
        if crossed:
            self.norm3 = nn.LayerNorm(width)
            self.q, self.kv, self.seen = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(
        self, x: Tensor, places: Tensor | None = None, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """x (B, T, width); places (B, P, width); mask (B, 1, 1, T), True where there is a word."""
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out(self._attend(q, k, v, mask, causal))
        if self.crossed and places is not None:
            k, v = self.kv(places).chunk(2, -1)
            x = x + self.seen(self._attend(self.q(self.norm3(x)), k, v))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal).transpose(1, 2).flatten(2)


PALETTE = (*sprites.COLOURS.values(), sprites.OUTLINE, sprites.INK, sprites.STRIPE)
NEAR = 0.2  # distance in RGB, 0..1 a channel, at which a pixel's likeness to a colour has fallen to 1/e


def likeness(pictures: Tensor) -> Tensor:
    """(B, 3, h, w) in 0..1 to (B, 3 + 11, h, w): the pixels, and how like each is to the colours of things."""
    colours = pictures.new_tensor(PALETTE) / 255
    gaps = (pictures[:, None] - colours[:, :, None, None]).square().sum(2)
    return torch.cat([2 * pictures - 1, torch.exp(-gaps / NEAR**2)], 1)


class CaptionModel(nn.Module):
    """Eye, decoder and reader; see the module."""

    def __init__(self, config: CaptionConfig = CaptionConfig()) -> None:
        super().__init__()
        self.config = config
        width, eye = config.width, config.eye
        self.entrance = nn.Conv2d(3 + len(PALETTE), eye, 4, stride=2, padding=1)
        self.near = nn.Sequential(_Block(eye), _Block(eye))
        self.halve = nn.Conv2d(eye, width, 2, stride=2)
        self.far = _Block(width)
        self.place = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.eye = nn.ModuleList(_Layer(width, config.heads) for _ in range(config.layers))
        self.eye_norm = nn.LayerNorm(width)
        self.word = nn.Embedding(len(config.words), width)
        self.order = nn.Parameter(0.02 * torch.randn(1, LENGTH, width))
        self.decoder = nn.ModuleList(_Layer(width, config.heads, True) for _ in range(config.layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.reader = nn.ModuleList(_Layer(width, config.heads) for _ in range(config.layers))
        self.reader_norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 4)
        self.picture_vector = nn.Linear(4 * width, config.space)
        self.text_vector = nn.Linear(width, config.space)
        self.scale = nn.Parameter(torch.tensor(2.7))  # logarithm; only training uses it
        nn.init.normal_(self.word.weight, std=0.1)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.word.weight.dtype

    def look(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 of any size, shrunk to 32x32, to 64 places (B, 64, width)."""
        if pictures.shape[-2:] != (SIDE, SIDE):
            pictures = F.interpolate(pictures.float(), (SIDE, SIDE), mode="area")
        x = self.entrance(likeness(pictures).to(self.dtype))
        x = self.far(self.halve(self.near(x))).flatten(2).transpose(1, 2) + self.place
        for layer in self.eye:
            x = layer(x)
        return self.eye_norm(x)

    def write(self, places: Tensor, ids: Tensor) -> Tensor:
        """Logits (B, T, words) of the next word after each of ids (B, T), given the picture's places."""
        x = self.word(ids) + self.order[:, : ids.shape[1]]
        for layer in self.decoder:
            x = layer(x, places, causal=True)
        return self.decoder_norm(x) @ self.word.weight.T

    def read(self, ids: Tensor) -> Tensor:
        """Sentences (B, T), padded, to vectors of unit length (B, space), float32."""
        x = self.word(ids) + self.order[:, : ids.shape[1]]
        mask = (ids != PAD)[:, None, None]
        for layer in self.reader:
            x = layer(x, mask=mask)
        return F.normalize(self.text_vector(self.reader_norm(x)[:, 0]).float(), dim=-1)

    def see(self, places: Tensor) -> Tensor:
        """Places (B, 64, width) to vectors of unit length (B, space), float32, in the space of ``read``."""
        share = self.ask(places).float().softmax(1).to(places.dtype)
        return F.normalize(self.picture_vector((share.transpose(1, 2) @ places).flatten(1)).float(), dim=-1)

    @torch.no_grad()
    def captions(self, pictures: Tensor) -> list[str]:
        """One sentence for each of pictures (B, 3, H, W) in 0..1, the likeliest word at each place."""
        places = self.look(pictures)
        ids = torch.full((len(places), 1), START, device=places.device)
        for _ in range(LENGTH - 1):
            following = self.write(places, ids)[:, -1].argmax(-1)
            following = torch.where((ids == END).any(1), PAD, following)
            ids = torch.cat([ids, following[:, None]], 1)
            if bool((ids == END).any(1).all()):
                break
        return [sentence([self.config.words[i] for i in row if i > UNKNOWN]) for row in ids.tolist()]

    def log_likelihood(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """(B,): mean log-probability of a text's words, given its picture; has a gradient to the picture."""
        ids = encode(texts, pictures.device)
        logits = self.write(self.look(pictures), ids[:, :-1]).float().log_softmax(-1)
        wanted = ids[:, 1:]
        steps = logits.gather(-1, wanted[..., None])[..., 0] * (wanted != PAD)
        return steps.sum(-1) / (wanted != PAD).sum(-1)

    def match(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """(B,): cosine of each picture (B, 3, H, W) with its text; has a gradient to the picture."""
        return (self.see(self.look(pictures)) * self.read(encode(texts, pictures.device))).sum(-1)

    def embed(self, texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Sentences to (B, space) of unit length."""
        return self.read(encode(texts, device))


def split(text: str) -> list[str]:
    """Words and commas in lower case."""
    return re.findall(r"[a-z]+|,", text.lower())


def sentence(words: Sequence[str]) -> str:
    """Words and commas as one writes them."""
    return " ".join(words).replace(" ,", ",")


@cache
def _numbers() -> dict[str, int]:
    return {word: i for i, word in enumerate(WORDS)}


def encode(texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """Sentences to ids (B, T) with start and end, padded to the longest; longer ones are cut at LENGTH."""
    rows = [[START, *[_numbers().get(w, UNKNOWN) for w in split(t)][: LENGTH - 2], END] for t in texts]
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], device=device)


def caption_folder() -> Path:
    """Where the pack's own weights lie."""
    return Path(__file__).parent / "weights" / "captioner"


def load_caption_model(folder: Path | None = None, dtype: torch.dtype = torch.float32) -> CaptionModel:
    """The model, frozen, in evaluation mode, on the CPU.

    Raises:
        InterplayError: a file is missing, damaged, or was written by another version.
    """
    from safetensors.torch import load_file

    folder = folder or caption_folder()
    if any(not (folder / name).is_file() for name in FILES):
        raise InterplayError(f"PixelWorld's caption model is missing in {folder}; reinstall Interplay to restore it.")
    sizes = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
    if sizes.pop("sha256", None) != file_digest(folder / FILES[1]):
        raise InterplayError(f"The caption model in {folder} is damaged; reinstall Interplay to restore it.")
    config = CaptionConfig(**{**sizes, "words": tuple(sizes["words"])})
    if config.words != WORDS:
        raise InterplayError(f"The caption model in {folder} knows other words than this version; train it again.")
    with torch.device("meta"):
        model = CaptionModel(config)
    state = {name: value.to(dtype) for name, value in load_file(folder / FILES[1]).items()}
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InterplayError(f"The caption model in {folder} does not fit this version ({error}).") from error
    return model.eval().requires_grad_(False)


def save_caption_model(model: CaptionModel, state: dict[str, Tensor], folder: Path) -> None:
    """Write config.json and half-precision weights."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.detach().half().contiguous() for name, value in state.items()}
    (folder / FILES[1]).write_bytes(save(half))
    sizes = {**asdict(model.config), "sha256": file_digest(folder / FILES[1])}
    (folder / FILES[0]).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
