"""Re-weighting in ComfyUI's own U-Nets, tiny and random."""

from __future__ import annotations

import comfy_tiny as tiny
import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.modulation import Binding, modulation

pytestmark = pytest.mark.comfy


def objects(images=1, size=(16, 16)):
    masks = torch.zeros(2, *size)
    masks[0, :, : size[1] // 2], masks[1, : size[0] // 2, size[1] // 2 :] = 1, 1
    return [[Binding(masks[0], (2, 3), 2.0), Binding(masks[1], (6,), 0.5)]] * images


def patched(model, images=None, name="RealignDiff (recommended)", **changes):
    from interplay.guidance.hosts.comfyui.modulation import patch_reweight

    config = modulation(name, **{"end": 1.0, "power": 0.0, **changes})
    labels = [["red cat", "dog"]] * 3
    return patch_reweight(model, objects() if images is None else images, tiny.PROMPT, config, range(1, 7), labels)


def built(family="SD15", **changes):
    with torch.inference_mode():
        return tiny.build(family, **changes)


def draw(model, positive=None, negative=None, **settings):
    positive = tiny.guided_text(1) if positive is None else positive
    return tiny.sample(model, positive, negative or tiny.text(2), **{"steps": 2, "batch": 2, **settings})


def rows(model, conds, x, sigma=4.0, indices=None):
    """The U-Net's answers to a list of cond lists, as a guider asks for them."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*conds[:2])
    found = []

    def sampler(model_k, x, sigmas, extra_args=None, **kwargs):
        inner = model_k.inner_model if hasattr(model_k, "inner_model") else model_k
        ours = [inner.conds["positive"], inner.conds["negative"]]
        ours = [ours[i] for i in (indices or (0, 1))]
        s = sigmas[0] * x.new_ones(len(x))
        options = (extra_args or {}).get("model_options", {})
        found.append(comfy.samplers.calc_cond_batch(inner.inner_model, ours, x, s, options))
        return x

    with torch.inference_mode():
        guider.sample(x, torch.zeros_like(x), comfy.samplers.KSAMPLER(sampler), torch.tensor([sigma, 0.0]), seed=0,
                      disable_pbar=True)  # fmt: skip
    return found[0]


def noise(batch=2, size=(16, 16)):
    return torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", ["SD15", "SD20", "SDXL"])
def test_it_acts_in_every_family_and_strength_zero_is_exact(family):
    model = built(family)
    plain = draw(model, size=(8, 12))
    assert not torch.equal(draw(patched(model, objects(1, (64, 96))), size=(8, 12)), plain)
    assert torch.equal(draw(patched(model, strength=0.0), size=(8, 12)), plain)
    assert torch.equal(draw(patched(model, [[], []]), size=(8, 12)), plain)
    assert torch.equal(draw(model, size=(8, 12)), plain)


@pytest.mark.parametrize("name", ["RealignDiff (literal, area B)", "DenseDiffusion"])
def test_presets_act_and_are_exact_at_zero(name):
    model = built()
    plain = draw(model)
    ours = patched(model, name=name)
    assert not torch.equal(draw(ours), plain)
    assert not torch.equal(draw(ours), draw(patched(model)))
    assert torch.equal(draw(patched(model, name=name, strength=0.0, self_strength=0.0)), plain)


def test_self_attention_is_a_change_of_its_own():
    model = built()
    with_self = patched(model, name="DenseDiffusion", strength=0.0)
    assert not torch.equal(draw(with_self), draw(model))


@pytest.mark.parametrize("indices", [(0, 1), (1, 0), (1,), (0,), (0, 1, 0)])
def test_rows_of_the_negative_are_untouched_to_the_bit(indices):
    model, x = built(), noise()
    conds = (tiny.guided_text(1), tiny.text(2))
    plain, ours = (rows(m, conds, x, indices=indices) for m in (model, patched(model)))
    for index, a, b in zip(indices, plain, ours, strict=True):
        assert torch.equal(a, b) == (index == 1)


def test_the_host_s_copy_of_the_prompt_in_the_negative_list_is_untouched():
    """For a prompt with an area the host copies its cond, key and uuid included, into the negative list."""
    model, x = built(), noise()
    area = tiny.guided_text(1)
    area[0][1] |= {"area": (16, 16, 0, 0), "strength": 1.0}
    plain, ours = (rows(m, (area, tiny.text(2)), x) for m in (model, patched(model)))
    assert torch.equal(plain[1], ours[1]) and not torch.allclose(plain[0], ours[0], atol=1e-3)


def test_masks_are_per_image():
    model = built()
    plain, both = draw(model), draw(patched(model, objects(2)))
    first = draw(patched(model, [objects()[0], []]))
    torch.testing.assert_close(first[0], both[0], atol=5e-3, rtol=1e-3)
    assert torch.equal(first[1], plain[1])
    assert float((both - plain).flatten(1).abs().amax(1).min()) > 0.1
    two, other = objects()[0]
    swapped = [Binding(other.mask, two.positions, 2.0), Binding(two.mask, other.positions, 2.0)]
    mixed, second = draw(patched(model, [objects()[0], swapped])), draw(patched(model, [[], swapped]))
    torch.testing.assert_close(mixed[0], both[0], atol=5e-3, rtol=1e-3)
    torch.testing.assert_close(mixed[1], second[1], atol=5e-3, rtol=1e-3)
    assert float((mixed[1] - both[1]).abs().max()) > 0.1
    turned = draw(patched(model, [[], objects()[0]]))
    assert torch.equal(turned[0], plain[0]) and not torch.equal(turned[1], plain[1])
    with pytest.raises(InterplayError, match="give one for each"):
        draw(patched(model, objects(3)))


def test_a_prompt_repeated_to_a_longer_negative_is_the_same():
    """The host repeats conds of different length to their common multiple; alone, the prompt keeps its own length."""
    model, x = built(), noise()
    longer = tiny.text(2, tokens=3 * tiny.LENGTH)
    together = rows(patched(model), (tiny.guided_text(1), longer), x)
    alone = rows(patched(model), (tiny.guided_text(1), longer), x, indices=(0,))
    torch.testing.assert_close(together[0], alone[0], atol=1e-4, rtol=1e-4)
    plain = rows(model, (tiny.guided_text(1), longer), x)
    assert torch.equal(together[1], plain[1]) and not torch.allclose(together[0], plain[0], atol=1e-3)


def test_words_appended_to_the_conditioning_are_no_copies():
    """'Conditioning (Concat)' doubles the axis, but the positions hold for its first part only."""
    model, x = built(), noise()
    tensor, extra = tiny.guided_text(1)[0]
    joined = [[torch.cat([tensor, tiny.text(9)[0][0]], 1), extra]]
    repeated = [[torch.cat([tensor, tensor], 1), extra]]
    config = {"other_tokens": "suppress"}
    out = rows(patched(model, **config), (joined, tiny.text(2)), x)[0]
    assert not torch.allclose(out, rows(model, (joined, tiny.text(2)), x)[0], atol=1e-3)
    once = rows(patched(model, **config), (tiny.guided_text(1), tiny.text(2)), x, indices=(0,))[0]
    doubled = rows(patched(model, **config), (repeated, tiny.text(2)), x, indices=(0,))[0]
    assert not torch.allclose(once, doubled, atol=1e-4)  # the second half has no objects: it is pushed down


def adapter(amount):
    """A replace patch as IP-Adapter's: text attention, and something of its own on top."""
    from comfy.ldm.modules.attention import optimized_attention

    class Patch:
        def __init__(self):
            self.calls = 0

        def __call__(self, q, k, v, options):
            self.calls += 1
            return optimized_attention(q, k, v, options["n_heads"]) + amount * torch.tanh(q)

    return Patch()


@pytest.mark.parametrize("family", ["SD15", "SDXL"])
@pytest.mark.parametrize("indexed", [False, True])
def test_replaced_attention_is_kept_whichever_was_first(family, indexed):
    from interplay.guidance.hosts.comfyui.modulation import places

    model, patch = built(family), adapter(0.3)

    def adapted(base):
        out = base.clone()
        for block, number, index in places(base.get_model_object("diffusion_model")):
            out.set_model_attn2_replace(patch, block, number, index if indexed else None)
        return out

    only = draw(adapted(model))
    before, after = draw(patched(adapted(model))), draw(adapted(patched(model)))
    assert patch.calls > 0 and torch.equal(before, after)
    assert not torch.equal(before, only) and not torch.equal(before, draw(patched(model)))
    assert torch.equal(draw(patched(adapted(model), strength=0.0)), only)


def test_what_an_adapter_adds_is_added_to_modulated_attention():
    from interplay.guidance.hosts.comfyui.modulation import Layer, ReweightPatch, Step

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, n, 16, generator=generator) for n in (12, tiny.LENGTH, tiny.LENGTH))
    patch = ReweightPatch(tuple(map(tuple, objects())), tiny.PROMPT, modulation("RealignDiff (recommended)"))
    step = Step(patch, (0.7, 0.0), {1: tiny.LENGTH}, 2, 2, (3, 4))
    options = {"n_heads": 2, "activations_shape": [4, 16, 3, 4]}
    alone = Layer(step, 0.7, False, None)(q, k, v, options)
    other = adapter(0.5)
    joint = Layer(step, 0.7, False, other)(q, k, v, options)
    torch.testing.assert_close(joint, alone + 0.5 * torch.tanh(q), atol=1e-5, rtol=1e-5)
    assert torch.equal(joint[:2], other(q, k, v, options)[:2])


