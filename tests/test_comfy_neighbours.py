"""Guidance next to areas, masks, ControlNet, other nodes' patches and other guiders; most check the gradient."""

from __future__ import annotations

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


def slope_agrees(place, tolerance=0.02):
    gradient = tiny.gradient(place)
    size = float(gradient.norm())
    assert size > 0
    assert abs(size - tiny.slope(place, gradient / size)) < tolerance * size
    return gradient


def run(host, model, positive, negative=None, **settings):
    reports = []
    patched = host.patch_model(model, tiny.settings(), on_report=reports.append)
    return tiny.sample(patched, positive, negative or tiny.text(2), **settings), reports[0]


def test_an_area_is_guided_inside_itself(model, host):
    positive = tiny.guided_text(area=(10, 12, 4, 2)) + tiny.text(5)
    gradient = tiny.at_step(model, positive, slope_agrees)
    inside = torch.zeros_like(gradient, dtype=torch.bool)
    inside[..., 4:14, 2:14] = True
    assert (gradient[~inside] == 0).all() and (gradient[inside] != 0).float().mean() > 0.99
    # the host copies the cond into the negative list, key and all
    assert run(host, model, positive)[1].guided_steps >= 3


def test_an_area_of_two_prompts_side_by_side(model, host):
    positive = tiny.guided_text(1, area=(16, 10, 0, 0)) + tiny.guided_text(3, area=("percentage", 1.0, 0.5, 0.0, 0.5))
    tiny.at_step(model, positive, slope_agrees)
    assert run(host, model, positive)[1].guided_steps >= 3


def test_a_masked_prompt_is_guided_inside_its_mask(model, host):
    mask = torch.zeros(1, 16, 16)
    mask[:, :, :8] = 1.0
    positive = tiny.guided_text(mask=mask, mask_strength=1.0, set_area_to_bounds=False) + tiny.text(5)

    def compare(place):
        slope_agrees(place)
        with torch.inference_mode(False), torch.no_grad():
            (found,) = place.capture(place.z)
        assert (found.maps[..., 8:] == 0).all() and (found.maps[..., :8] > 0).all()

    tiny.at_step(model, positive, compare)


def test_inpainting_sees_what_the_network_sees(model):
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 5:] = 1.0

    def compare(place):
        gradient = slope_agrees(place)
        assert (gradient[..., :5] == 0).all() and (gradient[..., 5:] != 0).all()

    tiny.at_step(model, tiny.guided_text(), compare, mask=mask)


def test_combined_prompts_are_all_guided(model, host):
    positive = tiny.guided_text(1) + tiny.guided_text(3) + tiny.text(5)

    def compare(place):
        slope_agrees(place)
        with torch.inference_mode(False), torch.no_grad():
            assert len(place.capture(place.z)) == 2

    tiny.at_step(model, positive, compare)


def test_a_prompt_that_starts_later_is_guided_later(model, host):
    positive = tiny.guided_text(start_percent=0.5, end_percent=1.0) + tiny.text(5, start_percent=0.0, end_percent=0.5)
    report = run(host, model, positive, steps=8)[1]
    seen = [bool(step.curve) for step in report.steps]
    assert len(seen) == 8 and not any(seen[:3]) and all(seen[5:])


class Control:
    """The least that ComfyUI asks of a ControlNet; adds to the first blocks, and notes how it was called."""

    previous_controlnet = None
    extra_hooks = None

    def __init__(self):
        self.multigpu_clones, self.calls = {}, []

    def pre_run(self, model, percent_to_timestep):
        pass

    def cleanup(self):
        pass

    def get_models(self):
        return []

    def get_extra_hooks(self):
        return []

    def inference_memory_requirements(self, dtype):
        return 0

    def get_control(self, x, t, cond, batched_number, transformer_options=None):
        self.calls.append((torch.is_grad_enabled(), x.requires_grad, tuple(x.shape)))
        wave = torch.cos(torch.arange(x.shape[-1]).float())
        return {"input": [wave.expand(len(x), 32, *x.shape[-2:]).clone()], "middle": [], "output": []}


