"""What a guidance pass may cost at full size, counted on meta tensors through the hosts' own code."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def cost():
    spec = importlib.util.spec_from_file_location("interplay_benchmark_cost", ROOT / "benchmarks" / "cost.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def within_the_budget(found):
    assert found.plain_gflop == pytest.approx(803, rel=0.02)  # SD1.5 at 512x512, as published counts have it
    assert found.layers == 5
    assert found.forward <= 0.55 and found.backward <= 0.65
    assert found.kept <= 0.4
    assert found.whole_forward > 0.99 and found.whole_kept > 1.5 * found.kept  # what stopping early saves


def test_a_pass_on_sd15_costs_half_a_forward_and_keeps_little_in_diffusers(cost):
    within_the_budget(cost.diffusers_cost("SD1.5", 64, 64))


@pytest.mark.comfy
def test_a_pass_on_sd15_costs_half_a_forward_and_keeps_little_in_comfyui(cost):
    within_the_budget(cost.comfyui_cost("SD1.5", 64, 64))
