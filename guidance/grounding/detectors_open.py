"""Which model of transformers is opened by what, by ``model_type`` of its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

DETECTORS: dict[str, Callable[..., Any]] = {}
SEGMENTERS: dict[str, Callable[..., Any]] = {}