def test_controlnet_acts_and_stays_out_of_the_gradient(model, host):
    control = Control()
    positive = tiny.guided_text(control=control, control_apply_to_uncond=True)
    with_control = tiny.at_step(model, positive, slope_agrees, negative=tiny.text(2, control=control))
    without = tiny.at_step(model, tiny.guided_text(), tiny.gradient)
    assert not torch.allclose(with_control, without, rtol=0.05)
    assert control.calls and not any(grad or tracked for grad, tracked, _ in control.calls)
    control.calls.clear()
    out, report = run(host, model, positive, tiny.text(2, control=control), steps=3, batch=2)
    assert out.isfinite().all() and report.guided_steps >= 2
    assert any(shape[0] == 2 for _, _, shape in control.calls)


def test_a_foreign_attention_replacement(model):
    from comfy.ldm.modules.attention import attention_basic

    patched = model.clone()
    for block in (("input", 1), ("input", 3), ("output", 0)):
        patched.set_model_attn2_replace(
            lambda q, k, v, extra: 0.5 * attention_basic(q, k, v, extra["n_heads"]), *block
        )
    found = tiny.at_step(patched, tiny.guided_text(), slope_agrees)
    assert not torch.allclose(found, tiny.at_step(model, tiny.guided_text(), tiny.gradient), rtol=0.05)


def test_a_patch_with_tensors_of_its_own(model):
    """As IP-Adapter: cached keys, values and scales, made in inference mode, meet tracked queries."""
    from comfy.ldm.modules.attention import attention_basic

    with torch.inference_mode():
        cached, scales = torch.randn(1, 3, 32), torch.randn(1, 1, 32)

    def added(q, k, v, extra):
        more = cached.expand(len(q), -1, -1)
        heads = extra["n_heads"]
        return attention_basic(q, k, v, heads) + scales * attention_basic(q, more, more, heads)

    patched = model.clone()
    patched.set_model_attn2_replace(added, "input", 1)
    tiny.at_step(patched, tiny.guided_text(), slope_agrees)


def with_override(model, override):
    patched = model.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    return patched


def test_kernels_without_a_gradient_are_replaced_by_exact_attention(model):
    from comfy.ldm.modules.attention import attention_pytorch

    def kernel(func, q, k, v, heads, **kwargs):
        return attention_pytorch(q, k, v, heads, **kwargs).detach()

    def unregistered(func, q, k, v, heads, **kwargs):
        return Kernel.apply(q, k, v, heads, kwargs)

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v, heads, kwargs):
            return attention_pytorch(q, k, v, heads, **kwargs)

        @staticmethod
        def backward(ctx, *grads):
            raise RuntimeError("Trying to backward through a kernel but no autograd formula was registered.")

    wanted = tiny.at_step(model, tiny.guided_text(), tiny.gradient)
    for override in (kernel, unregistered):
        found = tiny.at_step(with_override(model, override), tiny.guided_text(), tiny.gradient)
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_a_differentiable_override_is_kept(model):
    def halved(func, *args, **kwargs):
        return 0.5 * func(*args, **kwargs)

    found = tiny.at_step(with_override(model, halved), tiny.guided_text(), slope_agrees)
    assert not torch.allclose(found, tiny.at_step(model, tiny.guided_text(), tiny.gradient), rtol=0.05)


def test_a_network_that_shrinks_the_picture_inside(model, host):
    """As Kohya's deep shrink: the later layers run on a coarser grid than the latent says."""
    patched = model.clone()

    def shrink(h, extra):
        return torch.nn.functional.avg_pool2d(h, 2) if extra["block"] == ("input", 0) else h

    def grow(h, skip, extra):
        return (torch.nn.functional.interpolate(h, skip.shape[-2:]) if h.shape != skip.shape else h), skip

    patched.set_model_input_block_patch_after_skip(shrink)
    patched.set_model_output_block_patch(grow)
    tiny.at_step(patched, tiny.guided_text(), slope_agrees)


