"""The losses against the worked examples, an independent rewrite with loops, and finite differences."""

from __future__ import annotations

import math
import random

import pytest
import torch
from guidance_cases import CAT_AND_DOG, CHASE, DOG_AND_CAT, ORACLE_MAPS, PIGEON, graph_of, random_graph, random_maps
from hypothesis import given, settings
from hypothesis import strategies as st
from interplay.guidance.losses import action_contrast, action_pairs, contrast, contrast_pairs, link, link_pairs

J = len(DOG_AND_CAT.words)


# --- the worked examples ----------------------------------------------------------------------------------------------


def test_oracle_of_contrast():
    single = {}
    for pair in contrast_pairs(DOG_AND_CAT, False):
        graph = DOG_AND_CAT
        names = (graph.words[pair.anchor].text, graph.words[pair.target].text)
        single[names] = _plain_pair(ORACLE_MAPS[0], None, pair.anchor, pair.target, pair.others, 0.5)
    expected = {
        ("white", "dog"): 0.460684,
        ("dog", "white"): 0.598224,
        ("ginger", "cat"): 0.480751,
        ("cat", "ginger"): 0.575241,
    }
    assert single == pytest.approx(expected, abs=1e-6)
    assert contrast(ORACLE_MAPS, None, DOG_AND_CAT).loss.item() == pytest.approx(0.528725, abs=1e-6)


def test_oracle_of_action_contrast():
    single = {
        DOG_AND_CAT.words[pair.target].text: _plain_pair(
            ORACLE_MAPS[0], None, pair.anchor, pair.target, pair.others, 0.5
        )
        for pair in action_pairs(DOG_AND_CAT, False)
    }
    expected = {"white": 1.016953, "dog": 1.001900, "ginger": 1.770619, "cat": 1.525648}
    assert single == pytest.approx(expected, abs=1e-6)
    assert action_contrast(ORACLE_MAPS, None, DOG_AND_CAT).loss.item() == pytest.approx(1.328780, abs=1e-6)


def test_oracle_of_link():
    assert [(p.anchor, p.target, p.others) for p in link_pairs(DOG_AND_CAT, False)] == [(1, 4, (0,)), (4, 1, (3,))]
    for mode in ("literal", "paper"):
        assert link(ORACLE_MAPS, None, DOG_AND_CAT, mode=mode).loss.item() == pytest.approx(1.514302, abs=1e-6)


def test_pair_counts_of_the_worked_examples():
    counts = {
        (name, previous): (
            len(contrast_pairs(g, previous)),
            len(action_pairs(g, previous)),
            len(link_pairs(g, previous)),
        )
        for name, g in (("dog", DOG_AND_CAT), ("pigeon", PIGEON))
        for previous in (False, True)
    }
    # pigeon, A: carrying 2 and playing 4 parties' words; with t+1 twice these and the action's own map: 5 + 9
    assert counts == {
        ("dog", False): (4, 4, 2),
        ("dog", True): (26, 9, 2),
        ("pigeon", False): (2, 6, 8),
        ("pigeon", True): (20, 14, 8),
    }


def test_negatives_of_the_worked_examples():
    def negatives(pairs):
        return {pair.anchor: len(pair.others) for pair in pairs}

    assert negatives(contrast_pairs(DOG_AND_CAT, False)) == {0: 3, 1: 3, 3: 3, 4: 3}
    later = negatives(contrast_pairs(DOG_AND_CAT, True))
    assert {later[0], later[1], later[3], later[4]} == {6} and later[5] == 8
    later = negatives(contrast_pairs(PIGEON, True))
    assert {later[w] for w in (0, 2, 6, 7)} == {10} and later[4] == later[5] == 8
    names = [w.text for w in PIGEON.words]
    by_action = {names[p.anchor]: {names[n] for n in p.others} for p in action_pairs(PIGEON, False)}
    assert by_action == {
        "carrying": {"playing", "white", "dog", "cat", "forest"},
        "playing": {"carrying", "letter", "forest"},
    }


def test_link_references_of_the_pigeon():
    names = [w.text for w in PIGEON.words] + [w.text + "'" for w in PIGEON.words]
    references = {names[p.anchor]: {names[n] for n in p.others} for p in link_pairs(PIGEON, True)}
    assert references == {
        "pigeon": {"pigeon'"},
        "letter": {"letter'"},
        "dog": {"white", "white'", "dog'"},
        "cat": {"cat'"},
    }


def test_one_word_groups_need_the_step_before():
    assert contrast_pairs(CAT_AND_DOG, False) == ()
    pairs = contrast_pairs(CAT_AND_DOG, True)
    assert len(pairs) == 4 and all(len(pair.others) == 2 for pair in pairs)
    assert contrast(random_maps(CAT_AND_DOG), None, CAT_AND_DOG) is None
    assert link(random_maps(CHASE), None, CHASE, mode="literal") is None
    assert link(random_maps(CHASE), None, CHASE, mode="hinge").pairs == 2


