"""The gradient of word maps with respect to the latent, in every state that ComfyUI's weights can be in."""

from __future__ import annotations

import contextlib

import comfy_tiny as tiny
import pytest
import torch

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def model():
    with torch.inference_mode():
        return tiny.build()


def reference_gradient(place, model, cond_seed=1):
    """The whole network without hooks, wrappers or recomputation: a deep copy of plain fp32 weights under autograd."""
    import copy

    from interplay.guidance.hosts.comfyui.capture import guided_layers
    from interplay.guidance.maps import attention_columns, word_maps

    graph = next(iter(place.graphs.values()))
    with torch.inference_mode(False), torch.enable_grad():
        base = model.model
        unet = copy.deepcopy(base.diffusion_model)
        unet.load_state_dict({k: v.clone() for k, v in base.diffusion_model.state_dict().items()}, assign=True)
        layers = guided_layers(unet, *place.z.shape[-2:])
        columns, queries = [], {}
        for layer in layers:
            layer.attention.to_q.register_forward_hook(lambda m, i, o, a=layer.attention: queries.__setitem__(a, o))
            layer.attention.to_k.register_forward_hook(
                lambda m, i, o, a=layer.attention: columns.append(
                    attention_columns(queries[a], o, a.heads, graph.positions, length=graph.length)
                )
            )
        z = place.z.clone().requires_grad_()
        sigma = place.sigma.clone()
        context = tiny.text(cond_seed)[0][0].clone().expand(len(z), -1, -1)
        unet(z, base.model_sampling.timestep(sigma).float().clone(), context=context, transformer_options={})
        maps = word_maps(sum(columns) / len(columns), graph, *layers[-1].grid)
        return torch.autograd.grad(tiny.probe(maps), z)[0]


def agree(found, wanted, tolerance):
    error = float((found - wanted).norm() / wanted.norm())
    assert error < tolerance, f"relative error {error:.2e}"


def slopes_agree(place, tolerance):
    gradient, direction = tiny.gradient(place), tiny.direction(place)
    along = float((gradient * direction).sum())
    direct = float(gradient.norm())
    assert abs(along - tiny.slope(place, direction)) < tolerance * direct
    steepest = gradient / gradient.norm()
    assert abs(direct - tiny.slope(place, steepest)) < tolerance * direct


@pytest.mark.parametrize("size, batch", [((16, 16), 1), ((12, 22), 2), ((17, 13), 1)])
def test_gradient_equals_that_of_the_plain_network(model, size, batch):
    def compare(place):
        agree(tiny.gradient(place), reference_gradient(place, model), 1e-4)

    tiny.at_step(model, tiny.guided_text(), compare, size=size, batch=batch)


def test_gradient_equals_finite_differences(model):
    tiny.at_step(model, tiny.guided_text(), lambda place: slopes_agree(place, 0.02))


def test_weights_of_the_test_model_are_inference_tensors(model):
    assert all(p.is_inference() for p in model.model.diffusion_model.parameters())


def test_stopping_early_leaves_the_gradient_as_it_is_to_the_bit(model, monkeypatch):
    from interplay.guidance.hosts.comfyui.capture import MapCapture

    whole = MapCapture.hooked
    ran = []
    handle = model.model.diffusion_model.out.register_forward_hook(lambda *args: ran.append(1))

    def compare(place):
        short = tiny.gradient(place)
        assert not ran
        monkeypatch.setattr(MapCapture, "hooked", lambda self: whole(self, stop=False))
        assert torch.equal(tiny.gradient(place), short)
        assert ran

    try:
        tiny.at_step(model, tiny.guided_text(), compare, size=(16, 24), batch=2)
    finally:
        handle.remove()


# --- weight states ----------------------------------------------------------------------------------------------------


def linears(model):
    return [m for m in model.model.diffusion_model.modules() if isinstance(m, torch.nn.Linear)]


@contextlib.contextmanager
def plain(place):
    yield