def test_only_the_wanted_part_of_the_schedule_and_scales():
    model = built()
    plain = draw(model, steps=4)
    early = patched(model, end=0.2)
    assert not torch.equal(draw(early, steps=4), plain)
    never = patched(model, start=0.999, end=1.0, scales=(7,))
    assert torch.equal(draw(never, steps=4), plain)
    fine, coarse, every = (draw(patched(model, scales=s)) for s in ((1,), (2,), ()))
    assert not torch.equal(fine, every) and not torch.equal(coarse, every) and not torch.equal(fine, coarse)


def test_areas_are_left_alone_with_a_warning(caplog):
    model = built()
    area = tiny.guided_text(1)
    area[0][1]["area"] = (8, 8, 0, 0)
    area[0][1]["strength"] = 1.0
    with caplog.at_level("WARNING"):
        out = draw(patched(model), positive=area)
    assert torch.equal(out, draw(model, positive=area)) and caplog.text.count("with an area") == 1  # not in every step


def test_other_prompts_are_refused_in_one_sentence():
    model = built()
    with pytest.raises(InterplayError, match="carries no hypergraph"):
        draw(patched(model), positive=tiny.text(1))
    from interplay.guidance.hosts.comfyui.modulation import patch_reweight

    other = patch_reweight(model, objects(), "another prompt", modulation("RealignDiff (recommended)"))
    with pytest.raises(InterplayError, match="of another prompt"):
        draw(other)


