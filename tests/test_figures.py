"""The figures, read back from their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from interplay.guidance import figures
from interplay.parsing.hypergraph import Hyperedge, Hypergraph, Modifier, Participant, Vertex
from PIL import Image

PROMPT = "A white dog plays with a ginger cat in a forest"


def worked_example() -> Hypergraph:
    def at(word):
        return PROMPT.index(word), PROMPT.index(word) + len(word)

    def vertex(number, head, modifier=None, environment=False):
        modifiers = (Modifier(modifier, at(modifier)),) if modifier else ()
        return Vertex(f"v{number}", head, at(head), modifiers, environment)

    edge = Hyperedge(
        "e0", "action", "plays", (at("plays"),), (Participant("subject", "v0"), Participant("object", "v1"))
    )
    vertices = (vertex(0, "dog", "white"), vertex(1, "cat", "ginger"), vertex(2, "forest", environment=True))
    return Hypergraph(PROMPT, vertices, (edge,))


def near(image: Image.Image, colour, tolerance: int = 6) -> np.ndarray:
    """(h, w) where the picture has this colour."""
    return (np.abs(np.asarray(image).astype(int) - np.array(colour)) <= tolerance).all(-1)


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of the stretches of columns in which the mask is set somewhere."""
    columns = np.flatnonzero(np.diff(np.concatenate([[0], mask.any(0).astype(int), [0]])))
    return list(zip(columns[::2].tolist(), columns[1::2].tolist(), strict=True))


def test_each_vertex_is_a_card_and_each_action_a_pill_above_its_parties():
    drawn = figures.draw_hypergraph(worked_example())
    cards, places, pills = (runs(near(drawn, c)) for c in (figures.CARD, figures.PLACE, figures.ACTION))
    assert (len(cards), len(places), len(pills)) == (2, 1, 1)
    assert cards[0][1] < cards[1][0] < places[0][0]  # dog, cat, forest from left to right
    assert cards[0][0] < sum(pills[0]) / 2 < cards[1][1]
    assert (
        np.flatnonzero(near(drawn, figures.ACTION).any(1)).max()
        < np.flatnonzero(near(drawn, figures.CARD).any(1)).min()
    )


def test_a_tie_runs_from_the_action_to_both_parties_and_to_no_one_else():
    drawn = figures.draw_hypergraph(worked_example())
    top = np.flatnonzero(near(drawn, figures.CARD).any(1)).min()
    tie = near(drawn, figures.ACTION_EDGE, 40)[top - 6]
    cards, places = runs(near(drawn, figures.CARD)), runs(near(drawn, figures.PLACE))
    assert all(tie[a:b].any() for a, b in cards) and not any(tie[a:b].any() for a, b in places)


def test_every_card_has_ink_and_a_modifier_is_written_above_its_head():
    drawn = figures.draw_hypergraph(worked_example())
    dark = np.asarray(drawn.convert("L")) < 110
    for fill in (figures.CARD, figures.PLACE):
        for a, b in runs(near(drawn, fill)):
            rows = np.flatnonzero(near(drawn, fill)[:, a:b].any(1))
            assert dark[rows[0] + 4 : rows[-1] - 4, a + 6 : b - 6].sum() > 40
    written = np.asarray(drawn.convert("L")) < 160
    first = [
        np.flatnonzero(written[rows, a + 8 : b - 8].any(1)).min()
        for fill in (figures.CARD, figures.PLACE)
        for a, b in runs(near(drawn, fill))
        for rows in [np.flatnonzero(near(drawn, fill)[:, a:b].any(1))[4:-4]]
    ]
    assert max(first[:2]) < first[2] - 4  # "forest" has no modifier


def test_a_drawing_fits_the_size_that_is_asked_for_and_an_empty_graph_says_so():
    assert figures.draw_hypergraph(worked_example(), (200, 333)).size == (200, 333)
    empty = figures.draw_hypergraph(Hypergraph("of"))
    assert not near(empty, figures.CARD).any() and near(empty, figures.FAINT, 40).sum() > 60


