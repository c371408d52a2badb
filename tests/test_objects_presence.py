"""The presence term and the guidance made of it, against a rewrite with loops and finite differences."""

from __future__ import annotations

import pytest
import torch
from guidance_cases import CAT_AND_DOG, DOG_AND_CAT, random_maps
from interplay.guidance.engine import Guide, GuidedMaps
from interplay.guidance.grounding.presence import presence_guidance
from interplay.guidance.losses import presence
from interplay.guidance.presets import preset


def plain(maps, graph, missing):
    """By loops over pixels, for one image."""
    peak = {v: max(float(x) for x in maps[v.head].flatten()) for v in graph.vertices}
    own = {v: {graph.words[w].text for w in v.words} for v in graph.vertices}
    lacking = [v for v in graph.vertices if any(set(m.split()) <= own[v] for m in missing)]
    losses = []
    for vertex in lacking:
        others = [peak[o] for o in graph.vertices if o.head != vertex.head]
        losses.append(max(0.0, 1 - peak[vertex] / (max(others) if others else 1.0)))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("seed", range(6))
def test_presence_equals_a_rewrite_image_by_image(seed):
    maps = random_maps(DOG_AND_CAT, seed=seed, batch=3)
    names = (("dog",), (), ("ginger cat", "dog"))
    found = presence(maps, DOG_AND_CAT, names)
    expected = [plain(maps[b], DOG_AND_CAT, names[b]) for b in range(3)]
    assert found.loss.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.progress.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.pairs == 3
    alone = presence(maps[:1], DOG_AND_CAT, names[:1])
    assert alone.loss.item() == pytest.approx(expected[0], abs=1e-6)


def test_a_name_means_only_vertices_that_have_all_its_words():
    maps = random_maps(DOG_AND_CAT, seed=1, batch=1)
    assert presence(maps, DOG_AND_CAT, (("ginger dog",),)) is None
    assert presence(maps, DOG_AND_CAT, (("zebra",),)) is None
    assert presence(maps, DOG_AND_CAT, ()) is None


def test_the_gradient_raises_the_missing_thing_and_leaves_the_others():
    maps = random_maps(DOG_AND_CAT, seed=3, batch=2).double().requires_grad_()
    by_name = {v.label: v for v in DOG_AND_CAT.vertices}
    with torch.no_grad():
        maps[:, by_name["cat"].head] *= 0.3
    found = presence(maps, DOG_AND_CAT, (("cat",), ()))
    (gradient,) = torch.autograd.grad(found.loss.sum(), maps)
    head = by_name["cat"].head
    place = maps[0, head].flatten().argmax()
    assert gradient[0, head].flatten()[place] < 0
    assert int((gradient != 0).sum()) == 1  # one pixel of one image: what the other image lacks is nothing
    step = torch.zeros_like(maps)
    step[0, head].view(-1)[place] = 1e-6
    with torch.no_grad():
        up, down = (presence(maps + s * step, DOG_AND_CAT, (("cat",), ())).loss.sum() for s in (1, -1))
    assert float(up - down) / 2e-6 == pytest.approx(float(gradient[0, head].view(-1)[place]), rel=1e-4)


def test_another_number_of_images_is_refused():
    with pytest.raises(ValueError, match="missing in 2 images, but the batch has 3"):
        presence(random_maps(DOG_AND_CAT, seed=1, batch=3), DOG_AND_CAT, (("cat",), ("dog",)))


def test_presets_are_as_before_and_guidance_joins_what_acts():
    assert "presence" not in preset("SHY").to_dict()
    assert presence_guidance([(), ()]) is None
    alone = presence_guidance([("cat",), ()])
    assert alone.terms == ("P",) and alone.presence == (("cat",), ())
    joined = presence_guidance([("cat",)], preset("SHY"), 0.5)
    assert joined.terms == ("C", "R", "P") and dict(joined.weights) == {"R": 2.0, "P": 0.5}
    again = presence_guidance([("dog",)], joined, 0.7)
    assert again.terms == ("C", "R", "P") and again.presence == (("dog",),)


def test_guidance_moves_only_images_that_lack_something():
    config = presence_guidance([("cat",), ()])
    graph, heads = CAT_AND_DOG, {v.label: v.head for v in CAT_AND_DOG.vertices}
    weights = torch.linspace(-1, 1, 4 * 64).reshape(4, 8, 8)

    def capture(z):
        cells = (z * weights).sum(1, keepdim=True).sigmoid().expand(-1, len(graph.words), -1, -1).clone()
        scale = torch.ones(len(graph.words))
        scale[heads["cat"]] = 0.2
        return [GuidedMaps(0, graph, cells * scale[None, :, None, None] * 0.5)]

    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = Guide(config, steps=20).step(z, 0.0, capture)
    assert torch.equal(moved[1], z[1])
    before, after = (capture(x)[0].maps[0, heads["cat"]].amax() for x in (z, moved))
    assert after > before * 1.02
