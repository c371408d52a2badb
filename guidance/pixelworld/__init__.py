"""PixelWorld: the embedded text-to-image model and its world of 32x32 pixel art.

``world`` says what exists and makes prompts, ``render`` draws, ``detect`` reads pictures back, ``train`` makes the
weights that ``weights_dir`` finds. The weights are an ordinary diffusers pipeline folder; ``guidance/hosts`` has a
loader for each host.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ...errors import InterplayError

MANIFEST = "manifest.json"


def weights_dir(folder: Path | None = None) -> Path:
    """The folder with PixelWorld's weights, after checking every file against the manifest.

    Args:
        folder: another folder of the same layout, such as the one written by ``interplay train pixelworld``.

    Raises:
        InterplayError: a file is missing or damaged.
    """
    folder = folder or Path(__file__).parent / "weights"
    try:
        manifest: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InterplayError(
            f"There are no PixelWorld weights in {folder}; reinstall Interplay or run `interplay train pixelworld`."
        ) from None
    except ValueError:
        raise InterplayError(
            f"PixelWorld's {folder / MANIFEST} is damaged; reinstall Interplay to restore it."
        ) from None
    for name, digest in manifest.items():
        path = folder / name
        if not path.is_file():
            raise InterplayError(f"PixelWorld's file {path} is missing; reinstall Interplay to restore it.")
        if file_digest(path) != digest:
            raise InterplayError(f"PixelWorld's file {path} is damaged; reinstall Interplay to restore it.")
    return folder


def file_digest(path: Path) -> str:
    """SHA-256 of a file; line ends of text files are unified first, because a checkout may change them."""
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        content = content.replace(b"\r\n", b"\n")
    return hashlib.sha256(content).hexdigest()
