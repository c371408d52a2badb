"""Guidance through ComfyUI's own sampling call, on a tiny U-Net: what it does, what it leaves alone, what it says."""

from __future__ import annotations

import logging

import comfy_tiny as tiny
import pytest
import torch
from interplay.errors import InterplayError

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def model():
    with torch.inference_mode():
        return tiny.build()


@pytest.fixture(scope="module")
def host():
    from interplay.guidance.hosts.comfyui import guidance

    return guidance


def guided(host, model, mode="latent", **changes):
    reports = []
    return host.patch_model(model, tiny.settings(**changes), mode=mode, on_report=reports.append), reports


def state_of(model):
    """All that a run might leave behind on a model."""
    unet = model.model.diffusion_model
    modules = [
        (name, id(m), sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks), m.__dict__.get("forward"))
        for name, m in unet.named_modules()
    ]
    weights = [(name, id(p), p.is_inference(), p.requires_grad) for name, p in unet.named_parameters()]
    sums = [float(p.float().sum()) for p in unet.parameters()]
    options = {kind: {key: len(found) for key, found in keys.items()} for kind, keys in model.wrappers.items()}
    return modules, weights, sums, options, repr(model.model_options)


def test_guidance_moves_the_picture_and_lowers_its_loss(model, host):
    patched, reports = guided(host, model)
    positive, negative = tiny.guided_text(), tiny.text(2)
    out, plain = tiny.sample(patched, positive, negative), tiny.sample(model, positive, negative)
    assert not torch.allclose(out, plain, atol=0.1)
    (report,) = reports
    assert report.guided_steps >= 3
    contrast = [step.curve["C"][0][0] for step in report.steps]
    assert contrast[-1] < contrast[0]


def test_strength_zero_is_bit_identical(model, host):
    positive, negative = tiny.guided_text(), tiny.text(2)
    patched, reports = guided(host, model, strength=0.0)
    assert torch.equal(tiny.sample(patched, positive, negative), tiny.sample(model, positive, negative))
    assert reports[0].forwards == 0


def test_unguided_steps_run_no_gradient_and_are_not_counted(model, host):
    patched, reports = guided(host, model, start=0.25, end=0.75)
    tiny.sample(patched, tiny.guided_text(), tiny.text(2), steps=8)
    assert [step.progress for step in reports[0].steps] == [2 / 8, 3 / 8, 4 / 8, 5 / 8]
    assert reports[0].forwards == 4


def test_a_run_without_a_guided_step_says_so(model, host, caplog):
    patched, reports = guided(host, model, start=0.9)
    with caplog.at_level(logging.WARNING, logger="interplay"):
        out = tiny.sample(patched, tiny.guided_text(), tiny.text(2))
    assert "guided no step" in caplog.text and reports[0].guided_steps == 0
    assert torch.equal(out, tiny.sample(model, tiny.guided_text(), tiny.text(2)))


@pytest.mark.parametrize("ending", ["success", "error", "interrupt"])
def test_the_model_is_left_as_it_was_found(model, host, ending):
    import comfy.model_management

    patched, _ = guided(host, model)
    tiny.sample(model, tiny.guided_text(), tiny.text(2), steps=1)
    before, before_patched = state_of(model), state_of(patched)

    def callback(step, *args):
        if ending == "error" and step == 1:
            raise ZeroDivisionError
        if ending == "interrupt" and step == 1:
            comfy.model_management.interrupt_current_processing(True)

    expected = {
        "success": None,
        "error": ZeroDivisionError,
        "interrupt": comfy.model_management.InterruptProcessingException,
    }[ending]
    if expected is None:
        tiny.sample(patched, tiny.guided_text(), tiny.text(2), callback=callback)
    else:
        with pytest.raises(expected):
            tiny.sample(patched, tiny.guided_text(), tiny.text(2), callback=callback)
    assert state_of(model) == before and state_of(patched) == before_patched


def test_an_error_inside_the_gradient_leaves_nothing_behind(model, host):
    patched, _ = guided(host, model)
    before = state_of(model)

    def broken(q, k, v, extra):
        raise ArithmeticError("another node's mistake")

    patched.set_model_attn2_replace(broken, "input", 1)
    with pytest.raises(ArithmeticError):
        tiny.sample(patched, tiny.guided_text(), tiny.text(2))
    assert state_of(model) == before


