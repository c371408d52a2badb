"""Interplay: ComfyUI nodes for prompts in which things act on each other.

This file is ComfyUI's door. It imports nothing heavy, so that the package also works without ComfyUI and without torch.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Return the pack's ``ComfyExtension``. Called by ComfyUI; the nodes are imported only now."""
    import logging

    try:
        from .nodes import InterplayExtension
    except Exception:
        # ComfyUI reports one line for a pack that fails to import; users need the traceback to get help.
        logging.getLogger(__name__).exception("Interplay could not be loaded.")
        raise
    return InterplayExtension()
