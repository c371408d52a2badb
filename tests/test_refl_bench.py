"""LoRAs as methods of the benchmark."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.bench.methods import Batch, make
from interplay.guidance.training.lora import inject, save

PROMPT = "a red robot carrying a blue box in the forest"


@pytest.fixture(scope="module")
def pipeline():
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld

    return load_pixelworld()


@pytest.fixture(scope="module")
def file(pipeline, tmp_path_factory):
    lora = inject(pipeline.unet, 2, seed=1)
    with torch.no_grad():
        for adapter in lora.adapters:
            adapter.up.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    lora.remove()
    return save(lora, tmp_path_factory.mktemp("lora") / "x.safetensors", "kohya")


def test_a_lora_acts_under_other_methods_and_leaves_the_pipeline(pipeline, file):
    batch = Batch((PROMPT,), (3,), steps=3)
    drawn = {}
    for name, settings in {
        "plain": {"kind": "plain"},
        "off": {"kind": "lora", "file": str(file), "strength": 0.0},
        "on": {"kind": "lora", "file": str(file)},
        "SHY": {"preset": "SHY"},
        "on + SHY": {"kind": "lora", "file": str(file), "preset": "SHY"},
    }.items():
        drawn[name] = make(name, settings).draw(pipeline, batch)[0].image
    assert np.array_equal(drawn["plain"], drawn["off"])
    pairs = [("plain", "on"), ("SHY", "on + SHY"), ("on", "on + SHY")]
    assert all(not np.array_equal(drawn[a], drawn[b]) for a, b in pairs)
    assert not any(module._forward_hooks for module in pipeline.unet.modules())


def test_settings_make_the_same_method_again_and_name_its_content(pipeline, file):
    first = make("x", {"kind": "lora", "file": str(file), "preset": "SHY", "step": 0.05})
    again = make("x", first.settings)
    assert again.settings == first.settings and first.settings["step"] == 0.05
    with pytest.raises(InterplayError, match="is not the one that the run began with"):
        make("x", {**first.settings, "sha256": "0"})
    with pytest.raises(InterplayError, match="needs the 'file'"):
        make("x", {"kind": "lora"})