def test_an_interrupt_is_heard_between_refinements(model, host, monkeypatch):
    import comfy.model_management
    from interplay.guidance.hosts.comfyui.passes import GuidedPass

    patched, _ = guided(host, model, refine_at=(0.0,), refine_iterations=(50,))
    capture, calls = GuidedPass.capture, []

    def counted(self, z):
        calls.append(1)
        if len(calls) == 3:
            comfy.model_management.interrupt_current_processing(True)
        return capture(self, z)

    monkeypatch.setattr(GuidedPass, "capture", counted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(patched, tiny.guided_text(), tiny.text(2))
    assert len(calls) == 3


def test_a_patched_model_keeps_no_state_between_runs(model, host):
    patched, reports = guided(host, model)
    first = tiny.sample(patched, tiny.guided_text(), tiny.text(2))
    again = tiny.sample(patched, tiny.guided_text(), tiny.text(2))
    assert torch.equal(first, again) and reports[0].to_dict() == reports[1].to_dict()


def test_guiding_a_guided_model_replaces_the_settings(model, host):
    twice = host.patch_model(host.patch_model(model, tiny.settings()), tiny.settings(strength=0.0))
    assert torch.equal(
        tiny.sample(twice, tiny.guided_text(), tiny.text(2)), tiny.sample(model, tiny.guided_text(), tiny.text(2))
    )
    assert all(len(found) == 1 for keys in twice.wrappers.values() for found in keys.values())


@pytest.mark.parametrize("mode", ["latent", "denoised"])
def test_a_batch_is_guided_as_its_images_one_by_one(model, host, mode):
    patched, _ = guided(host, model, mode)
    noise = torch.randn(3, 4, 12, 20, generator=torch.Generator().manual_seed(9))
    together = tiny.sample(patched, tiny.guided_text(), tiny.text(2), noise=noise, steps=3)
    for i in range(3):
        alone = tiny.sample(patched, tiny.guided_text(), tiny.text(2), noise=noise[i : i + 1], steps=3)
        assert torch.allclose(together[i], alone[0], rtol=1e-3, atol=1e-2 * float(alone.std()))


def test_a_mask_of_ones_changes_nothing(model, host):
    patched, _ = guided(host, model)
    plain = tiny.sample(patched, tiny.guided_text(), tiny.text(2))
    masked = tiny.sample(patched, tiny.guided_text(), tiny.text(2), mask=torch.ones(1, 16, 16))
    assert torch.allclose(plain, masked, rtol=1e-4, atol=1e-4)


def test_outside_an_inpainting_mask_the_picture_stays(model, host):
    patched, reports = guided(host, model)
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 128, 128)
    mask[:, :, 64:] = 1.0
    settings = {"mask": mask, "latent": latent}
    out = tiny.sample(patched, tiny.guided_text(), tiny.text(2), **settings)
    plain = tiny.sample(model, tiny.guided_text(), tiny.text(2), **settings)
    assert torch.allclose(out[..., :8], latent[..., :8], atol=1e-4)
    assert reports[0].guided_steps >= 3 and not torch.allclose(out[..., 8:], plain[..., 8:], atol=0.1)


def test_guidance_works_without_classifier_free_guidance(model, host):
    patched, reports = guided(host, model)
    out = tiny.sample(patched, tiny.guided_text(), tiny.text(2), cfg=1.0)
    assert reports[0].guided_steps >= 3 and out.isfinite().all()


def test_denoised_mode_shifts_the_picture(model, host):
    patched, reports = guided(host, model, "denoised")
    for sampler in ("euler", "dpm_2"):
        out = tiny.sample(patched, tiny.guided_text(), tiny.text(2), sampler=sampler)
        plain = tiny.sample(model, tiny.guided_text(), tiny.text(2), sampler=sampler)
        assert out.isfinite().all() and not torch.allclose(out, plain, atol=0.05)
    assert all(report.guided_steps for report in reports)


