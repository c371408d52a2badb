"""``interplay doctor``: what is installed, what is missing, and what to do about it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InterplayError


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``advice`` is one sentence when something is missing or will not work."""

    name: str
    state: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print all findings; always 0, since what is missing is a finding and no failure."""
    for finding in findings():
        sys.stdout.write(f"{finding.name:<14}{finding.state}\n")
        if finding.advice:
            sys.stdout.write(f"{'':<14}-> {finding.advice}\n")
    return 0


def findings() -> Iterator[Finding]:
    """Everything worth knowing about this installation, in reading order."""
    yield Finding("Python", f"{platform.python_version()} on {platform.system()} ({platform.machine()})")
    yield _package("spacy", "spaCy", 'The parser needs it: run pip install "spacy>=3.7".')
    yield _package("lemminflect", "lemminflect", 'The parser needs it: run pip install "lemminflect>=0.2.3".')
    yield _parsers()
    demo = 'The demo without ComfyUI needs it: run pip install "interplay[demo]".'
    yield _package("torch", "torch", "Guidance needs it: install torch as its web site says for your machine.")
    yield _package("transformers", "transformers", demo)
    yield _package("diffusers", "diffusers", demo)
    yield _gpu()
    yield _comfyui()
    yield _weights()


def _package(module: str, name: str, advice: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(name, "missing", advice)
    try:
        return Finding(name, importlib.metadata.version(module))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "installed, version unknown")


def _guarded(name: str, look: Callable[[], Finding], advice: str) -> Finding:
    """A broken installation is what a doctor is for: whatever an import raises becomes a finding."""
    try:
        return look()
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        return Finding(name, f"does not work ({reason})", advice)


def _parsers() -> Finding:
    def look() -> Finding:
        from ..parsing import available_parsers, parse

        actions = [e.action for e in parse("a cat chasing a mouse").hyperedges]
        if actions != ["chasing"]:
            raise InterplayError(f"'a cat chasing a mouse' gave the actions {actions}")
        names = available_parsers()
        more = "The rules need no model; python -m spacy download en_core_web_sm adds a choice."
        return Finding("parsers", ", ".join(names), "" if len(names) > 2 else more)

    return _guarded("parsers", look, "Install the package again: pip install --force-reinstall interplay.")


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("GPU", "unknown without torch")

    def look() -> Finding:
        import torch

        if torch.cuda.is_available():
            memory = torch.cuda.get_device_properties(0).total_memory / 2**30
            return Finding("GPU", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
        if torch.backends.mps.is_available():
            return Finding("GPU", "Apple (MPS)")
        return Finding("GPU", "none", "PixelWorld runs on the processor; full-size models want a GPU.")

    return _guarded("GPU", look, "Install torch again as its web site says for your machine.")


def find_comfyui() -> Path | None:
    """``COMFYUI_PATH``, else the ComfyUI that this folder is a custom node of, else the usual places."""
    named = os.environ.get("COMFYUI_PATH")
    package = Path(__file__).resolve().parents[1]
    places = [package.parents[1], Path.home() / "comfy" / "ComfyUI", Path.home() / "ComfyUI"]
    for place in [Path(named)] if named else places:
        if (place / "comfy" / "sd.py").is_file():
            return place
    return None


def _comfyui() -> Finding:
    path = find_comfyui()
    if path is None:
        named = os.environ.get("COMFYUI_PATH")
        wrong = f"COMFYUI_PATH is {named}, which holds none; correct it"
        where = wrong if named else "Set COMFYUI_PATH if you have one"
        return Finding("ComfyUI", "not found", f"{where}; without it the demo runs through diffusers.")
    version = comfyui_version(path)
    advice = ""
    if version and tuple(map(int, version.split(".")[:3])) < (0, 3, 64):
        advice = "Interplay needs ComfyUI 0.3.64 or newer; update it."
    return Finding("ComfyUI", f"{version or 'version unknown'} in {path}", advice)


def comfyui_version(path: Path) -> str:
    """The version that a ComfyUI checkout declares, "" when it declares none."""
    file = path / "comfyui_version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    match = re.search(r"__version__\s*=\s*[\"'](\d+(?:\.\d+)*)", text)
    return match[1] if match else ""


def _weights() -> Finding:
    folder = Path(__file__).resolve().parent / "pixelworld" / "weights"
    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    if not files:
        advice = "Fetch the package again with its weights, or make them with interplay train."
        return Finding("PixelWorld", "no weights", advice)
    size = sum(f.stat().st_size for f in files) / 2**20
    return Finding("PixelWorld", f"{len(files)} weight files, {size:.1f} MiB")
