"""Re-weighting in diffusers pipelines, on PixelWorld's own weights, and the methods that look and draw again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.bench import methods, reweight  # noqa: E402
from interplay.guidance.bench.methods import Batch  # noqa: E402
from interplay.guidance.hosts.diffusers.guidance import guided  # noqa: E402
from interplay.guidance.hosts.diffusers.modulation import reweighted  # noqa: E402
from interplay.guidance.modulation import Binding, attend, modulation, plan  # noqa: E402
from interplay.guidance.pixelworld import world  # noqa: E402
from interplay.guidance.pixelworld.detect import detect, judge  # noqa: E402
from interplay.guidance.pixelworld.render import enlarge, render  # noqa: E402

PROMPT = "a red robot chasing a blue cat in the forest"
BATCH = Batch((PROMPT, "a green fish and a pink cup in the snow"), (11, 3), steps=2)
RECOMMENDED = modulation("RealignDiff (recommended)", end=1.0)


@pytest.fixture(scope="module")
def pipe():
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld

    return load_pixelworld()


def objects(score=2.0):
    masks = torch.zeros(2, 32, 32)
    masks[0, 18:28, 4:14], masks[1, 18:28, 20:30] = 1, 1
    return [Binding(masks[0], (2, 3), score), Binding(masks[1], (6, 7), score)]


def draw(pipe, images=None, config=RECOMMENDED, batch=BATCH, **options):
    if images is None:
        return methods.call(pipe, batch, **options)
    with reweighted(pipe, images, config):
        return methods.call(pipe, batch, **options)


def test_it_changes_the_pictures_that_have_objects_and_nothing_stays_behind(pipe):
    before = dict(pipe.unet.attn_processors)
    plain, ours = draw(pipe), draw(pipe, [objects(), []])
    assert (ours[0] != plain[0]).mean() > 0.05
    assert np.abs(ours[1].astype(int) - plain[1]).max() <= 1
    assert dict(pipe.unet.attn_processors) == before and (draw(pipe) == plain).all()
    off = modulation("RealignDiff (recommended)", strength=0.0)
    assert (draw(pipe, [objects(), objects()], off) == plain).all()
    early = modulation("RealignDiff (recommended)", start=0.0, end=0.0)
    assert (draw(pipe, [objects(), objects()], early) == plain).all()
    with pytest.raises(RuntimeError), reweighted(pipe, [objects()], RECOMMENDED):
        raise RuntimeError
    assert dict(pipe.unet.attn_processors) == before


@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_only_the_prompt_s_rows_and_as_the_definition_says(pipe, cfg):
    """The output of one cross-attention against the definition by hand; the negative's rows to the bit."""
    attn = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    config = modulation("RealignDiff (recommended)", end=1.0, power=0.0, strength=0.4)
    seen = []
    hook = attn.register_forward_hook(lambda m, a, k, out: seen.append((a, k, out)), with_kwargs=True)
    try:
        draw(pipe, [objects()], config, Batch((PROMPT,), (11,), steps=1), guidance_scale=cfg)
    finally:
        hook.remove()
    args, named, out = seen[0]
    h, text = args[0], named["encoder_hidden_states"]
    assert h.shape[0] == (2 if cfg > 1 else 1)
    with torch.no_grad():
        plain = attn(h, encoder_hidden_states=text)
        q, k, v = attn.to_q(h[-1:]), attn.to_k(text[-1:]), attn.to_v(text[-1:])
        layer = plan([objects()], (16, 16), 77, config)
        expected = attn.to_out[0](attend(q, k, v, attn.heads, layer, 0.4, config))
    torch.testing.assert_close(out[-1:], expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(out[-1:], plain[-1:], atol=1e-3)
    if cfg > 1:
        assert torch.equal(out[:1], plain[:1])


class Adapter:
    """A processor that adds something of its own to text attention, as IP-Adapter's does."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        out = self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        return out + (0.05 * torch.tanh(hidden_states) if encoder_hidden_states is not None else 0)


def test_what_other_processors_add_is_kept(pipe):
    attn = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    inner, batch = attn.processor, Batch((PROMPT,), (11,), steps=1)

    def outputs(processor):
        seen = []
        attn.processor = processor
        hook = attn.register_forward_hook(lambda m, a, k, out: seen.append((a[0], out)), with_kwargs=True)
        try:
            draw(pipe, [objects()], modulation("RealignDiff (recommended)", end=1.0, power=0.0), batch)
        finally:
            hook.remove()
            attn.processor = inner
        return seen[0]

    (h, alone), (_, joint) = outputs(inner), outputs(Adapter(inner))
    torch.testing.assert_close(joint, alone + 0.05 * torch.tanh(h), atol=1e-5, rtol=1e-4)


def test_it_goes_with_guidance_in_either_order(pipe):
    prompts = [PROMPT, BATCH.prompts[1]]

    def both(first, second):
        with first(), second():
            return methods.call(pipe, BATCH, num_inference_steps=4)

    def shy():
        return guided(pipe, "SHY", prompts)

    def ours():
        return reweighted(pipe, [objects(), []], modulation("RealignDiff (recommended)", power=0.0))

    a, b = both(shy, ours), both(ours, shy)
    assert np.abs(a.astype(int) - b).max() <= 1
    with shy():
        alone = methods.call(pipe, BATCH, num_inference_steps=4)
    assert (a[0] != alone[0]).mean() > 0.05 and np.abs(a[1].astype(int) - alone[1]).max() <= 1


def scene_of(x, *things):
    subject, target = things or (world.Thing("robot", "blue"), world.Thing("cat", "red"))
    return world.Scene(subject, "forest", "chasing", target, x=x)


def scene(first="robot", colour="blue", second="cat", other="red", reverse=False):
    """A true picture of two things, the first chasing the second."""
    things = world.Thing(first, colour), world.Thing(second, other)
    return enlarge(render(scene_of(1, *(things[::-1] if reverse else things)))[0])


def seen(image, **changes):
    return reweight.Seen.of(PROMPT, image, modulation("RealignDiff (recommended)", **changes))


def test_objects_of_a_picture_get_exact_masks_and_their_words(pipe):
    image = scene()
    assert judge(PROMPT, image).presence == 1 and judge(PROMPT, image).binding == 0
    robot, cat = seen(image).bindings(pipe)
    assert (robot.positions, cat.positions) == ((2, 3), (6, 7))
    place = {item.object: item for item in detect(image).objects}["robot"]
    scale = image.shape[0] // 32
    assert bool(robot.mask[(place.y + 5) * scale, (place.x + 5) * scale]) and not (robot.mask * cat.mask).any()


def test_regions_go_to_what_the_prompt_wants_only_where_that_is_asked_for(pipe):
    def words(image, **changes):
        return [one.positions for one in seen(image, **changes).bindings(pipe)]

    turned, strange = scene(reverse=True), scene(second="fish")
    where = [item.object for item in detect(turned).objects]
    assert set(where) == {"robot", "cat"}
    assert words(turned) == [(2, 3), (6, 7)] and words(turned, regions="wanted") == [(6, 7), (2, 3)]
    assert words(scene(), regions="wanted") == [(2, 3), (6, 7)]
    assert words(strange) == [(2, 3)] and words(strange, regions="wanted") == [(2, 3), (6, 7)]


def test_what_regions_cannot_mend_gets_another_noise(pipe, monkeypatch):
    drawings = []

    def fake(pipeline, batch, base, alone=False, missing=(), presence=0.0):
        drawings.append((batch.prompts, batch.seeds, tuple(missing)))
        still = replace(scene_of(1), action=None, apart=(10, 2))  # both there, and nobody chases anybody
        return [scene(), scene(second="fish"), enlarge(render(still)[0])][: len(batch.prompts)]

    monkeypatch.setattr(reweight, "_drawn", fake)
    batch = Batch((PROMPT,) * 3, (1, 2, 3))
    given = {"kind": "again", "noise": "as needed", "presence": 1.0}
    methods.make("x", given).draw(pipe, batch)
    new = reweight.OTHER_NOISE
    lacking = (("blue cat",), ())
    assert drawings[1:] == [((PROMPT,), (1,), ((),)), ((PROMPT,) * 2, (2 + new, 3 + new), lacking)]
    drawings.clear()
    methods.make("x", {**given, "regions": "wanted"}).draw(pipe, batch)
    assert [d[1] for d in drawings[1:]] == [(1, 2), (3 + new,)]  # the fish's region is the cat's


def test_presence_looks_after_each_picture_by_what_it_lacked_itself(pipe):
    """Two pictures in one call: the one that lacks nothing is not moved."""
    batch = Batch((PROMPT, PROMPT), (11, 12), steps=6)

    def drawn(missing):
        return np.array(reweight._drawn(pipe, batch, "plain", missing=missing, presence=5.0)).astype(int)

    alone = drawn([(), ()])
    for lacking, other in ((0, 1), (1, 0)):
        made = drawn([("red robot",) if i == lacking else () for i in range(2)])
        assert np.abs(alone[other] - made[other]).max() <= 1
        assert (alone[lacking] != made[lacking]).mean() > 0.05


def test_wrong_pictures_are_drawn_again_and_right_ones_are_not(pipe, monkeypatch):
    drawings = []

    def fake(pipeline, batch, base, alone=False, missing=(), presence=0.0):
        drawings.append(batch)
        return [scene(colour="red", other="blue") if i else scene() for i in range(len(batch.prompts))]

    monkeypatch.setattr(reweight, "_drawn", fake)
    batch = Batch((PROMPT, PROMPT), (1, 2))
    method = methods.make("x", {"kind": "again", "how": "resample", "keep": "better"})
    images = method.draw(pipe, batch)
    assert drawings[1].seeds == (1 + reweight.OTHER_NOISE,) and judge(PROMPT, images[1].image).all_right
    drawings.clear()
    methods.make("x", {"kind": "again", "preset": "DenseDiffusion"}).draw(pipe, batch)
    assert drawings[1].seeds == (1,)


def test_wrong_colours_come_back(pipe):
    """The claim itself, on one picture: the same noise, and the robot is red again."""
    batch = Batch((PROMPT,), (11,))
    method = methods.make(
        "again", {"kind": "again", "power": 0, "other_tokens": "suppress", "keep": "second", "regions": "wanted"}
    )
    first = methods.call(pipe, batch)[0]
    second = method.draw(pipe, batch)[0].image
    assert judge(PROMPT, first).binding < 1 and judge(PROMPT, second).binding == 1


def test_bad_settings_are_told():
    with pytest.raises(InterplayError, match="knows noise same, as needed"):
        methods.make("x", {"kind": "again", "noise": "loud"})
    with pytest.raises(InterplayError, match="knows regions found, wanted"):
        methods.make("x", {"kind": "again", "regions": "mine"})
    with pytest.raises(InterplayError, match="no setting 'power'"):
        methods.make("x", {"kind": "again", "how": "resample", "power": 1})
    with pytest.raises(InterplayError, match="no setting 'colour'"):
        methods.make("x", {"kind": "again", "colour": 1})


def test_the_preset_of_densediffusion_moves_self_attention_and_phrases_as_well(pipe):
    dense = modulation("DenseDiffusion", end=1.0)
    both, cross = (
        draw(pipe, [objects(), []], dense),
        draw(pipe, [objects(), []], modulation("DenseDiffusion", end=1.0, self_strength=0.0)),
    )
    alone = draw(pipe, [objects(), []], modulation("DenseDiffusion", end=1.0, strength=0.0))
    plain = draw(pipe)
    for a, b in ((both, cross), (both, alone), (alone, plain), (cross, plain)):
        assert (a[0] != b[0]).any()
    batch = Batch((PROMPT,), (11,), steps=2)
    assert (reweight._with_phrases(pipe, batch)[0] != methods.call(pipe, batch)[0]).any()