QUICK = ["euler_ancestral", "heun", "dpmpp_2s_ancestral", "dpmpp_2m_sde", "euler_cfg_pp", "sa_solver", "uni_pc", "ddim"]


def effective(model, host, sampler, scheduler="normal", mode="latent"):
    patched, reports = guided(host, model, mode)
    settings = {"sampler": sampler, "scheduler": scheduler, "size": (12, 12), "steps": 4}
    out = tiny.sample(patched, tiny.guided_text(), tiny.text(2), **settings)
    plain = tiny.sample(model, tiny.guided_text(), tiny.text(2), **settings)
    assert out.isfinite().all(), sampler
    assert reports[0].guided_steps >= 2, sampler
    assert float((out - plain).norm() / plain.norm()) > 0.02, sampler


@pytest.mark.parametrize("sampler", QUICK)
def test_samplers_are_guided(model, host, sampler):
    effective(model, host, sampler)


@pytest.mark.slow
def test_every_sampler_and_scheduler_is_guided(model, host):
    import comfy.samplers

    for sampler in comfy.samplers.SAMPLER_NAMES:
        if sampler != "dpm_adaptive":  # divides its steps without end on a random model
            effective(model, host, sampler)
            effective(model, host, sampler, mode="denoised")
    for scheduler in comfy.samplers.SCHEDULER_NAMES:
        effective(model, host, "euler", scheduler)


def test_memory_is_reserved_for_the_backward_pass(model, host, monkeypatch):
    import comfy.sampler_helpers

    shapes = []
    prepare = comfy.sampler_helpers._prepare_sampling

    def noted(model, shape, *args, **kwargs):
        shapes.append(shape)
        return prepare(model, shape, *args, **kwargs)

    monkeypatch.setattr(comfy.sampler_helpers, "_prepare_sampling", noted)
    monkeypatch.setattr(type(model.model), "memory_required", lambda self, shape, cond_shapes={}: 1000.0 * shape[0])
    tiny.sample(guided(host, model)[0], tiny.guided_text(), tiny.text(2), batch=2, steps=1)
    tiny.sample(model, tiny.guided_text(), tiny.text(2), batch=2, steps=1)
    needed = 2 * host.BYTES_PER_CELL[False] * 2 * 16 * 16  # measured for fp16; this model is fp32
    assert list(shapes[1]) == [2, 4, 16, 16]
    assert 1000 * 2 * (shapes[0][0] - 2) >= needed and list(shapes[0][1:]) == [4, 16, 16]


def out_of_memory(*args, **kwargs):
    raise torch.cuda.OutOfMemoryError("no memory left")


def test_a_batch_that_does_not_fit_is_guided_image_by_image(model, host, monkeypatch, caplog):
    from interplay.guidance.hosts.comfyui.passes import _Measure

    patched, reports = guided(host, model)
    settings = {"batch": 2, "size": (12, 12), "steps": 3}
    wanted = tiny.sample(patched, tiny.guided_text(), tiny.text(2), **settings)
    whole = _Measure._unet_maps

    def small(self, executor, call, options, kwargs, row, crop):
        return whole(self, executor, call, options, kwargs, row, crop) if len(crop) == 1 else out_of_memory()

    monkeypatch.setattr(_Measure, "_unet_maps", small)
    with caplog.at_level(logging.WARNING, logger="interplay"):
        found = tiny.sample(patched, tiny.guided_text(), tiny.text(2), **settings)
    assert "one by one" in caplog.text
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-2 * float(wanted.std()))
    assert reports[0].guided_steps == reports[1].guided_steps


def test_when_nothing_fits_the_picture_is_sampled_all_the_same(model, host, monkeypatch, caplog):
    from interplay.guidance.hosts.comfyui.passes import _Measure

    patched, _ = guided(host, model)
    monkeypatch.setattr(_Measure, "_unet_maps", out_of_memory)
    with caplog.at_level(logging.WARNING, logger="interplay"):
        found = tiny.sample(patched, tiny.guided_text(), tiny.text(2))
    assert "not guided" in caplog.text
    assert torch.equal(found, tiny.sample(model, tiny.guided_text(), tiny.text(2)))


