"""Words to token positions: transformers' tokenizers, and tables as data. The host's splitter: test_tokens_comfy."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from clip_vocabulary import clip_tokenizer
from conftest import ROOT
from corpus import PAPER, gold, gold_graph
from interplay.errors import InterplayError
from interplay.parsing.clip_pieces import clip_pieces
from interplay.parsing.hypergraph import Hypergraph
from interplay.parsing.tokens import Piece, TokenTable, align_plain
from prompt_fuzz import random_prompt


class WithoutOffsets:
    """A fast tokenizer that hides its offsets, as transformers 4's slow one has none."""

    is_fast = False

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.model_max_length = inner.model_max_length

    def __call__(self, text: Any, **options: Any) -> Any:
        assert "return_offsets_mapping" not in options
        return self.inner(text, **options)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return self.inner.convert_ids_to_tokens(ids)


@pytest.fixture(scope="module")
def clip() -> Any:
    return clip_tokenizer()


def spelled(tokenizer: Any, pieces: list[Piece]) -> str:
    """What the vocabulary says these pieces are: an independent check of where they were placed."""
    return tokenizer.decode([p.id for p in pieces]).replace(" ", "")


def words_of(graph: Hypergraph) -> list[tuple[int, int]]:
    spans = [v.span for v in graph.vertices] + [m.span for v in graph.vertices for m in v.modifiers]
    return spans + [s for e in graph.hyperedges for s in e.spans]


@pytest.mark.parametrize("hide", [False, True])
def test_every_word_of_the_corpus_has_the_pieces_that_spell_it(clip: Any, hide: bool) -> None:
    tokenizer = WithoutOffsets(clip) if hide else clip
    count = 0
    for line in gold():
        graph = Hypergraph.from_dict(line)
        table = align_plain(graph.prompt, tokenizer)
        ids = clip(graph.prompt, truncation=True, max_length=77)["input_ids"]
        for piece in table.pieces:
            assert ids[piece.position] == piece.id
        for span in words_of(graph):
            positions = table.positions(span)
            if not positions:
                assert table.warnings, graph.prompt
                continue
            pieces = [p for p in table.pieces if p.position in positions]
            word = graph.prompt[slice(*span)]
            assert spelled(clip, pieces) == word.lower(), (graph.prompt, word)
            count += 1
    assert count > 300


def test_spans_without_offsets_are_those_of_the_fast_tokenizer(clip: Any) -> None:
    if not getattr(clip, "is_fast", False):
        pytest.skip("this transformers has no fast CLIPTokenizer")
    rng = random.Random(5)
    prompts = [line["prompt"] for line in gold()] + [random_prompt(rng) for _ in range(150)]
    compared = 0
    for prompt in prompts:
        # The fast tokenizer reports a joined accent at its letter only, and half an "İ"; both are a matter of taste.
        if unicodedata.normalize("NFC", prompt) != prompt or any(len(c.lower()) > 1 for c in prompt):
            continue
        fast, slow = clip_pieces(clip, prompt), clip_pieces(WithoutOffsets(clip), prompt)
        assert slow.sure
        assert (slow.ids, slow.places) == (fast.ids, fast.places)
        compared += 1
    assert compared > 100


def test_a_tokenizer_that_rewrites_is_matched_and_reported(clip: Any) -> None:
    class Rewriting(WithoutOffsets):
        """Straightens curly quotes before anything else, as ftfy does in transformers 4."""

        def __call__(self, text: Any, **options: Any) -> Any:
            texts = [text] if isinstance(text, str) else text
            fixed = [t.replace("’", "'") for t in texts]
            return super().__call__(fixed[0] if isinstance(text, str) else fixed, **options)

    prompt = "a dog that doesn’t chase the cat’s ball"
    table = align_plain(prompt, Rewriting(clip))
    assert any("rewrote" in w for w in table.warnings) and not table.exact
    for word in ("dog", "chase", "cat", "ball"):
        start = prompt.index(word)
        positions = table.positions((start, start + len(word)))
        assert spelled(clip, [p for p in table.pieces if p.position in positions]).startswith(word)
        assert len(positions) == 1


def test_the_papers_odd_word_has_two_pieces(clip: Any) -> None:
    split = {}
    for prompt in PAPER:
        table = align_plain(prompt, clip)
        start = 0
        for word in prompt.split():
            start = prompt.index(word, start)
            positions = table.positions((start, start + len(word)))
            assert positions
            if len(positions) > 1:
                split[word] = positions
    assert split == {"reeling": (3, 4)}


def test_words_beyond_the_window_are_named(clip: Any) -> None:
    graph = gold_graph("d032")
    table = align_plain(graph.prompt, clip)
    assert table.length == 77
    assert max(p.position for p in table.pieces) == 75
    assert table.warnings == (
        "The prompt has 91 tokens but only 75 fit; everything from 'focus' on is not seen by the model.",
    )
    cut = graph.prompt.index("focus")
    assert table.positions((cut, cut + 5)) == ()


def test_a_tokenizer_that_disagrees_with_itself_is_searched(clip: Any) -> None:
    class Prefixing(WithoutOffsets):
        """Puts words before the padded prompt, like a pipeline with a trigger word."""

        def __call__(self, text: Any, **options: Any) -> Any:
            if "padding" in options:
                return super().__call__("best quality, " + text, **options)
            return super().__call__(text, **options)

    prompt = "a fish eats a small fish"
    table = align_plain(prompt, Prefixing(clip))
    assert not table.exact and "searching" in table.warnings[0]
    assert (table.positions((2, 6)), table.positions((20, 24))) == ((5,), (9,))


def table(*pieces: tuple[tuple[int, int] | None, int], length: int = 77) -> TokenTable:
    return TokenTable("l", length, tuple(Piece(span, "", 1, position) for span, position in pieces))


def test_positions_are_those_of_pieces_that_touch_the_span() -> None:
    some = table(((0, 3), 1), ((4, 6), 2), ((6, 8), 3), (None, 4), ((8, 9), 78), length=154)
    assert some.positions((4, 8)) == (2, 3)
    assert some.positions((5, 6)) == (2,)
    assert some.positions((3, 4)) == ()
    assert some.positions((0, 9)) == (1, 2, 3, 78)


def test_copies_of_a_repeated_cond() -> None:
    some = table(((0, 3), 1), ((4, 6), 5))
    assert some.copies((0, 3), 77) == (1,)
    assert some.copies((0, 6), 231) == (1, 5, 78, 82, 155, 159)
    for total in (100, 0, 76):
        with pytest.raises(InterplayError, match="cannot be repeated"):
            some.copies((0, 3), total)


def test_parsing_imports_no_torch_and_no_host() -> None:
    import ast

    for path in sorted(Path(ROOT, "parsing").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {n.split(".")[0] for n in names} & {"torch", "comfy", "diffusers", "transformers"}
