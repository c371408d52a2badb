"""Layouts: from text, from hypergraphs, by rule, from maps; and boxes as a loss on maps."""

from __future__ import annotations

import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.graph import EdgeTokens, TokenGraph, TokenWord, VertexTokens
from interplay.guidance.interaction.figures import ACTION, GROUND, draw_layout
from interplay.guidance.interaction.layout import between, from_hypergraph, from_text, grown, normalised
from interplay.guidance.interaction.layout_maps import from_maps, map_box
from interplay.guidance.interaction.layout_terms import (
    coverage,
    graph_layout_loss,
    inside_share,
    layout_loss,
    layout_targets,
)
from interplay.guidance.interaction.network import between_boxes
from interplay.guidance.interaction.prototypes import by_rule
from interplay.parsing import parse

CHASE = "cat | chases | dog @ 0.05,0.2,0.5,0.9 ; 0.55,0.3,0.95,0.95"


def graph() -> TokenGraph:
    """'red cat chases dog', a token a word."""
    words = tuple(TokenWord(w, (i + 1,)) for i, w in enumerate(("red", "cat", "chases", "dog")))
    vertices = (VertexTokens((0, 1), 1, label="cat"), VertexTokens((3,), 3, label="dog"))
    return TokenGraph(words, vertices, (EdgeTokens((2,), (0, 1), "chases", subjects=(0,)),), 9)


# --- text and hypergraphs --------------------------------------------------------------------------------------------


def test_text_comes_back_as_it_was_read() -> None:
    text = f"{CHASE}\ndog | watches | old man"
    layout = from_text(text)
    assert [t.name for t in layout.things] == ["cat", "dog", "old man"]
    assert [(i.subject, i.action, i.object) for i in layout.interactions] == [(0, "chases", 1), (1, "watches", 2)]
    assert layout.things[0].box == (0.05, 0.2, 0.5, 0.9) and layout.things[2].box is None
    assert layout.things[2].label == "man"
    assert from_text(layout.text()).things == layout.things


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "There is no interaction"),
        ("cat chases dog", "not of the form"),
        ("cat | chases", "not of the form"),
        ("cat | chases | dog @ 0,0,1,1", "not of the form"),
        ("cat | chases | dog @ 0,0,1 ; 0,0,1,1", "is no box"),
        ("cat | chases | dog @ 0.5,0,0.2,1 ; 0,0,1,1", "is no box in the picture"),
        ("cat | chases | dog @ 0,0,40,90 ; 0,0,1,1", "is no box in the picture"),
    ],
)
def test_wrong_lines_are_said(text: str, said: str) -> None:
    with pytest.raises(InterplayError, match=said):
        from_text(text)


def test_an_action_of_three_becomes_its_pairs() -> None:
    layout = from_hypergraph(parse("a white cat gives a small ball to a dog in the garden"))
    named = [(layout.things[i.subject].name, layout.things[i.object].name) for i in layout.interactions]
    assert named == [("white cat", "small ball"), ("white cat", "dog")]
    together = from_hypergraph(parse("a cat and a dog are dancing"))
    assert [(i.subject, i.object) for i in together.interactions] == [(0, 1)]
    with pytest.raises(InterplayError, match="joins two things"):
        from_hypergraph(parse("a cat sleeping in the garden"))


def test_boxes_of_other_nodes() -> None:
    assert normalised({"x": 64, "y": 0, "width": 128, "height": 256}, 256, 512) == (0.25, 0.0, 0.75, 0.5)
    assert normalised((64, 0, 192, 600), 256, 512) == (0.25, 0.0, 0.75, 1.0)
    assert normalised((0.1, 0.2, 0.3, 0.4), 256, 512) == (0.1, 0.2, 0.3, 0.4)
    assert grown((0.99, 0.5, 1.0, 0.9), 0.1) == pytest.approx((0.9, 0.5, 1.0, 0.9))
    layout = from_text("cat | chases | dog")
    with pytest.raises(InterplayError, match="has no box"):
        layout.boxes(layout.interactions[0])
    with pytest.raises(InterplayError, match="1 boxes for 2 things"):
        layout.placed([(0.0, 0.0, 0.5, 0.5)], "")


def test_the_box_between_is_the_network_s() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        corners = torch.rand(2, 4, generator=generator)
        a, b = (tuple(torch.cat([c[:2].minimum(c[2:]), c[:2].maximum(c[2:])]).tolist()) for c in corners)
        assert between(a, b) == pytest.approx(between_boxes(torch.tensor(a), torch.tensor(b)).tolist())


# --- by rule ---------------------------------------------------------------------------------------------------------


