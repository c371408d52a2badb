"""Random prompts in all of ComfyUI's syntax, and a folder of embeddings that they name. Not a test itself."""

from __future__ import annotations

import random
from pathlib import Path

_WORDS = (
    "a the dog cat reeling chandeliers fisherman juggling raincoat BREAK Times 35mm 1girl don't it's dog's café crème "
    "brûlée piñata naïve long-haired 4k --ar 16:9 e\u0301te\u0301 ﬁre İstanbul ẞ Ǆ 猫狗 日本 🐱🎾 ☕ Привет ２３ ½ … — "
    "“quoted” don’t &amp; <lora:x:1> {a|b} [x] [dog:cat:0.5] <|endoftext|> <|startoftext|> a_b !! "
    ") ( : ), (( )) \\( \\) \\\\ \\n ,"
)
_EMBEDDINGS = (
    "embedding:small embedding:wide embedding:one embedding:both embedding:missing embedding:small, embedding:,small, "
    "embedding:missing,, embedding:small,dog embedding:small<x embedding:both[y] embedding:sub/deep "
    "embedding:small.safetensors embedding:embedding:small embedding:"
)
WORDS, EMBEDDINGS = _WORDS.split(), _EMBEDDINGS.split()
GAPS = (" ", " ", " ", "  ", "\n", "\t", ", ", ",", "", "\u3000", " \n ")


def random_prompt(rng: random.Random) -> str:
    """One prompt: words, weights nested to any depth, escapes, embeddings found and missing, odd spaces."""
    length = rng.choice((2, 5, 10, 20, 90))
    prompt = "".join(_item(rng, 0) + rng.choice(GAPS) for _ in range(rng.randint(0, length)))
    # ComfyUI itself fails on an embedding without a name.
    return prompt.replace("embedding: ", "embedding:x ") if prompt.strip() else prompt


def _item(rng: random.Random, depth: int) -> str:
    dice = rng.random()
    if dice < 0.15 and depth < 5:
        inner = " ".join(_item(rng, depth + 1) for _ in range(rng.randint(0, 3)))
        return f"({inner}{rng.choice((':1.2', ':0.5', ':abc', ':', ' : 1.1', '', '', ':nan', ':1e-1'))})"
    if dice < 0.22:
        return rng.choice(EMBEDDINGS)
    if dice < 0.25:
        codes = (rng.choice((rng.randrange(33, 127), rng.randrange(160, 0x2FFF))) for _ in range(rng.randint(1, 6)))
        return "".join(map(chr, codes))
    return rng.choice(WORDS)


def write_embeddings(folder: Path) -> None:
    """Embeddings of several widths and lengths; ``both`` holds SDXL's two."""
    import torch
    from safetensors.torch import save_file

    (folder / "sub").mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.ones(3, 768)}, folder / "small.safetensors")
    save_file({"emb_params": torch.ones(2, 768)}, folder / "sub" / "deep.safetensors")
    save_file({"emb_params": torch.ones(9, 1024)}, folder / "wide.safetensors")
    save_file({"emb_params": torch.ones(768)}, folder / "one.safetensors")
    save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(4, 1280)}, folder / "both.safetensors")
