"""Shared set-up: find the package, find a ComfyUI, and say visibly when host tests cannot run."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _register_package() -> None:
    """Make ``import interplay`` work from a checkout that was not installed."""
    if importlib.util.find_spec("interplay") is not None:
        return
    spec = importlib.util.spec_from_file_location(
        "interplay", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["interplay"] = module
    spec.loader.exec_module(module)


_register_package()


def comfyui_path() -> Path:
    """The ComfyUI that host tests use: ``COMFYUI_PATH``, else where comfy-cli puts it."""
    return Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")


def _why_no_comfyui() -> str | None:
    path = comfyui_path()
    if not (path / "comfy" / "sd.py").is_file():
        return f"no ComfyUI at {path}; set COMFYUI_PATH to a checkout to run this test"
    needed = ("torch", "torchvision", "torchsde", "einops", "aiohttp", "av")
    missing = [m for m in needed if not importlib.util.find_spec(m)]
    if missing:
        return f"ComfyUI at {path} lacks its requirements in this environment ({', '.join(missing)})"
    return None


def _enter_comfyui() -> None:
    """Put ComfyUI on the path in CPU mode, before anything imports ``comfy.model_management``."""
    path = str(comfyui_path())
    if path not in sys.path:
        sys.path.insert(0, path)
    argv, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = argv


WHY_NO_COMFYUI = _why_no_comfyui()
if WHY_NO_COMFYUI is None:
    _enter_comfyui()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wants_slow = "slow" in (config.getoption("-m") or "")
    for item in items:
        markers = {mark.name for mark in item.iter_markers()}
        if markers & {"comfy", "server", "browser"} and WHY_NO_COMFYUI is not None:
            item.add_marker(pytest.mark.skip(reason=WHY_NO_COMFYUI))
        if "slow" in markers and not wants_slow:
            item.add_marker(pytest.mark.skip(reason="slow sweep; run with -m slow"))