def middle(box: tuple[float, ...]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def ruled(prompt: str) -> list[tuple[float, ...]]:
    layout = by_rule(from_hypergraph(parse(prompt)))
    assert all(t.box is not None for t in layout.things)
    return [t.box for t in layout.things if t.box is not None]


def test_verbs_put_their_objects_in_place() -> None:
    rider, horse = ruled("a man riding a horse")
    assert middle(rider)[1] < middle(horse)[1] and rider[3] > horse[1]
    cat, dog = ruled("a cat chasing a dog")
    assert cat[2] < dog[0]
    girl, ball = ruled("a girl holding a ball")
    assert girl[0] < ball[2] and ball[0] < girl[2] and girl[1] < ball[1] and ball[3] < girl[3]
    boy, kite = ruled("a boy throwing a ball")
    assert middle(kite)[1] < middle(boy)[1] and kite[0] > boy[2]
    first, second = ruled("a man hugging a woman")
    assert first[0] < second[0] < first[2] < second[2]


def test_sizes_follow_nouns_and_groups_have_their_own_place() -> None:
    girl, apple = ruled("a girl holding an apple")
    assert apple[3] - apple[1] < 0.5 * (girl[3] - girl[1])
    boxes = ruled("a cat chasing a dog while a man is riding a horse")
    assert len(boxes) == 4
    assert max(b[2] for b in boxes[:2]) <= min(b[0] for b in boxes[2:])


def test_two_objects_of_one_subject_do_not_share_a_place() -> None:
    layout = by_rule(from_text("cat | chases | dog\ncat | chases | bird"))
    dog, bird = (middle(t.box) for t in layout.things[1:] if t.box)
    assert abs(dog[0] - bird[0]) + abs(dog[1] - bird[1]) > 0.1


# --- from maps -------------------------------------------------------------------------------------------------------


def test_a_map_s_heaviest_part_gives_the_box() -> None:
    values = torch.zeros(16, 32)
    values[4:12, 8:16] = 1.0
    values[0:2, 28:31] = 1.2  # higher, but small
    assert map_box(values) == (8 / 32, 4 / 16, 16 / 32, 12 / 16)
    with pytest.raises(InterplayError, match="flat"):
        map_box(torch.ones(4, 4))


def test_each_thing_gets_the_box_of_its_noun() -> None:
    maps = torch.zeros(4, 16, 16)
    maps[1, 4:14, 0:6] = 1.0
    maps[3, 6:14, 9:16] = 1.0
    maps[0, 0:2, 0:2] = 5.0  # the adjective's map plays no part
    layout = from_maps(from_text("cat | chases | dog"), maps, graph())
    assert layout.things[0].box == pytest.approx((0, 4 / 16, 6 / 16, 14 / 16), abs=1 / 16)
    assert layout.things[1].box == pytest.approx((9 / 16, 6 / 16, 1, 14 / 16), abs=1 / 16)
    with pytest.raises(InterplayError, match="names no 'cow'"):
        from_maps(from_text("cow | chases | dog"), maps, graph())


# --- boxes as a loss -------------------------------------------------------------------------------------------------


def test_coverage_is_the_exact_share_of_cells() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    boxes = [(0.1, 0.25, 0.55, 0.8), (0.0, 0.0, 1.0, 1.0)]
    fine = torch.zeros(2, 400, 600, dtype=torch.float64)
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        fine[k, round(y1 * 400) : round(y2 * 400), round(x1 * 600) : round(x2 * 600)] = 1
    coarse = torch.nn.functional.avg_pool2d(fine[:, None], (100, 100))[:, 0]
    assert torch.allclose(coverage(boxes, 4, 6, like), coarse, atol=1e-12)


def test_the_loss_is_nought_inside_and_one_outside() -> None:
    maps = torch.zeros(2, 2, 8, 8)
    maps[0, :, 2:6, 0:4] = 1.0
    maps[1, :, 0:2, 6:8] = 1.0
    boxes = [(0.0, 0.25, 0.5, 0.75)] * 2
    assert layout_loss(maps, boxes).tolist() == pytest.approx([0.0, 1.0])
    half = maps[:1].clone()
    half[:, 1, 2:6, 4:8] = 1.0
    assert inside_share(half, boxes)[0].tolist() == pytest.approx([1.0, 0.5])
    assert layout_loss(half, boxes).item() == pytest.approx(0.125)
    assert layout_loss(half, boxes, [1.0, 3.0]).item() == pytest.approx(0.1875)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_the_gradient_is_that_of_finite_differences(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64).add(0.05).requires_grad_()
    boxes = [(0.1, 0.2, 0.63, 0.9), (0.5, 0.0, 0.97, 0.41), (0.3, 0.3, 0.4, 0.4)]
    direction = torch.randn(maps.shape, generator=generator, dtype=torch.float64)
    direction /= direction.norm()

    def total(values: torch.Tensor) -> torch.Tensor:
        return (layout_loss(values, boxes, [1.0, 0.5, 2.0]) * torch.tensor([1.0, -0.4])).sum()

    (gradient,) = torch.autograd.grad(total(maps), maps)
    step = 1e-5
    with torch.no_grad():
        slope = (total(maps + step * direction) - total(maps - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-5, abs=1e-10)
    assert torch.autograd.gradcheck(lambda m: layout_loss(m[:, :, :4, :4], boxes), maps[:1].detach().requires_grad_())


def test_a_graph_s_words_are_drawn_into_their_boxes() -> None:
    layout = from_text(CHASE)
    targets = layout_targets(layout, graph())
    assert [(t.word, t.weight) for t in targets] == [(0, 1.0), (1, 1.0), (3, 1.0), (2, 0.5)]
    action = targets[-1].box
    assert action[0] <= 0.5 and action[2] >= 0.55 and action[2] - action[0] == pytest.approx(0.125)
    logits = torch.zeros(1, 4, 16, 16, requires_grad=True)
    for _ in range(60):
        maps = logits.flatten(2).softmax(-1).reshape(1, 4, 16, 16)
        loss = graph_layout_loss(maps, layout, graph())
        (step,) = torch.autograd.grad(loss.sum(), logits)
        logits = (logits - 300 * step).detach().requires_grad_()
    final = logits.detach().flatten(2).softmax(-1).reshape(1, 4, 16, 16)
    assert graph_layout_loss(final, layout, graph()).item() < 0.02
    x = (torch.arange(16) + 0.5) / 16
    centres = (final.sum(-2) * x).sum(-1)[0]
    assert centres[1] < 0.4 < centres[2] < 0.65 < centres[3]


def test_a_layout_is_drawn_where_its_boxes_are() -> None:
    picture = draw_layout(from_text(CHASE), (400, 300))
    assert picture.size == (400, 300)
    assert picture.getpixel((2, 2)) == GROUND and picture.getpixel((100, 150)) != GROUND
    assert ACTION in {picture.getpixel((x, 150)) for x in range(195, 225)}
