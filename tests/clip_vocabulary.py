"""CLIP's tokenizer from the files at hand: PixelWorld's weights, else a ComfyUI. Not a test itself."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ROOT, comfyui_path


def clip_tokenizer() -> Any:
    """transformers' ``CLIPTokenizer``; skips the test where there are no vocabulary files."""
    transformers = pytest.importorskip("transformers")
    folders = (ROOT / "guidance/pixelworld/weights/tokenizer", comfyui_path() / "comfy/sd1_tokenizer")
    folder = next((f for f in folders if (f / "merges.txt").is_file()), None)
    if folder is None:
        pytest.skip("no CLIP vocabulary: neither PixelWorld's weights nor a ComfyUI are here")
    return transformers.CLIPTokenizer.from_pretrained(str(folder))