@contextlib.contextmanager
def weight_functions(place):
    """As for a LoRA on a model that does not fit: the layer's weight passes through a function at every call."""
    changed = [m for m in place.unet.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    for module in changed:
        module.weight_function = [lambda w: w * 1.1 + 0.01]
    try:
        yield
    finally:
        for module in changed:
            module.weight_function = []


@contextlib.contextmanager
def one_buffer(place):
    """As with asynchronous offloading: every weight is cast into the same memory, made in inference mode."""
    import comfy.ops

    original = comfy.ops.cast_bias_weight
    owners = [m for m in place.unet.modules() if isinstance(m, comfy.ops.CastWeightBiasOp)]
    with torch.inference_mode():
        buffer = torch.empty(2**18)

    def cast(module, input=None, *args, offloadable=False, **kwargs):
        found, at = [], 0
        for tensor in (module.weight, module.bias):
            if tensor is not None:
                view = buffer[at : at + tensor.numel()].view(tensor.shape)
                at += tensor.numel()
                view.copy_(tensor)
                tensor = view
            found.append(tensor)
        return (*found, None) if offloadable else tuple(found)

    for module in owners:
        module.comfy_cast_weights = True
    comfy.ops.cast_bias_weight = cast
    try:
        yield
    finally:
        comfy.ops.cast_bias_weight = original
        for module in owners:
            del module.comfy_cast_weights


def with_lora(model):
    patched = model.clone()
    weights = model.model.diffusion_model.state_dict()
    deltas = {
        f"diffusion_model.{key}": ("diff", (0.05 * torch.randn(value.shape),))
        for key, value in weights.items()
        if value.ndim == 2
    }
    assert len(patched.add_patches(deltas)) == len(deltas)
    return patched


STATES = {
    "fp32": (lambda: tiny.build(), plain, 0.02),
    "bf16 cast to fp32": (lambda: tiny.build(dtype=torch.bfloat16, manual_cast=torch.float32), plain, 0.02),
    "fp8 cast to fp32": (lambda: tiny.build(dtype=torch.float8_e4m3fn, manual_cast=torch.float32), plain, 0.02),
    "LoRA baked in": (lambda: with_lora(tiny.build()), plain, 0.02),
    "weight functions": (lambda: tiny.build(), weight_functions, 0.02),
    "one buffer for all": (lambda: tiny.build(), one_buffer, 0.02),
    "bf16 in one buffer": (lambda: tiny.build(dtype=torch.bfloat16, manual_cast=torch.float32), one_buffer, 0.02),
}


@pytest.mark.parametrize("state", STATES)
def test_gradient_in_every_weight_state(state):
    make, context, tolerance = STATES[state]
    with torch.inference_mode():
        model = make()

    def compare(place):
        with context(place):
            slopes_agree(place, tolerance)

    tiny.at_step(model, tiny.guided_text(), compare)


@pytest.mark.parametrize("cast", [torch.float16, torch.bfloat16])
def test_half_precision_follows_the_full_one(cast):
    with torch.inference_mode():
        full, half = tiny.build(), tiny.build(dtype=cast)
    wanted = tiny.at_step(full, tiny.guided_text(), tiny.gradient)
    found = tiny.at_step(half, tiny.guided_text(), tiny.gradient)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), 0)
    assert cosine > 0.98 and abs(found.norm() / wanted.norm() - 1) < 0.1


def test_no_weight_is_kept_for_the_backward_pass(model):
    def compare(place):
        owned = {p.untyped_storage().data_ptr() for p in place.unet.parameters()}
        kept = []
        note = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.untyped_storage().data_ptr()) or t, id)
        with note, torch.inference_mode(False), torch.enable_grad():
            place.capture(place.z.clone().requires_grad_())
        assert len(kept) > 20 and not owned & set(kept)

    tiny.at_step(model, tiny.guided_text(), compare)


@pytest.fixture(params=["float8_e4m3fn", "int8_tensorwise"])
def packed(request):
    """A model with quantised matrices and its twin with the same matrices dequantised."""
    quants = pytest.importorskip("comfy.quant_ops", reason="this ComfyUI has no quantised layers")
    if request.param not in getattr(quants, "QUANT_ALGOS", {}):
        pytest.skip("this ComfyUI has no such quantised layers")
    with torch.inference_mode():
        twin = tiny.build()
        packed = tiny.build(
            state=tiny.quantised(tiny.weights(twin.model.diffusion_model, 0), request.param), manual_cast=torch.float32
        )
        matrices = {n: m for n, m in packed.model.diffusion_model.named_modules() if getattr(m, "layout_type", None)}
        assert len(matrices) > 30
        for name, module in matrices.items():
            twin.model.diffusion_model.get_submodule(name).weight.copy_(module.weight.dequantize())
            module._full_precision_mm = False  # a CPU would switch the quantised product off
    return packed, twin, matrices


def test_a_quantised_layer_keeps_its_product_and_has_the_derivative_of_its_weight(packed):
    from interplay.guidance.hosts.comfyui.weights import recompute

    layer = next(iter(packed[2].values()))
    weight = layer.weight.dequantize()
    before = dict(layer.__dict__)
    x = torch.randn(2, 5, weight.shape[1])
    with torch.inference_mode():
        own = layer(x)
    with recompute(layer):
        tracked = x.clone().requires_grad_()
        out = layer(tracked)
        seed = torch.randn(out.shape)
        found = torch.autograd.grad(out, tracked, seed)[0]
    assert torch.equal(out, own)
    assert torch.allclose(found, seed @ weight.clone(), rtol=1e-5, atol=1e-5)
    assert dict(layer.__dict__) == before


def test_quantised_models_are_guided_as_their_dequantised_twins(packed):
    model, twin, matrices = packed
    for module in matrices.values():
        module._full_precision_mm = True
    eight_bit_sums = "INT8" in next(iter(matrices.values())).layout_type  # these round their activations all the same
    wanted = tiny.at_step(twin, tiny.guided_text(), tiny.gradient)
    agree(tiny.at_step(model, tiny.guided_text(), tiny.gradient), wanted, 0.2 if eight_bit_sums else 1e-3)