def test_it_goes_with_guidance_whose_measuring_is_left_alone():
    from interplay.guidance.hosts.comfyui.guidance import patch_model

    model = built()
    guided = patch_model(model, tiny.settings())
    seen = [draw(m, steps=3) for m in (model, guided, patched(model), patched(guided), patch_model(patched(model),
            tiny.settings()))]  # fmt: skip
    assert len({tuple(s.flatten()[:4].tolist()) for s in seen[:4]}) == 4
    assert torch.equal(seen[3], seen[4])


def test_heat_maps_before_are_plain_and_after_lie_in_the_masks():
    from interplay.guidance.hosts.comfyui.reweight import reweight_maps

    model = built()
    latent = {"samples": noise(1)}
    pair = reweight_maps(patched(model, name="RealignDiff (literal, area B)"), tiny.guided_text(1), latent)
    assert pair.maps.shape == (2, 2, 16, 16) and pair.labels == ("red cat", "dog")
    none = reweight_maps(patched(model, strength=1e-9), tiny.guided_text(1), latent)
    torch.testing.assert_close(none.maps[0], none.maps[1], atol=1e-6, rtol=0)
    before, after = pair.inside()[0]
    assert after > before + 0.05
    with pytest.raises(InterplayError, match="Nothing is re-weighted"):
        reweight_maps(patched(model, end=0.2), tiny.guided_text(1), latent, percent=0.9)
    with pytest.raises(InterplayError, match="not re-weighted"):
        reweight_maps(model, tiny.guided_text(1), latent)


def test_the_model_is_left_as_it_was():
    model = built()
    draw(patched(patched(model)))
    assert not model.wrappers or not any(model.wrappers.values())
    assert "patches_replace" not in model.model_options["transformer_options"]


def realised(prompt="a red robot and a blue box", words=(("robot", "red robot"), ("box", "blue box"))):
    """PixelWorld's own encoder with objects in two halves of the picture."""
    from interplay.guidance.grounding.objects import ObjectsBatch, PictureObject, PictureObjects
    from interplay.guidance.hosts.comfyui.conditioning import encode
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld
    from interplay.parsing import parse

    with torch.inference_mode():
        model, clip, vae = load_pixelworld()
        positive = encode(clip, prompt, parse(prompt))
    masks = torch.zeros(len(words), 128, 128)
    masks[0, :, :64] = 1
    masks[1:, :, 64:] = 1
    picture = PictureObjects(tuple(PictureObject(label, phrase) for label, phrase in words), masks)
    return model, clip, vae, positive, ObjectsBatch((picture,), 128, 128, prompt)