def test_an_action_without_negatives_has_no_loss():
    assert action_pairs(CHASE, True) == ()


def test_environment_weight_zero_leaves_environments_out_of_contrast():
    named = {n for pair in contrast_pairs(DOG_AND_CAT, True, 0.0) for n in (pair.anchor, *pair.others)}
    assert 5 not in named and 5 + J not in named
    alone = graph_of({"big": 1, "dog": 2, "forest": 4}, [("big", "dog"), ("forest",)], environments=(1,))
    assert contrast_pairs(alone, True, 0.0) == ()


def test_environment_weight_weighs_denominators_and_pairs():
    maps, previous = random_maps(DOG_AND_CAT, 1, seed=3), random_maps(DOG_AND_CAT, 1, seed=4)
    total, weights = 0.0, 0.0
    for pair in contrast_pairs(DOG_AND_CAT, True, 1.0):
        weight = 0.25 if pair.anchor % J == 5 else 1.0
        shares = [0.25 if n % J == 5 else 1.0 for n in pair.others]
        total += weight * _plain_pair(maps[0], previous[0], pair.anchor, pair.target, pair.others, 0.5, shares)
        weights += weight
    got = contrast(maps, previous, DOG_AND_CAT, environment_weight=0.25).loss.item()
    assert got == pytest.approx(total / weights, rel=1e-10)


# --- bounds and progress ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("negatives", "floor", "ceiling"), [(3, 0.341, 1.386), (6, 0.594, 1.946), (8, 0.734, 2.197)])
def test_bounds_by_number_of_negatives(negatives: int, floor: float, ceiling: float):
    """All negatives orthogonal: the floor, p = 0. All maps alike: the ceiling, p = 1."""
    names = {"a": 1, "b": 2, **{f"n{i}": 3 + i for i in range(negatives)}}
    graph = graph_of(names, [("a", "b"), tuple(list(names)[2:])], [])
    maps = torch.zeros(1, len(names), 1, 2, dtype=torch.float64)
    maps[:, :2, 0, 0] = 1
    maps[:, 2:, 0, 1] = 1
    for shown, value, p in ((maps, floor, 0.0), (torch.ones_like(maps), ceiling, 1.0)):
        pairs = [q for q in contrast_pairs(graph, False) if q.anchor < 2]
        assert len(pairs[0].others) == negatives
        assert _plain_pair(shown[0], None, 0, 1, pairs[0].others, 0.5) == pytest.approx(value, abs=6e-4)
        term = contrast(shown, None, graph)
        assert term.progress.item() == pytest.approx(p, abs=1e-9)


def test_progress_is_per_image_and_in_the_unit_interval():
    maps = torch.cat([ORACLE_MAPS, torch.ones_like(ORACLE_MAPS), ORACLE_MAPS.flip(1)])
    for term in (
        contrast(maps, None, DOG_AND_CAT),
        action_contrast(maps, None, DOG_AND_CAT),
        link(maps, None, DOG_AND_CAT),
    ):
        assert term.loss.shape == term.progress.shape == (3,)
        assert ((term.progress >= 0) & (term.progress <= 1)).all()
        assert not term.progress.requires_grad
    floor, ceiling = math.log(1 + 3 * math.exp(-2)), math.log(4)
    p = contrast(maps, None, DOG_AND_CAT).progress
    assert p[0].item() == pytest.approx((0.528725 - floor) / (ceiling - floor), abs=1e-6)
    assert p[1].item() == pytest.approx(1.0)


def test_hinge_is_zero_once_the_margin_is_met():
    maps = ORACLE_MAPS.clone().requires_grad_()
    cosine = torch.nn.functional.cosine_similarity(ORACLE_MAPS[0, 1].flatten(), ORACLE_MAPS[0, 4].flatten(), dim=0)
    met = link(maps, None, DOG_AND_CAT, margin=float(cosine) - 0.01)
    assert met.loss.item() == 0 and met.progress.item() == 0
    assert torch.autograd.grad(met.loss.sum(), maps)[0].abs().max() == 0
    open_ = link(maps, None, DOG_AND_CAT, margin=float(cosine) + 0.1)
    assert open_.loss.item() == pytest.approx(0.1, abs=1e-9)
    assert open_.progress.item() == pytest.approx(0.1 / (float(cosine) + 0.1), abs=1e-9)


# --- an independent rewrite -------------------------------------------------------------------------------------------


