"""Guidance through ComfyUI's own sampling call, on a tiny U-Net."""

from __future__ import annotations

import comfy_tiny as tiny
import pytest
import torch

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def model():
    with torch.inference_mode():
        return tiny.build()


@pytest.fixture(scope="module")
def host():
    from interplay.guidance.hosts.comfyui import guidance

    return guidance


def test_guidance_moves_the_picture_and_lowers_its_loss(model, host):
    reports = []
    guided = host.patch_model(model, tiny.settings(), on_report=reports.append)
    positive, negative = tiny.guided_text(), tiny.text(2)
    assert not torch.allclose(tiny.sample(guided, positive, negative), tiny.sample(model, positive, negative), atol=0.1)
    (report,) = reports
    assert report.guided_steps >= 3
    contrast = [step.curve["C"][0][0] for step in report.steps]
    assert contrast[-1] < contrast[0]


def test_strength_zero_is_bit_identical(model, host):
    positive, negative = tiny.guided_text(), tiny.text(2)
    guided = host.patch_model(model, tiny.settings(strength=0.0))
    assert torch.equal(tiny.sample(guided, positive, negative), tiny.sample(model, positive, negative))
