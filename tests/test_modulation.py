"""Re-weighting attention modulation against worked examples and plain loops."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance import modulation as m  # noqa: E402

SIM = torch.tensor(
    [[3.0, 1, 2, 0, 1], [3, 0, 1, 2, 1], [2, 1, 1, 1, 0], [3, 2, 0, 1, 1]], dtype=torch.float64
)  # 4 pixels; start, red, book, pen, end
BASE = """.592299 .080159 .217895 .029489 .080159 .592299 .029489 .080159 .217895 .080159
.446633 .164307 .164307 .164307 .060445 .592299 .217895 .029489 .080159 .080159"""
DENSE = """2.114265 1.59049 2.295245 0 .704755 2.114265 .885735 1.59049 1.40951 .704755
1.114265 .557132 .557132 1.442868 0 1.22853 .81902 0 .40951 .40951"""
LITERAL = """1.22853 2.18098 2.59049 0 .40951 1.22853 1.77147 2.18098 .81902 .40951
1.557132 .778566 .778566 1.221434 0 1.22853 .81902 0 .40951 .40951"""
NEUTRAL = """3 2.18098 2.59049 0 1 3 1.77147 2.18098 .81902 1 2 .778566 .778566 1.221434 0 3 2 0 1 1"""
LITERAL_SOFT = """.121514 .314972 .474373 .035570 .053571 .155813 .268163 .403875 .103456 .068692
.351654 .161432 .161432 .251376 .074107 .352308 .233924 .103129 .155320 .155320"""
NEUTRAL_SOFT = """.436689 .192520 .289951 .021741 .059099 .504579 .147702 .222450 .056982 .068287
.457873 .134984 .134984 .210193 .061966 .592299 .217895 .029489 .080159 .080159"""


def numbers(text, rows=4):
    return torch.tensor([float(x) for x in text.split()], dtype=torch.float64).reshape(rows, -1)


def toy(book=2.0, pen=0.5):
    masks = torch.tensor([[[1.0, 1], [0, 0]], [[0, 0], [1, 0]]])
    return [[m.Binding(masks[0], (1, 2), book), m.Binding(masks[1], (3,), pen)]]


def moved(config, bindings=None, t=900.0):
    layer = m.plan(bindings or toy(), (2, 2), 5, config)
    weight = m.weights_of(layer, m.lambda_t(t, config), config).double()
    return m.modulate(SIM[None], layer.allowed, weight[..., None], layer.touched)[0]


def test_toy_a_dense():
    config = m.modulation("RealignDiff (literal, area B)", scored=False)
    torch.testing.assert_close(moved(config), numbers(DENSE), atol=2e-6, rtol=0)
    assert m.lambda_t(900, config) == pytest.approx(0.59049)


def test_toy_a_literal():
    out = moved(m.modulation("RealignDiff (literal, area B)"))
    torch.testing.assert_close(out, numbers(LITERAL), atol=2e-6, rtol=0)
    torch.testing.assert_close(out.softmax(-1), numbers(LITERAL_SOFT), atol=2e-6, rtol=0)


def test_toy_a_recommended():
    out = moved(m.modulation("RealignDiff (recommended)"))
    torch.testing.assert_close(out, numbers(NEUTRAL), atol=2e-6, rtol=0)
    torch.testing.assert_close(out.softmax(-1), numbers(NEUTRAL_SOFT), atol=2e-6, rtol=0)


def test_toy_b_score_zero_leaves_rows_alone():
    out = moved(m.modulation("RealignDiff (literal, area B)"), toy(book=0.0))
    assert torch.equal(out[:2], SIM[:2])
    torch.testing.assert_close(out[:2].softmax(-1), numbers(BASE)[:2], atol=2e-6, rtol=0)
    assert not torch.equal(out[2], SIM[2])


def test_toy_c_overshoot_and_clamp():
    mask = torch.tensor([[1.0, 0], [0, 0]])
    bindings = [[m.Binding(mask, (1, 2), 2.0)]]
    row = moved(m.modulation("RealignDiff (literal, area B)"), bindings, t=981.0)[0]
    expected = numbers("-1.088439 3.725626 3.362813 0 -.362813", 1)[0]
    torch.testing.assert_close(row, expected, atol=3e-6, rtol=0)
    clamped = moved(m.modulation("RealignDiff (literal, area B)", max_weight=1.0), bindings, t=981.0)[0]
    torch.testing.assert_close(clamped, numbers("0 3 3 0 0", 1)[0], atol=1e-6, rtol=0)


def test_toy_d_self_attention():
    config = m.modulation("RealignDiff (literal, area B)", self_strength=0.3)
    layer = m.plan(toy(), (2, 2), 5, config)
    sim = torch.tensor([[2.0, 1, 0, 1], [1, 2, 1, 0], [0, 1, 2, 1], [1, 0, 1, 2]])
    expected = numbers("2 1.088574 0 .911427 1.088574 2 .911427 0 0 .86714 2 .86714 .822853 0 .822853 1.645706")
    # identity values show the attention itself; q k^T / sqrt(d) gives sim for q = 2 sim, k = 1
    out = m.attend_self(2 * sim[None], torch.eye(4)[None], torch.eye(4)[None], 1, layer, 0.177147, config)
    torch.testing.assert_close(out[0].double(), expected.softmax(-1), atol=2e-6, rtol=0)


def random_case(seed=0, batch=2, grid=(3, 4), tokens=6, heads=2, width=8):
    g = torch.Generator().manual_seed(seed)
    q = 3 * torch.randn(batch, grid[0] * grid[1], width, generator=g)
    k, v = (torch.randn(batch, tokens, width, generator=g) for _ in range(2))
    images = []
    for i in range(batch):
        one = torch.zeros(grid)
        one[:, : 1 + i] = 1
        other = torch.zeros(grid)
        other[0, 2:] = 1
        images.append([m.Binding(one, (1, 2), 2.0), m.Binding(other, (3,), 0.5)])
    return q, k, v, heads, images, grid, tokens


def by_loops(q, k, v, heads, images, grid, strength, config):
    """The definition, number by number: M_pos and M_neg as in Eq. 8 and 10, for masks that do not overlap."""
    out = torch.zeros_like(q)
    d = q.shape[-1] // heads
    for b, bindings in enumerate(images):
        named = {p for one in bindings for p in one.positions}
        for h in range(heads):
            at = slice(h * d, h * d + d)
            for p in range(q.shape[1]):
                sim = [float(q[b, p, at] @ k[b, j, at]) / d**0.5 for j in range(k.shape[1])]
                mine = [one for one in bindings if one.mask.flatten()[p] > 0]
                high, low = max(sim), min(sim)
                row = list(sim)
                for j in range(len(sim)) if mine else ():
                    w = strength * (1 - float(mine[0].mask.mean()) * config.area_adapt) * mine[0].score
                    w = min(w, config.max_weight)
                    if j in mine[0].positions:
                        row[j] = sim[j] + w * (high - sim[j])
                    elif j in named:
                        row[j] = sim[j] - w * (sim[j] - low)
                out[b, p, at] = torch.tensor(row).softmax(0) @ v[b, :, at]
    return out


def test_attention_equals_the_definition():
    q, k, v, heads, images, grid, tokens = random_case()
    config = m.modulation("RealignDiff (recommended)")
    layer = m.plan(images, grid, tokens, config)
    out = m.attend(q, k, v, heads, layer, 0.7, config)
    torch.testing.assert_close(out, by_loops(q, k, v, heads, images, grid, 0.7, config), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", m.PRESETS)
def test_strength_zero_is_exact(name):
    q, k, v, heads, images, grid, tokens = random_case()
    config = m.modulation(name, strength=0.0)
    layer = m.plan(images, grid, tokens, config, range(1, 5))
    none = m.plan([[], []], grid, tokens, config)
    out = m.attend(q, k, v, heads, layer, m.lambda_t(900, config), config)
    assert torch.equal(out, m.attend(q, k, v, heads, none, 1.0, config))
    assert not torch.equal(out, m.attend(q, k, v, heads, layer, 0.7, config))


@pytest.mark.parametrize("name", m.PRESETS)
def test_repeated_tokens_chunks_and_permuted_images(name):
    q, k, v, heads, images, grid, tokens = random_case()
    config = m.modulation(name)
    layer = m.plan(images, grid, tokens, config, range(1, 5))
    out = m.attend(q, k, v, heads, layer, 0.7, config)
    twice = m.attend(q, k.repeat(1, 2, 1), v.repeat(1, 2, 1), heads, layer, 0.7, config)
    torch.testing.assert_close(twice, out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(m.attend(q, k, v, heads, layer, 0.7, config, chunk=5), out, atol=1e-6, rtol=1e-6)
    turned = m.plan(images[::-1], grid, tokens, config, range(1, 5))
    swapped = m.attend(q.flip(0), k.flip(0), v.flip(0), heads, turned, 0.7, config)
    torch.testing.assert_close(swapped.flip(0), out, atol=1e-6, rtol=1e-6)


def test_an_image_without_objects_is_left_alone():
    q, k, v, heads, images, grid, tokens = random_case()
    for name in m.PRESETS:
        config = m.modulation(name)
        layer = m.plan([images[0], []], grid, tokens, config, range(1, 5))
        none = m.attend(q, k, v, heads, m.plan([[], []], grid, tokens, config), 1.0, config)
        out = m.attend(q, k, v, heads, layer, 0.7, config)
        assert torch.equal(out[1], none[1]) and not torch.equal(out[0], none[0])


def test_the_smallest_region_owns_overlaps_and_none_vanishes():
    large, small, dot = torch.ones(8, 8), torch.zeros(8, 8), torch.zeros(8, 8)
    small[:4, :4] = 1
    dot[7, 7] = 1
    owner = m.owners([large, small, dot], 4, 4).reshape(4, 4)
    assert (owner[:2, :2] == 1).all() and owner[3, 3] == 2
    assert int((owner == 0).sum()) == 11


def test_background_segment_takes_the_remaining_words():
    config = m.modulation("DenseDiffusion")
    layer = m.plan(toy(), (2, 2), 7, config, words=(1, 2, 3, 5))
    assert layer.allowed[0, 3].tolist() == [False, False, False, False, False, True, False]
    assert float(layer.spared[0, 3]) == pytest.approx(0.75)


def test_background_clear_takes_the_objects_words_from_pixels_of_no_object_and_no_others():
    for name in ("RealignDiff (recommended)", "DenseDiffusion"):
        plain, out = (moved(m.modulation(name, background=kind)) for kind in ("skip", "clear"))
        torch.testing.assert_close(out[:3], plain[:3])
        torch.testing.assert_close(out[3], torch.tensor([3, 0.81902, 0, 0.40951, 1], dtype=torch.float64))
    masks, empty = torch.zeros(2, 2), torch.ones(1, 4, 5, dtype=torch.bool)
    nothing = m.plan([[m.Binding(masks, (1, 2), 2.0)], []], (2, 2), 5, m.modulation(name, background="clear"))
    assert torch.equal(nothing.touched[1], ~empty[0])  # an image without objects is left alone
    cleared = moved(m.modulation(name, background="clear"), [[toy()[0][0], m.Binding(toy()[0][1].mask, (), 2.0)]])
    weight = 0.59049 * 0.75
    torch.testing.assert_close(cleared[2], SIM[2] * (1 - weight), atol=2e-6, rtol=0)  # a region without words loses all


@pytest.mark.parametrize("power", [5.0, 0.0])
@pytest.mark.parametrize("name", list(m.PRESETS))
def test_told_weights_are_those_of_the_plan(name, power):
    config = m.modulation(name, start=0.1, end=0.4, power=power)
    told = m.region_weights(toy()[0], config, (2, 2))
    layer = m.plan(toy(), (2, 2), 5, config)
    for i, pixel in enumerate((0, 2)):  # book, pen
        ends = [m.weights_of(layer, m.lambda_t(t, config), config)[0, pixel] for t in (0.9 * 999, 0.6 * 999)]
        assert told[i] == pytest.approx((0.5 if i == 0 else 0.25, *map(float, ends)), rel=1e-5)


def test_bad_settings_are_told():
    with pytest.raises(InterplayError, match="no re-weighting preset"):
        m.modulation("Dense")
    with pytest.raises(InterplayError, match="0 <= start"):
        m.modulation("DenseDiffusion", end=2.0)
    q, k, v, heads, images, grid, _ = random_case()
    config = m.modulation("DenseDiffusion")
    with pytest.raises(InterplayError, match="tokens where the objects fit"):
        m.attend(q, k, v, heads, m.plan(images, grid, 5, config), 1.0, config)