def _cosine(a, b) -> float:
    a, b = [float(x) for x in a.flatten()], [float(x) for x in b.flatten()]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def _plain_pair(maps, previous, anchor, target, others, temperature, shares=None) -> float:
    def look(n):
        return maps[n] if n < len(maps) else previous[n - len(maps)]

    def e(n):
        return math.exp(_cosine(look(anchor), look(n)) / temperature)

    shares = shares or [1.0] * len(others)
    return -math.log(e(target) / (e(target) + sum(s * e(n) for n, s in zip(others, shares, strict=True))))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _plain(maps, previous, graph, temperature):
    """C, A, L (InfoNCE) and hinge cosines from the rules in words, without any of the package's pair code."""
    words = [(j, age) for age in ((0, 1) if previous is not None else (0,)) for j in range(len(graph.words))]
    home = {w: i for i, v in enumerate(graph.vertices) for w in v.words}

    def nce(anchor, target, others):
        def index(word):
            return word[0] + len(graph.words) * word[1]

        return _plain_pair(maps, previous, index(anchor), index(target), [index(n) for n in others], temperature)

    c = []
    for a in words:
        others = [n for n in words if a[0] in home and n[0] in home and home[n[0]] != home[a[0]]]
        for p in words:
            if a != p and others and p[0] in home and home[p[0]] == home[a[0]]:
                c.append(nce(a, p, others))
    actions = {w for e in graph.edges for w in e.words}
    act = []
    for edge in graph.edges:
        friends = {w for v in edge.parties for w in graph.vertices[v].words} | set(edge.words)
        others = [n for n in words if n[0] not in friends and (n[0] in home or n[0] in actions)]
        for a in edge.words:
            act += [nce((a, 0), p, others) for p in words if p[0] in friends and p != (a, 0) and others]
    linked = {(a, b) for e in graph.edges for a in e.parties for b in e.parties if a != b}
    nces, cosines = [], []
    for a, b in linked:
        first, second = graph.vertices[a], graph.vertices[b]
        others = [n for n in words if n[0] in first.words and n != (first.head, 0)]
        cosines.append(_cosine(maps[first.head], maps[second.head]))
        if others:
            nces.append(nce((first.head, 0), (second.head, 0), others))
    return _mean(c), _mean(act), _mean(nces), cosines


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.1, 0.5, 2.0]))
def test_losses_equal_a_plain_rewrite_on_random_graphs(seed: int, with_previous: bool, temperature: float):
    graph = random_graph(random.Random(seed))
    maps = random_maps(graph, 2, (2, 3), seed)
    previous = random_maps(graph, 2, (2, 3), seed + 1) if with_previous else None
    terms = (
        contrast(maps, previous, graph, temperature),
        action_contrast(maps, previous, graph, temperature),
        link(maps, previous, graph, temperature, mode="literal"),
        link(maps, previous, graph, mode="hinge", margin=0.8),
    )
    for image in range(2):
        c, a, nce, cosines = _plain(maps[image], None if previous is None else previous[image], graph, temperature)
        hinge = _mean([max(0.0, 0.8 - cosine) for cosine in cosines])
        for term, expected in zip(terms, (c, a, nce, hinge), strict=True):
            assert (term is None) == (expected is None)
            if term is not None:
                assert float(term.loss[image]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


# --- gradients --------------------------------------------------------------------------------------------------------


def _all_terms(maps, previous, graph):
    return {
        "C": contrast(maps, previous, graph, environment_weight=0.5),
        "A": action_contrast(maps, previous, graph),
        "L hinge": link(maps, previous, graph, margin=0.95),
        "L literal": link(maps, previous, graph, mode="literal"),
        "L paper": link(maps, previous, graph, mode="paper"),
    }


@pytest.mark.parametrize("graph", [DOG_AND_CAT, PIGEON], ids=["dog", "pigeon"])
@pytest.mark.parametrize("name", ["C", "L hinge", "L paper"])
def test_gradients_by_finite_differences(graph, name: str):
    maps, previous = random_maps(graph, 2, (2, 3), 5), random_maps(graph, 2, (2, 3), 6)
    assert torch.autograd.gradcheck(lambda m: _all_terms(m, previous, graph)[name].loss, maps.requires_grad_())


@pytest.mark.parametrize("graph", [DOG_AND_CAT, PIGEON], ids=["dog", "pigeon"])
@pytest.mark.parametrize("name", ["A", "L literal"])
def test_gradients_of_detached_terms_by_finite_differences(graph, name: str):
    """The detached parts are held at their values while the rest is moved."""
    maps, previous = random_maps(graph, 1, (2, 3), 5), random_maps(graph, 1, (2, 3), 6)
    leaf = maps.clone().requires_grad_()
    got = torch.autograd.grad(_all_terms(leaf, previous, graph)[name].loss.sum(), leaf)[0]
    pairs = action_pairs(graph, True) if name == "A" else link_pairs(graph, True)
    wanted = torch.zeros_like(maps)
    for index in range(maps.numel()):
        values = []
        for shift in (1e-6, -1e-6):
            moved = maps.flatten().clone()
            moved[index] += shift
            values.append(_held(moved.reshape(maps.shape)[0], maps[0], previous[0], pairs, name))
        wanted.view(-1)[index] = (values[0] - values[1]) / 2e-6
    assert torch.allclose(got, wanted, atol=1e-7)


def _held(moved, held, previous, pairs, name: str) -> float:
    """A: only the anchor moves. L: anchor and target move in the numerator's pair, references stay as they were."""
    total = 0.0
    for pair in pairs:
        anchor = moved[pair.anchor]

        def fixed(n):
            return held[n] if n < len(held) else previous[n - len(held)]

        target = fixed(pair.target) if name == "A" else moved[pair.target]
        base = anchor if name == "A" else held[pair.anchor]
        near = math.exp(_cosine(anchor, target) / 0.5)
        far = sum(math.exp(_cosine(base, fixed(n)) / 0.5) for n in pair.others)
        total -= math.log(near / (near + far))
    return total / len(pairs)


def test_action_contrast_has_no_gradient_on_any_object_map():
    for graph in (DOG_AND_CAT, PIGEON):
        maps, previous = random_maps(graph, seed=1).requires_grad_(), random_maps(graph, seed=2).requires_grad_()
        loss = action_contrast(maps, previous, graph).loss.sum()
        gradient, before = torch.autograd.grad(loss, (maps, previous), allow_unused=True)
        objects = [w for v in graph.vertices for w in v.words]
        actions = [w for e in graph.edges for w in e.words]
        assert before is None
        assert gradient[:, objects].abs().max() == 0
        assert (gradient[:, actions].flatten(2).norm(dim=2) > 1e-4).all()


def test_maps_of_the_step_before_are_detached_in_every_term():
    maps, previous = random_maps(PIGEON, seed=1).requires_grad_(), random_maps(PIGEON, seed=2).requires_grad_()
    for term in _all_terms(maps, previous, PIGEON).values():
        assert torch.autograd.grad(term.loss.sum(), previous, allow_unused=True)[0] is None


def test_literal_link_does_not_tear_a_group_apart_and_the_paper_mode_does():
    """Only the reference 'white' differs: with the stop-gradient it feels nothing."""
    maps = random_maps(DOG_AND_CAT, 1, seed=7).requires_grad_()
    white = {
        mode: torch.autograd.grad(link(maps, None, DOG_AND_CAT, mode=mode).loss.sum(), maps)[0][0, 0]
        for mode in ("literal", "paper")
    }
    assert white["literal"].abs().max() == 0
    step = (maps[0, 0] - 1e-3 * white["paper"]).detach()
    assert _cosine(step, maps[0, 1].detach()) < _cosine(maps[0, 0].detach(), maps[0, 1].detach())


def test_batch_gives_what_its_images_give_one_by_one():
    maps, previous = random_maps(PIGEON, 3, seed=1).requires_grad_(), random_maps(PIGEON, 3, seed=2)
    for name, term in _all_terms(maps, previous, PIGEON).items():
        together = torch.autograd.grad(term.loss.sum(), maps)[0]
        for i in range(3):
            one = maps.detach()[i : i + 1].requires_grad_()
            alone = _all_terms(one, previous[i : i + 1], PIGEON)[name]
            assert torch.allclose(alone.loss, term.loss[i], rtol=1e-12)
            assert torch.allclose(torch.autograd.grad(alone.loss.sum(), one)[0], together[i : i + 1], atol=1e-13)


def test_low_temperatures_and_empty_maps_stay_finite():
    maps = random_maps(DOG_AND_CAT, 1).float()
    maps[:, 1] = 0
    maps.requires_grad_()
    for term in (
        contrast(maps, None, DOG_AND_CAT, 0.01),
        action_contrast(maps, None, DOG_AND_CAT, 0.01),
        link(maps, None, DOG_AND_CAT, 0.01, mode="literal"),
    ):
        assert torch.isfinite(term.loss).all()
        assert torch.isfinite(torch.autograd.grad(term.loss.sum(), maps, retain_graph=True)[0]).all()


def test_pairs_made_in_inference_mode_serve_a_gradient_later():
    graph = graph_of({"only": 1, "here": 2, "now": 4}, [("only", "here"), ("now",)])
    with torch.inference_mode():
        contrast(random_maps(graph), None, graph, 0.7)
    maps = random_maps(graph).requires_grad_()
    assert torch.autograd.grad(contrast(maps, None, graph, 0.7).loss.sum(), maps)[0].abs().sum() > 0