def test_a_heat_map_is_hottest_where_the_map_peaks_and_darkens_nothing_evenly():
    grid = np.zeros((4, 4))
    grid[1, 2] = 0.01  # tiny values are stretched
    picture = Image.new("RGB", (64, 64), (128, 128, 128))
    heat = np.asarray(figures.heatmap(grid, picture)).astype(int).sum(-1)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert 16 <= y < 32 and 32 <= x < 48
    assert heat[24, 40] > heat[56, 8] + 250
    flat = np.asarray(figures.heatmap(np.full((4, 4), 0.3), picture))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1


def test_the_heat_lies_over_the_grey_picture_and_opacity_weighs_it():
    picture = Image.new("RGB", (8, 8), (200, 0, 0))
    assert np.asarray(figures.heatmap(np.zeros((2, 2)), picture, opacity=0.0)).std(-1).max() == 0  # grey
    full = np.asarray(figures.heatmap(np.eye(2), picture, (16, 16), opacity=1.0))
    assert full.shape == (16, 16, 3) and tuple(full[0, 0]) == figures.HEAT[-1] and tuple(full[0, -1]) == figures.HEAT[0]


def test_the_ramp_grows_brighter_all_the_way():
    light = figures.colour_ramp(np.linspace(0, 1, 64)).astype(int) @ np.array([299, 587, 114])
    assert (np.diff(light) > 0).all()


def test_a_heat_map_takes_tensors_and_refuses_other_shapes():
    torch = pytest.importorskip("torch")
    picture = Image.new("RGB", (8, 8))
    grid = torch.rand(3, 5, dtype=torch.float16, requires_grad=True)
    expected = figures.heatmap(grid.detach().float().numpy(), picture)
    assert np.array_equal(np.asarray(figures.heatmap(grid, picture)), np.asarray(expected))
    with pytest.raises(ValueError, match=r"\(h, w\)"):
        figures.heatmap(np.zeros((1, 3, 3)), picture)


def test_a_sheet_keeps_every_pixel_of_its_pictures_in_their_order():
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((40, 60), (30, 50), (20, 70))
    ]
    page = np.asarray(
        figures.sheet([[figures.Panel(p, "title", "note") for p in pictures[:2]], [figures.Panel(pictures[2])]])
    )
    places = []
    for picture in pictures:
        pixels = np.asarray(picture)
        corners = np.argwhere((page == pixels[0, 0]).all(-1))
        fits = [
            (y, x) for y, x in corners if np.array_equal(page[y : y + pixels.shape[0], x : x + pixels.shape[1]], pixels)
        ]
        assert len(fits) == 1
        places += fits
    first, second, third = places
    assert first[0] == second[0] < third[0] and first[1] == third[1] < second[1]


def test_long_lines_are_broken_and_none_leaves_its_column():
    text = "a very long note about a red robot carrying a blue box through a dark and windy forest at night " * 3
    lines = figures.wrapped(text, 12, 100, 3)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert all(figures.text_width(line, 12) <= 100 for line in lines)
    assert " ".join(figures.wrapped("two short words", 12, 400, 3)) == "two short words"
    page = figures.sheet([[figures.Panel(Image.new("RGB", (100, 20), (9, 9, 9)), "", text)] * 2], "", "", 600)
    ink = np.asarray(page.convert("L"))[60:] < 200
    first = figures.MARGIN
    assert not ink[:, first + 101 : first + 100 + figures.MARGIN].any()


def test_a_curve_falls_where_its_values_fall_and_each_line_has_its_colour():
    series = {"contrast": [[0.0, 1.0], [0.1, 0.5], [0.2, 0.0]], "action": [[0.0, 0.25], [0.2, 0.25]]}
    drawn = figures.curves(series, (240, 200))
    assert drawn.size == (240, 200)
    falling, level = (near(drawn, colour, 30)[30:] for colour in figures.LINES[:2])  # below the legend
    height = lambda mask, x: np.flatnonzero(mask[:, x]).mean()  # noqa: E731
    assert height(falling, 50) < height(falling, 120) < height(falling, 200)
    assert abs(height(level, 60) - height(level, 200)) <= 1
    assert not near(drawn, figures.LINES[2], 30).any()
    empty = figures.curves({}, (240, 200))
    assert not near(empty, figures.LINES[0], 30).any() and near(empty, figures.FAINT, 60)[90:110].any()
