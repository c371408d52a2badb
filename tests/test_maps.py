"""Columns, word maps, layers and blurs against plain rewrites."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_cases import DOG_AND_CAT, graph_of
from interplay.guidance.maps import (
    MapStore,
    attention_columns,
    gaussian_blur,
    kernel_weights,
    scaled_kernel,
    wanted_layers,
    word_maps,
)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _plain_columns(q, k, heads, positions, scale=None):
    b, n, w = q.shape
    d = w // heads
    out = torch.zeros(b, len(positions), n, dtype=q.dtype)
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        p = torch.softmax(torch.einsum("bqd,btd->bqt", q[..., part], k[..., part]) * (scale or d**-0.5), -1)
        out += p[..., positions].transpose(1, 2) / heads
    return out


@pytest.mark.parametrize("scale", [None, 0.3])
def test_columns_are_the_mean_softmax_over_heads(scale):
    q, k = _random(2, 12, 24), _random(2, 9, 24, seed=1)
    got = attention_columns(q, k, 3, (1, 4, 8), scale)
    assert got.shape == (2, 3, 12)
    assert torch.allclose(got, _plain_columns(q, k, 3, [1, 4, 8], scale), atol=1e-14)


def test_gradient_of_columns_by_finite_differences():
    q, k = _random(2, 5, 8).requires_grad_(), _random(2, 6, 8, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: attention_columns(a, b, 2, (1, 3), length=3 * 2), (q, k))
    assert torch.autograd.gradcheck(lambda a, b: attention_columns(a, b, 2, (0, 2), length=3), (q, k))


def test_columns_save_nothing_but_queries_and_keys():
    q, k = _random(1, 64, 16).requires_grad_(), _random(1, 77, 16, seed=1)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        attention_columns(q, k, 2, (3,))
    assert sum(saved) <= q.numel() + k.numel() + 77


def test_half_precision_is_computed_in_fp32():
    q, k = _random(1, 16, 8) * 40, _random(1, 7, 8, seed=1) * 40
    half = attention_columns(q.half(), k.half(), 1, (2,), 1.0)
    assert half.dtype == torch.float32
    assert torch.allclose(half.double(), _plain_columns(q.half().double(), k.half().double(), 1, [2], 1.0), atol=1e-5)


def test_a_repeated_cond_gives_the_maps_of_a_single_one():
    q, k = _random(2, 10, 8), _random(2, 7, 8, seed=1)
    single = attention_columns(q, k, 2, (2, 5))
    assert torch.allclose(attention_columns(q, k.repeat(1, 3, 1), 2, (2, 5), length=7), single, atol=1e-14)


def test_columns_refuse_what_does_not_fit():
    q, k = _random(1, 4, 8), _random(1, 6, 8)
    with pytest.raises(ValueError, match="outside the 6 tokens"):
        attention_columns(q, k, 2, (6,))
    with pytest.raises(ValueError, match="outside the 3 tokens"):
        attention_columns(q, k, 2, (4,), length=3)
    with pytest.raises(ValueError, match="do not fit"):
        attention_columns(q, k, 2, (1,), length=4)


def test_a_word_is_the_mean_of_its_pieces():
    graph = graph_of({"reeling": (3, 4), "fish": 6, "tail": (4, 8, 9)}, [("fish",), ("tail",)], [("reeling", (0, 1))])
    assert graph.positions == (3, 4, 6, 8, 9)
    columns = _random(2, 5, 6).abs()
    got = word_maps(columns, graph, 2, 3)
    expected = torch.stack([columns[:, [0, 1]].mean(1), columns[:, 2], columns[:, [1, 3, 4]].mean(1)], 1)
    assert torch.allclose(got, expected.reshape(2, 3, 2, 3), atol=1e-15)
    with pytest.raises(ValueError, match="do not fit"):
        word_maps(columns, DOG_AND_CAT, 2, 3)


def test_store_averages_layers():
    store = MapStore()
    with pytest.raises(ValueError, match="no layer"):
        store.mean()
    layers = [_random(1, 2, 6, seed=i) for i in range(3)]
    for layer in layers:
        store.add(layer)
    assert store.count == 3 and torch.allclose(store.mean(), torch.stack(layers).mean(0), atol=1e-15)
    with pytest.raises(ValueError, match="do not fit"):
        store.add(_random(1, 2, 8))


SD15 = [
    1,
    1,
    2,
    2,
    4,
    4,
    8,
    4,
    4,
    4,
    2,
    2,
    2,
    1,
    1,
    1,
]  # downsampling of SD1.x's 16 cross-attention layers, as they run


def _grids(h: int, w: int, factors: list[int]) -> list[tuple[int, int]]:
    return [(math.ceil(h / f), math.ceil(w / f)) for f in factors]


@pytest.mark.parametrize("latent", [(64, 64), (96, 96), (64, 96), (65, 51), (40, 64)])
def test_layers_of_sd_are_the_quarter_size_ones(latent):
    assert wanted_layers(latent, _grids(*latent, SD15)) == (4, 5, 7, 8, 9)


def test_layers_of_other_models():
    sdxl = [2] * 4 + [4] * 20 + [4] * 10 + [4] * 30 + [2] * 6
    assert wanted_layers((128, 128), _grids(128, 128, sdxl)) == tuple(range(4, 64))
    pixelworld = [1, 1, 2, 2, 2, 1, 1]
    assert wanted_layers((16, 16), _grids(16, 16, pixelworld)) == (0, 1, 5, 6)
    assert wanted_layers((16, 12), _grids(16, 12, pixelworld)) == (0, 1, 5, 6)
    assert wanted_layers((16, 16), _grids(16, 16, [1, 2, 4, 2, 1])) == (0, 4)
    assert wanted_layers((8, 8), _grids(8, 8, [1, 2, 4, 2, 1])) == (0, 4)
    with pytest.raises(ValueError, match="no cross-attention"):
        wanted_layers((64, 64), [])


def test_blur_weights():
    assert kernel_weights(3, 0.5, literal=True) == pytest.approx((0.2119, 0.5761, 0.2119), abs=1e-4)
    assert kernel_weights(3, 0.5) == pytest.approx((0.1065, 0.7870, 0.1065), abs=1e-4)
    with pytest.raises(ValueError, match="odd kernel"):
        kernel_weights(4, 1.0)


@pytest.mark.parametrize(("size", "kernel", "sigma", "literal"), [((5, 7), 3, 0.5, True), ((9, 6), 7, 1.75, False)])
def test_blur_equals_a_plain_one_with_reflected_edges(size, kernel, sigma, literal):
    maps = _random(2, 3, *size).abs().requires_grad_()
    line = kernel_weights(kernel, sigma, literal)

    def mirror(i: int, n: int) -> int:
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    expected = torch.zeros_like(maps)
    for y in range(size[0]):
        for x in range(size[1]):
            for dy, a in enumerate(line):
                for dx, b in enumerate(line):
                    yy, xx = mirror(y + dy - kernel // 2, size[0]), mirror(x + dx - kernel // 2, size[1])
                    expected[:, :, y, x] = expected[:, :, y, x] + a * b * maps[:, :, yy, xx]
    got = gaussian_blur(maps, kernel, sigma, literal)
    assert torch.allclose(got, expected, atol=1e-14)
    seed = _random(*maps.shape, seed=9)
    assert torch.allclose(
        torch.autograd.grad(got, maps, seed, retain_graph=True)[0],
        torch.autograd.grad(expected, maps, seed)[0],
        atol=1e-13,
    )


def test_kernels_scale_with_the_map():
    assert scaled_kernel(3, 0.5, 16, 16) == (3, 0.5)
    assert scaled_kernel(7, 1.75, 32, 32) == (13, 3.5)
    assert scaled_kernel(7, 1.75, 8, 32) == (7, 1.75)
    assert scaled_kernel(7, 1.75, 3, 5)[0] <= 5  # reflect padding needs less than the side
    for height, width in ((3, 5), (2, 40), (17, 13)):
        kernel, sigma = scaled_kernel(7, 1.75, height, width)
        assert gaussian_blur(torch.ones(1, 1, height, width), kernel, sigma).sub(1).abs().max() < 1e-6


def test_kernel_made_in_inference_mode_serves_a_gradient_later():
    with torch.inference_mode():
        gaussian_blur(torch.rand(1, 1, 6, 6), 5, 0.91)
    maps = torch.rand(1, 1, 6, 6, requires_grad=True)
    assert torch.autograd.grad(gaussian_blur(maps, 5, 0.91)[..., 3, 3].sum(), maps)[0].sum().item() == pytest.approx(1)
