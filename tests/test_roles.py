"""The roles term and the verbs' directions: against counting by hand, finite differences, and parsed prompts."""

from __future__ import annotations

import pytest
import torch
from interplay.guidance.directions import ABOVE, BELOW, NONE, RIGHT, direction
from interplay.guidance.graph import token_graph
from interplay.guidance.losses import centroids, role_pairs, roles
from interplay.parsing import parse
from interplay.parsing.tokens import align_plain


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("transformers")
    from interplay.guidance.pixelworld import weights_dir
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(weights_dir() / "tokenizer"))


def graph_of(prompt: str, tokenizer):
    return token_graph(parse(prompt), align_plain(prompt, tokenizer))


def named(prompt: str, tokenizer, sideways: bool = False):
    graph = graph_of(prompt, tokenizer)
    return [(graph.words[s].text, graph.words[o].text, side) for s, o, side in role_pairs(graph, sideways)]


def spots(graph, places, side: int = 8) -> torch.Tensor:
    """Maps (1, J, side, side) with one bright cell (row, column) for the words in ``places``, dim ground elsewhere."""
    maps = torch.full((1, len(graph.words), side, side), 0.01, dtype=torch.float64)
    for i, word in enumerate(graph.words):
        if word.text in places:
            maps[0, i][places[word.text]] = 0.9
    return maps


@pytest.mark.parametrize(
    ("action", "plain", "sideways"),
    [
        ("riding", BELOW, BELOW),
        ("rides", BELOW, BELOW),
        ("carries", ABOVE, ABOVE),
        ("carried", ABOVE, ABOVE),
        ("sitting on", BELOW, BELOW),
        ("sitting", NONE, RIGHT),
        ("chasing", NONE, RIGHT),
        ("xyzzying", NONE, RIGHT),
    ],
)
def test_verbs_say_where_their_object_is(action, plain, sideways):
    assert direction(action) == plain and direction(action, sideways=True) == sideways


def test_subjects_and_objects_come_from_the_parse(tokenizer):
    assert named("a cat riding a dog", tokenizer) == [("cat", "dog", BELOW)]
    assert named("a dog ridden by a cat", tokenizer) == [("cat", "dog", BELOW)]
    assert named("a cat chasing a dog", tokenizer) == []
    assert named("a cat chasing a dog", tokenizer, sideways=True) == [("cat", "dog", RIGHT)]
    assert named("a red robot and a blue box in the forest", tokenizer, sideways=True) == []


def test_centroids_are_the_centre_of_what_rises_above_the_ground():
    maps = torch.full((1, 2, 4, 6), 0.2, dtype=torch.float64)
    maps[0, 0, 1, 2] = maps[0, 0, 1, 4] = 0.8
    expected = torch.tensor([[(2.5 / 6 + 4.5 / 6) / 2, 1.5 / 4], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(centroids(maps)[0], expected, atol=2e-3, rtol=0)


def test_the_loss_counts_what_is_missing_of_the_margin(tokenizer):
    graph = graph_of("a cat riding a dog", tokenizer)
    right = roles(spots(graph, {"cat": (1, 4), "dog": (5, 4)}), graph, margin=0.25)
    wrong = roles(spots(graph, {"cat": (5, 4), "dog": (1, 4)}), graph, margin=0.25)
    near = roles(spots(graph, {"cat": (3, 4), "dog": (4, 4)}), graph, margin=0.25)
    assert right.loss.item() == 0 and right.progress.item() == 0
    assert wrong.loss.item() == pytest.approx((0.25 + 0.5) / 0.25, abs=0.01) and wrong.progress.item() == 1
    assert near.loss.item() == pytest.approx((0.25 - 0.125) / 0.25, abs=0.01)


def test_a_prompt_whose_verb_says_nothing_has_no_roles(tokenizer):
    graph = graph_of("a cat chasing a dog", tokenizer)
    maps = spots(graph, {"cat": (1, 1)})
    assert roles(maps, graph) is None and roles(maps, graph, sideways=True) is not None


def test_gradient_by_finite_differences(tokenizer):
    graph = graph_of("a cat carrying a striped fish chases a dog", tokenizer)
    maps = torch.rand(2, len(graph.words), 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    maps.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: roles(m, graph, 0.4, True).loss, maps, atol=1e-6)
    (gradient,) = torch.autograd.grad(roles(maps, graph, 0.4, True).loss.sum(), maps)
    touched = {graph.words[j].text for j in range(len(graph.words)) if gradient[:, j].abs().sum() > 0}
    assert touched == {"cat", "fish", "dog"}  # heads of the parties, nothing else


def test_images_of_a_batch_do_not_see_each_other(tokenizer):
    graph = graph_of("a cat riding a dog", tokenizer)
    maps = torch.rand(3, len(graph.words), 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = roles(maps, graph).loss
    torch.testing.assert_close(whole, torch.cat([roles(one[None], graph).loss for one in maps]))