def test_the_sampling_call_of_the_node_is_comfyui_s_own(model, host):
    latent = {"samples": torch.zeros(2, 4, 12, 12), "batch_index": [0, 3], "note": "kept"}
    with torch.inference_mode():
        arguments = (5, 3, 3.0, "euler", "normal", tiny.guided_text(), tiny.text(2), latent, 1.0)
        out, report = host.sample(model, *arguments, tiny.settings(strength=0.0))
        moved, moved_report = host.sample(model, *arguments, tiny.settings())
    generator = torch.manual_seed(5)
    noise = torch.cat([torch.randn(1, 4, 12, 12, generator=generator) for _ in range(4)])[[0, 3]]
    plain = tiny.sample(model, tiny.guided_text(), tiny.text(2), noise=noise, steps=3)
    assert torch.equal(out["samples"], plain) and out["note"] == "kept" and report.forwards == 0
    assert moved_report.guided_steps >= 2 and not torch.allclose(moved["samples"], plain, atol=0.1)


# --- one sentence -----------------------------------------------------------------------------------------------------


def complaint(model, host, positive, **settings):
    patched, _ = guided(host, model)
    with pytest.raises(InterplayError) as caught:
        tiny.sample(patched, positive, tiny.text(2), **settings)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 260
    return text


def test_conditioning_without_a_hypergraph(model, host):
    assert "carries no hypergraph" in complaint(model, host, tiny.text(1))


def test_conditioning_joined_with_another_prompt(model, host):
    (tensor, extra), = tiny.guided_text()
    joined = [[torch.cat([tensor, tensor], 1), extra]]
    assert f"{tiny.LENGTH}" in complaint(model, host, joined)


def test_a_hypergraph_of_another_prompt(host):
    from interplay.guidance.hosts.comfyui.conditioning import encode

    with pytest.raises(InterplayError, match="another prompt"):
        encode(object(), "a horse pulls a cart", tiny.hypergraph())
    with pytest.raises(InterplayError, match="no CLIP"):
        encode(None, tiny.PROMPT, tiny.hypergraph())


def test_latents_that_are_not_finite_or_do_not_fit(model, host):
    nan = torch.zeros(1, 4, 16, 16)
    nan[0, 0, 0, 0] = float("nan")
    assert "NaN" in complaint(model, host, tiny.guided_text(), latent=nan)
    assert "does not fit" in complaint(model, host, tiny.guided_text(), latent=torch.randn(1, 16, 16, 16))


def test_other_model_families(model, host):
    other = model.clone()
    other.add_object_patch("diffusion_model", torch.nn.Linear(4, 4))
    with pytest.raises(InterplayError, match=r"Stable Diffusion 1\.x, 2\.x and SDXL"):
        host.patch_model(other, tiny.settings())


def test_compiled_models(model, host):
    import comfy.patcher_extension

    patched, _ = guided(host, model)
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    patched.add_wrapper_with_key(kind, "torch.compile", lambda executor, *a, **k: executor(*a, **k))
    with pytest.raises(InterplayError, match=r"torch\.compile"):
        tiny.sample(patched, tiny.guided_text(), tiny.text(2))


def test_models_spread_over_several_gpus(model, host):
    patched, _ = guided(host, model)
    patched.model_options["multigpu_clones"] = {}
    with pytest.raises(InterplayError, match="one GPU"):
        tiny.sample(patched, tiny.guided_text(), tiny.text(2))


def test_samplers_of_another_kind(model, host):
    import comfy.sample

    class Foreign:
        def sample(self, *args, **kwargs):
            raise AssertionError

    patched, _ = guided(host, model)
    latent = torch.zeros(1, 4, 16, 16)
    sigmas = torch.tensor([4.0, 0.0])
    with pytest.raises(InterplayError, match="Foreign"), torch.inference_mode():
        comfy.sample.sample_custom(
            patched, latent, 3.0, Foreign(), sigmas, tiny.guided_text(), tiny.text(2), latent, disable_pbar=True, seed=0
        )


def test_unknown_modes(model, host):
    with pytest.raises(InterplayError, match="sideways"):
        host.patch_model(model, tiny.settings(), mode="sideways")
