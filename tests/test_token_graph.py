"""From hypergraph and token table to what the losses see: the worked examples, and each rule."""

from __future__ import annotations

import pytest
from corpus import gold_graph
from interplay.guidance.graph import TokenGraph, token_graph
from interplay.parsing.hypergraph import Hypergraph
from interplay.parsing.textform import apply_text
from interplay.parsing.tokens import Piece, TokenTable


def table_of(prompt: str, split: tuple[str, ...] = (), unseen: tuple[str, ...] = ()) -> TokenTable:
    """One token a word, two for those in ``split``, none for those in ``unseen``; written out, no tokenizer."""
    pieces, start = [], 0
    for word in prompt.split():
        start = prompt.index(word, start)
        for _ in range(0 if word in unseen else 2 if word in split else 1):
            pieces.append(Piece((start, start + len(word)), word, 1, len(pieces) + 1))
        start += len(word)
    return TokenTable("l", 77, tuple(pieces))


def graph_of(prompt: str, text: str, relations: bool = False, **table: tuple[str, ...]) -> TokenGraph:
    return token_graph(apply_text(Hypergraph(prompt), text), table_of(prompt, **table), relations)


def named(graph: TokenGraph) -> tuple[dict, dict]:
    """Vertices and edges with words instead of indices."""
    text = [w.text for w in graph.words]
    vertices = {v.label: [text[i] for i in v.words] for v in graph.vertices}
    edges = {e.label: ([text[i] for i in e.words], [graph.vertices[i].label for i in e.parties]) for e in graph.edges}
    return vertices, edges


def test_worked_example_1() -> None:
    """facts: A white dog plays with a ginger cat in a forest."""
    hypergraph = gold_graph("d008")
    graph = token_graph(hypergraph, table_of(hypergraph.prompt))
    assert {w.text: w.positions for w in graph.words} == {
        "white": (2,), "dog": (3,), "plays": (4,), "ginger": (7,), "cat": (8,), "forest": (11,),
    }  # fmt: skip
    vertices, edges = named(graph)
    assert vertices == {"dog": ["white", "dog"], "cat": ["ginger", "cat"], "forest": ["forest"]}
    assert edges == {"plays with": (["plays"], ["dog", "cat"])}
    assert [v.environment for v in graph.vertices] == [False, False, True]
    assert [graph.words[v.head].text for v in graph.vertices] == ["dog", "cat", "forest"]
    assert graph.positions == (2, 3, 4, 7, 8, 11)
    assert (graph.length, graph.prompt, graph.warnings) == (77, hypergraph.prompt, ())


def test_worked_example_2() -> None:
    """facts: A pigeon carrying a letter is playing with a white dog and a cat in a forest."""
    hypergraph = gold_graph("d007")
    graph = token_graph(hypergraph, table_of(hypergraph.prompt))
    assert {w.text: w.positions for w in graph.words} == {
        "pigeon": (2,), "carrying": (3,), "letter": (5,), "playing": (7,),
        "white": (10,), "dog": (11,), "cat": (14,), "forest": (17,),
    }  # fmt: skip
    vertices, edges = named(graph)
    assert vertices == {
        "pigeon": ["pigeon"], "letter": ["letter"], "dog": ["white", "dog"], "cat": ["cat"], "forest": ["forest"],
    }  # fmt: skip
    assert edges == {
        "carrying": (["carrying"], ["pigeon", "letter"]),
        "playing with": (["playing"], ["pigeon", "dog", "cat"]),
    }


def test_an_action_in_two_pieces_has_both_positions() -> None:
    hypergraph = gold_graph("d006")
    graph = token_graph(hypergraph, table_of(hypergraph.prompt, split=("reeling",)))
    word = graph.words[graph.edges[0].words[0]]
    assert (word.text, word.positions) == ("reeling", (3, 4))
    assert graph.positions == (1, 2, 3, 4, 5, 6, 8)