def test_objects_are_bound_to_words_and_unsaid_ones_added():
    from interplay.guidance.hosts.comfyui.conditioning import find_graph
    from interplay.guidance.hosts.comfyui.modulation import find_patch
    from interplay.guidance.hosts.comfyui.reweight import reweight

    model, clip, _, positive, objects = realised()
    config = modulation("RealignDiff (recommended)")
    with torch.inference_mode():
        made = reweight(model, positive, objects, config)
        assert [b.positions for b in find_patch(made.model).images[0]] == [(2, 3), (6, 7)]
        assert made.conditioning is positive and "'red robot', score 2; tokens 2, 3; " in made.report
        _, _, _, positive, objects = realised(words=(("robot", "red robot"), ("cat", "green cat")))
        judged = objects.pictures[0].objects[1].__class__("cat", "green cat", verdict=0.5)
        objects = type(objects)(
            (type(objects.pictures[0])((objects.pictures[0].objects[0], judged), objects.pictures[0].masks),),
            128, 128, objects.prompt,
        )  # fmt: skip
        without = reweight(model, positive, objects, config)
        assert len(find_patch(without.model).images[0]) == 1 and "not in the prompt, left out" in without.report
        longer = reweight(model, positive, objects, config, clip)
    assert find_graph(longer.conditioning)[0].prompt == "a red robot and a blue box, green cat"
    assert [(b.positions, b.score) for b in find_patch(longer.model).images[0]] == [((2, 3), 2.0), ((9, 10), 0.5)]


def test_phrases_are_encoded_alone():
    from interplay.guidance.hosts.comfyui.reweight import reweight

    model, clip, _, positive, objects = realised()
    config = modulation("DenseDiffusion")
    with pytest.raises(InterplayError, match="connect 'clip'"):
        reweight(model, positive, objects, config)
    with torch.inference_mode():
        made = reweight(model, positive, objects, config, clip)
        alone = clip.encode_from_tokens_scheduled(clip.tokenize("blue box"))[0][0]
    ours, before = made.conditioning[0][0][0], positive[0][0][0]
    assert torch.equal(ours[6:8], alone[0, 1:3]) and not torch.equal(ours[6:8], before[6:8])
    untouched = [i for i in range(77) if i not in (2, 3, 6, 7)]
    assert torch.equal(ours[untouched], before[untouched])
    assert made.conditioning[0][1]["pooled_output"] is positive[0][1]["pooled_output"]


def test_the_nodes_patch_draw_and_show():
    from interplay.nodes.reweight import AttentionReweight, ReweightMaps

    model, _, _, positive, objects = realised()
    with torch.inference_mode():
        settings = ("RealignDiff (recommended)", 1.0, 0.0, 0.0, "as preset", "as preset", "as preset")
        out = AttentionReweight.execute(model, positive, objects, *settings)
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        pictures, text = ReweightMaps.execute(out.args[0], out.args[1], latent, 0.1, 0).args
    assert pictures.shape[0] == 2 and pictures.shape[2] >= 512
    assert "'red robot'" in text
    strong = ("RealignDiff (literal, area B)", 0.0, 0.0, 1.0, "suppress", "skip", "off")
    with torch.inference_mode():
        off = AttentionReweight.execute(model, positive, objects, *strong).args[0]
        a, b = (tiny.sample(m, positive, positive, steps=1) for m in (model, off))
    assert torch.equal(a, b)


def test_words_of_a_second_chunk_are_found_and_re_weighted():
    from interplay.guidance.hosts.comfyui.conditioning import find_graph
    from interplay.guidance.hosts.comfyui.modulation import find_patch
    from interplay.guidance.hosts.comfyui.reweight import reweight

    prompt = "a red robot, " + "very detailed, " * 30 + "and a blue box"
    model, clip, _, positive, objects = realised(prompt)
    config = modulation("RealignDiff (recommended)", end=1.0, power=0.0)
    with torch.inference_mode():
        made = reweight(model, positive, objects, config)
        negative = clip.encode_from_tokens_scheduled(clip.tokenize("blurry"))
    length = find_graph(positive)[0].length
    robot, box = (binding.positions for binding in find_patch(made.model).images[0])
    assert length == 154 and robot == (2, 3) and box[0] > 77 and box[1] == box[0] + 1
    chunk, at = divmod(box[0], 77)
    ids = [entry[0] for entry in clip.tokenize(prompt)["l"][chunk]]
    assert ids[at] == clip.tokenize("blue")["l"][0][1][0]
    x = noise(1)
    plain, ours = (rows(m, (positive, negative), x) for m in (model, made.model))
    assert torch.equal(plain[1], ours[1]) and not torch.allclose(plain[0], ours[0], atol=1e-3)