def test_kernels_that_cannot_be_seen_are_warned_of(model, host, monkeypatch, caplog):
    import comfy.model_management
    from comfy.ldm.modules.attention import attention_basic

    monkeypatch.setattr(comfy.model_management, "sage_attention_enabled", lambda: True)
    patched = model.clone()
    patched.set_model_attn2_replace(lambda q, k, v, extra: attention_basic(q, k, v, extra["n_heads"]), "input", 1)
    run(host, model, tiny.guided_text(), steps=1)
    assert "Sage" not in caplog.text
    run(host, patched, tiny.guided_text(), steps=1)
    assert "Sage" in caplog.text


def test_a_model_function_wrapper_still_acts(model, host):
    patched = model.clone()
    calls = []

    def wrapper(apply_model, call):
        calls.append(call["input"].requires_grad)
        return apply_model(call["input"] * 0.9, call["timestep"], **call["c"])

    patched.set_model_unet_function_wrapper(wrapper)
    assert run(host, patched, tiny.guided_text())[1].guided_steps >= 3
    assert calls and not any(calls)


@pytest.mark.parametrize("family", ["SD20", "SDXL"])
def test_other_families_of_stable_diffusion(family, host):
    with torch.inference_mode():
        model = tiny.build(family)
    tiny.at_step(model, tiny.guided_text(), slope_agrees, size=(16, 24))
    assert run(host, model, tiny.guided_text(), size=(12, 20), steps=2, batch=2)[1].guided_steps >= 1


def test_loras_per_prompt_are_kept_apart_in_the_backward_pass(model):
    """Hooks patch the weights cond by cond; each cond's backward pass must see its own."""
    import comfy.hooks

    def hooked(seed, strength):
        generator = torch.Generator().manual_seed(seed)
        deltas = {
            f"diffusion_model.{key}": ("diff", (0.05 * torch.randn(value.shape, generator=generator),))
            for key, value in model.model.diffusion_model.state_dict().items()
            if "attn2.to_q" in key or "proj_in.weight" in key
        }
        group = comfy.hooks.HookGroup()
        hook = comfy.hooks.WeightHook(strength_model=strength, strength_clip=0.0)
        hook.weights, hook.need_weight_init = deltas, False
        group.add(hook)
        return group

    positive = tiny.guided_text(1, hooks=hooked(1, 1.0)) + tiny.guided_text(3, hooks=hooked(2, 1.0))
    found = tiny.at_step(model, positive, slope_agrees)
    assert not torch.allclose(
        found, tiny.at_step(model, tiny.guided_text(1) + tiny.guided_text(3), tiny.gradient), rtol=0.05
    )


def extras(module, name):
    """A core node of either version: (class, its method)."""
    import importlib

    return getattr(pytest.importorskip(module) and importlib.import_module(module), name)


def apply_node(node, *args):
    """Run a core node, old style or new, and take its first output."""
    if hasattr(node, "patch"):
        return node().patch(*args)[0]
    return node.execute(*args).result[0]


def test_perturbed_attention_guidance_is_not_guided_twice(model, host):
    node = extras("comfy_extras.nodes_pag", "PerturbedAttentionGuidance")
    out, report = run(host, apply_node(node, model, 2.0), tiny.guided_text(), steps=4)
    plain, plain_report = run(host, model, tiny.guided_text(), steps=4)
    assert report.forwards == plain_report.forwards == 4
    assert not torch.allclose(out, plain, atol=0.05) and out.isfinite().all()


def test_cached_steps_are_measured_all_the_same(model, host):
    node = extras("comfy_extras.nodes_easycache", "EasyCacheNode")
    cached = apply_node(node, model, 3.0, 0.0, 1.0, False)  # skips every step that it may
    out, report = run(host, cached, tiny.guided_text(), steps=6)
    plain, plain_report = run(host, model, tiny.guided_text(), steps=6)
    assert report.forwards == plain_report.forwards == 6
    assert out.isfinite().all() and not torch.equal(out, plain)