def test_the_same_noun_twice_is_two_vertices() -> None:
    graph = graph_of("big fish eats small fish", "fish: big\nfish#2: small\neats(fish, fish#2)")
    assert [w.positions for w in graph.words] == [(1,), (2,), (3,), (4,), (5,)]
    assert [v.words for v in graph.vertices] == [(0, 1), (3, 4)]
    assert graph.edges[0].parties == (0, 1)


def test_a_location_is_no_party_and_an_environment_stands_in_no_edge() -> None:
    prompt = "cat sleeping on sofa in room"
    _, edges = named(graph_of(prompt, "cat\nsofa\n@room\nsleeping(cat; sofa, @room)"))
    assert edges == {"sleeping": (["sleeping"], ["cat"])}
    _, edges = named(graph_of(prompt, "cat\n@room\nsleeping in(cat, object=@room)"))
    assert edges == {"sleeping in": (["sleeping"], ["cat"])}


@pytest.mark.parametrize(
    ("prompt", "words", "kept"),
    [
        ("man picking up box", "picking up", ["picking"]),
        ("man laying on top of box", "laying on top of", ["laying"]),
        ("man trying to catch box", "trying to catch", ["trying", "catch"]),
        ("man is made of box", "made of", ["made"]),
        ("man to the left of box", "~to the left of", ["left"]),
        ("man next to box", "~next to", ["next", "to"]),
        ("man with box", "~with", ["with"]),
        ("man left box", "left", ["left"]),
    ],
)
def test_only_words_that_show_the_action_count(prompt: str, words: str, kept: list[str]) -> None:
    graph = graph_of(prompt, f"man\nbox\n{words}(man, box)", relations=True)
    assert [graph.words[i].text for i in graph.edges[0].words] == kept


def test_relations_only_when_asked_for() -> None:
    prompt, text = "dog next to car chasing cat", "dog\ncar\ncat\n~next to(dog, car)\nchasing(dog, cat)"
    assert [e.kind for e in graph_of(prompt, text).edges] == ["action"]
    both = graph_of(prompt, text, relations=True)
    assert [e.kind for e in both.edges] == ["relation", "action"]
    assert "next" not in {w.text for w in graph_of(prompt, text).words}


def test_one_party_is_an_edge_and_none_is_not() -> None:
    graph = graph_of("dog sleeping in park", "dog\n@park\nsleeping(dog; @park)")
    assert graph.edges[0].parties == (0,)
    graph = graph_of("sleeping in park", "@park\nsleeping(; @park)")
    assert graph.edges == ()
    assert graph.warnings == ("Nobody takes part in 'sleeping', so this action is left out.",)


def test_what_has_no_token_is_left_out_and_said() -> None:
    prompt, text = "red dog chasing big cat in park", "dog: red\ncat: big\n@park\nchasing(dog, cat; @park)"
    graph = graph_of(prompt, text, unseen=("cat", "red"))
    vertices, edges = named(graph)
    assert vertices == {"dog": ["dog"], "park": ["park"]}
    assert edges == {"chasing": (["chasing"], ["dog"])}
    assert graph.vertices[graph.edges[0].parties[0]].label == "dog"
    assert [w.text for w in graph.words] == ["dog", "chasing", "park"]
    assert len(graph.warnings) == 2 and all("no token" in w for w in graph.warnings)
    graph = graph_of(prompt, text, unseen=("chasing",))
    assert graph.edges == () and "this action is left out" in graph.warnings[0]


def test_counts_and_the_tables_warnings_are_passed_on() -> None:
    hypergraph = apply_text(Hypergraph("two dogs"), "dogs*2: two").with_warnings("unsure")
    table = table_of("two dogs")
    graph = token_graph(hypergraph, TokenTable("l", 77, table.pieces, False, ("searched",)))
    assert graph.warnings[:2] == ("unsure", "searched")
    assert "'dogs' counts 2 but is one group" in graph.warnings[2]


def test_a_modifier_shared_by_two_nouns_is_one_word() -> None:
    graph = graph_of("red cats and dogs", "cats: red\ndogs: red")
    assert [w.text for w in graph.words] == ["red", "cats", "dogs"]
    assert [v.words for v in graph.vertices] == [(0, 1), (0, 2)]
