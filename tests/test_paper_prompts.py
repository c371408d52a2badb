"""The paper's fourteen prompts (SHYI, appendix A.2) all the way: parsed, placed on the token axis, paired."""

from __future__ import annotations

from typing import Any

import pytest
from clip_vocabulary import clip_tokenizer
from corpus import PAPER
from interplay.guidance.graph import TokenGraph, token_graph
from interplay.guidance.losses import action_pairs, contrast_pairs, link_pairs
from interplay.parsing import parse
from interplay.parsing.tokens import TokenTable, align_comfyui, align_plain

# Who (head last), does what, to whom, where: what a reader says of each prompt.
READING = (
    ("Robot", "painting", "canvas", "studio"),
    ("Cat", "chasing", "mouse", "tree"),
    ("Dog", "carrying", "stick", "bridge"),
    ("Child", "reading", "book", "fireplace"),
    ("Bird", "building", "nest", "cliff"),
    ("Fisherman", "catching", "fish", "river"),
    ("Artist", "sculpting", "statue", "gallery"),
    ("Red robot", "fixing", "broken car", "garage"),
    ("Small cat", "chasing", "gray mouse", "table"),
    ("Golden retriever", "holding", "wooden stick", "beach"),
    ("Young girl", "reading", "thick book", "window"),
    ("Blue bird", "weaving", "tiny nest", "branch"),
    ("Old fisherman", "reeling", "big fish", "lake"),
    ("Skilled artist", "carving", "marble statue", "workshop"),
)
# Every word is one token, but for "reeling"; so positions follow from the words alone.
PIECES = {"reeling": 2}


def expected_positions(prompt: str) -> dict[str, tuple[int, ...]]:
    positions, place = {}, 1
    for word in prompt.split():
        size = PIECES.get(word, 1)
        positions[word] = tuple(range(place, place + size))
        place += size
    return positions


def check(prompt: str, reading: tuple[str, str, str, str], table: TokenTable) -> TokenGraph:
    who, action, whom, where = reading
    graph = token_graph(parse(prompt), table)
    assert graph.warnings == ()
    text = [word.text for word in graph.words]
    place = expected_positions(prompt)
    groups = [tuple(text[i] for i in v.words) for v in graph.vertices]
    assert groups == [tuple(who.split()), tuple(whom.split()), (where,)]
    assert [text[v.head] for v in graph.vertices] == [group[-1] for group in groups]
    assert [v.environment for v in graph.vertices] == [False, False, True]
    edges = [(tuple(text[i] for i in e.words), e.parties, e.kind) for e in graph.edges]
    assert edges == [((action,), (0, 1), "action")]
    assert {word.text: word.positions for word in graph.words} == {word: place[word] for word in text}
    return graph


def test_all_fourteen_are_parsed_placed_and_paired() -> None:
    tokenizer = clip_tokenizer()
    assert len(PAPER) == len(READING) == 14
    for prompt, reading in zip(PAPER, READING, strict=True):
        graph = check(prompt, reading, align_plain(prompt, tokenizer))
        sizes = [len(v.words) for v in graph.vertices]
        # Contrast pairs the words of a group, and with the step before also each word's earlier map.
        assert len(contrast_pairs(graph, False)) == sum(n * (n - 1) for n in sizes)
        assert len(contrast_pairs(graph, True)) == sum(2 * n * (2 * n - 1) for n in sizes)
        # The action is drawn to every word of both parties, and to its own earlier map.
        assert len(action_pairs(graph, False)) == sizes[0] + sizes[1]
        assert len(action_pairs(graph, True)) == 2 * (sizes[0] + sizes[1]) + 1
        heads = {graph.vertices[0].head, graph.vertices[1].head}
        assert {frozenset((p.anchor, p.target)) for p in link_pairs(graph, True)} == {frozenset(heads)}
        assert len(link_pairs(graph, True)) == 2


@pytest.mark.comfy
def test_all_fourteen_stand_in_the_same_places_of_every_text_encoder() -> None:
    from comfy.sd1_clip import SD1Tokenizer
    from comfy.sdxl_clip import SDXLTokenizer
    from comfy.text_encoders.sd2_clip import SD2Tokenizer

    made: list[Any] = [SD1Tokenizer(), SD2Tokenizer(), SDXLTokenizer()]
    for prompt, reading in zip(PAPER, READING, strict=True):
        encoders = []
        for module in made:
            for name, table in align_comfyui(prompt, module, module.tokenize_with_weights(prompt)).items():
                assert table.exact
                check(prompt, reading, table)
                encoders.append(name)
        assert encoders == ["l", "h", "g", "l"]