def guider_run(guider, noise):
    import comfy.samplers

    with torch.inference_mode():
        sigmas = comfy.samplers.calculate_sigmas(guider.model_patcher.get_model_object("model_sampling"), "normal", 3)
        sampler = comfy.samplers.sampler_object("euler")
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=1)


def test_dual_cfg_guides_the_prompt_and_not_the_first_row(model, host):
    kind = extras("comfy_extras.nodes_custom_sampler", "Guider_DualCFG")
    reports = []
    guider = kind(host.patch_model(model, tiny.settings(), on_report=reports.append))
    guider.set_conds(tiny.guided_text(1), tiny.text(3), tiny.text(2))
    guider.set_cfg(3.0, 2.0)
    out = guider_run(guider, torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)))
    assert out.isfinite().all() and reports[0].guided_steps >= 2


def test_perp_neg(model, host):
    kind = extras("comfy_extras.nodes_perpneg", "Guider_PerpNeg")
    reports = []
    guider = kind(host.patch_model(model, tiny.settings(), on_report=reports.append))
    guider.set_conds(tiny.guided_text(1), tiny.guided_text(3), tiny.guided_text(4))
    guider.set_cfg(3.0, 1.0)
    from interplay.guidance.hosts.comfyui.passes import GuidedPass

    seen, capture = [], GuidedPass.capture
    GuidedPass.capture = lambda self, z: seen.append(len(found := capture(self, z))) or found
    try:
        guider_run(guider, torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)))
    finally:
        GuidedPass.capture = capture
    assert reports[0].guided_steps >= 2 and set(seen) == {1}  # neither the negative nor the empty prompt


def test_regional_rows_are_refused_in_a_sentence(model, host):
    patched = model.clone()

    def regional(n, context, value, extra):
        return n.repeat(2, 1, 1), context.repeat(2, 1, 1), value.repeat(2, 1, 1)

    patched.set_model_attn2_patch(regional)
    with pytest.raises(InterplayError, match="2 rows for 1 image"):
        run(host, patched, tiny.guided_text())


def test_joined_tokens_are_refused_in_a_sentence(model, host):
    patched = model.clone()

    def joined(n, context, value, extra):
        return n, torch.cat([context, context[:, :4]], 1), torch.cat([value, value[:, :4]], 1)

    patched.set_model_attn2_patch(joined)
    with pytest.raises(InterplayError, match=f"{tiny.LENGTH + 4} tokens"):
        run(host, patched, tiny.guided_text())


def test_tiled_models_are_refused_in_a_sentence(model, host):
    patched = model.clone()

    def tiled(apply_model, call):
        left = apply_model(call["input"][..., :8], call["timestep"], **call["c"])
        return torch.cat([left, left], -1)

    patched.set_model_unet_function_wrapper(tiled)
    with pytest.raises(InterplayError, match="splits or joins"):
        run(host, patched, tiny.guided_text())


def test_attention_maps_are_those_of_the_model(model):
    from interplay.guidance.hosts.comfyui.maps import attention_maps

    with torch.inference_mode():
        latent = {"samples": torch.randn(2, 4, 12, 20, generator=torch.Generator().manual_seed(4))}
        found = attention_maps(model, tiny.guided_text(), latent, percent=0.4, seed=6)
        again = attention_maps(model, tiny.guided_text(), latent, percent=0.4, seed=6)
    assert found.maps.shape == (2, 4, 12, 20) and torch.equal(found.maps, again.maps)
    assert [word.text for word in found.graph.words] == ["red", "cat", "chases", "dog"]

    def compare(place):
        with torch.inference_mode(False), torch.no_grad():
            (there,) = place.capture(place.z)
        assert torch.allclose(there.maps, found.maps, rtol=1e-4, atol=1e-6)

    tiny.at_step(
        model, tiny.guided_text(), compare, sigma=found.sigma, latent=latent["samples"], seed=6, negative=tiny.text(2)
    )
    with pytest.raises(InterplayError, match="carries no hypergraph"):
        attention_maps(model, tiny.text(1), latent)
