"""The replay of ComfyUI's splitter against the splitter itself, on its real tokenizers."""

from __future__ import annotations

import logging
import numbers
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from corpus import gold
from interplay.errors import InterplayError
from interplay.parsing.hypergraph import Hypergraph
from interplay.parsing.tokens import TokenTable, align_comfyui
from prompt_fuzz import random_prompt, write_embeddings

pytestmark = pytest.mark.comfy

KINDS = ("sd1", "sd2", "sdxl", "sd1 without embeddings")

SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = [b for b in range(256) if b not in SHOWN]
BYTES = {chr(b): b for b in SHOWN} | {chr(256 + n): b for n, b in enumerate(HIDDEN)}


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from comfy.sd1_clip import SD1Tokenizer
    from comfy.sdxl_clip import SDXLTokenizer
    from comfy.text_encoders.sd2_clip import SD2Tokenizer

    folder = tmp_path_factory.mktemp("embeddings")
    write_embeddings(Path(folder))
    where = str(folder)
    made = (SD1Tokenizer(where), SD2Tokenizer(where), SDXLTokenizer(where), SD1Tokenizer())
    return dict(zip(KINDS, made, strict=True))


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """ComfyUI warns of every missing embedding; the fuzz names thousands."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def align(module: Any, prompt: str, **options: Any) -> dict[str, TokenTable]:
    return align_comfyui(prompt, module, module.tokenize_with_weights(prompt), **options)


def at(table: TokenTable, prompt: str, word: str, number: int = 1) -> tuple[int, ...]:
    start = -1
    for _ in range(number):
        start = prompt.index(word, start + 1)
    return table.positions((start, start + len(word)))


def check(module: Any, prompt: str, tokens: Any) -> None:
    """Every piece has the real id at its position, and the vocabulary spells what the prompt says there."""
    for name, table in align_comfyui(prompt, module, tokens).items():
        tokenizer = getattr(module, f"clip_{name}")
        assert not any("searching" in w for w in table.warnings), (prompt, table.warnings)
        final: list[Any] = []
        for chunk in tokens[name]:
            width = tokenizer.embedding_size
            kept = [e[0] for e in chunk if isinstance(e[0], numbers.Integral) or e[0].shape[-1] == width]
            final += kept + [tokenizer.pad_token] * (len(chunk) - len(kept))
        claimed = {}
        for piece in table.pieces:
            real = final[piece.position]
            assert (piece.id == real) if piece.id >= 0 else not isinstance(real, numbers.Integral), prompt
            assert piece.position not in claimed, prompt
            claimed[piece.position] = piece
            if piece.id >= 0 and piece.span is not None and table.exact:
                assert letters(tokenizer, piece.id) in said(prompt, piece.span), (prompt, piece)
        special = {tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token}
        shorter = table.length
        for position, real in enumerate(final[:shorter]):
            if position not in claimed:
                assert isinstance(real, numbers.Integral) and real in special, (prompt, position)


def said(prompt: str, span: tuple[int, int]) -> bytes:
    """The prompt at a span as CLIP reads it: no escapes, accents joined (also those around the span), lower case."""
    start, end = span
    while start and unicodedata.combining(prompt[start]):
        start -= 1
    while end < len(prompt) and unicodedata.combining(prompt[end]):
        end += 1
    # A comma cut from an embedding's name can part an accent from its letter, so it may also stand alone.
    readings = []
    for text in (prompt[start:end], prompt[span[0] : span[1]]):
        bare = text.replace("\\(", "(").replace("\\)", ")")
        # transformers 4 drops format characters and unassigned ones, 5 keeps them.
        readings += [bare, "".join(c for c in bare if unicodedata.category(c)[0] != "C")]
    return b" ".join(unicodedata.normalize("NFC", text).lower().encode("utf-8", "replace") for text in readings)


def letters(tokenizer: Any, id: int) -> bytes:
    """The bytes that a byte-level vocabulary writes as letters."""
    token = tokenizer.inv_vocab[id].removesuffix("</w>")
    return token.encode() if token.startswith("<|") else bytes(BYTES[c] for c in token)


@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_is_split_as_the_host_splits_it(modules: dict[str, Any], kind: str) -> None:
    module = modules[kind]
    for line in gold():
        check(module, line["prompt"], module.tokenize_with_weights(line["prompt"], return_word_ids=True))
        graph = Hypergraph.from_dict(line)
        spans = [s for e in graph.hyperedges for s in e.spans] + [v.span for v in graph.vertices]
        spans += [m.span for v in graph.vertices for m in v.modifiers]
        for table in align(module, line["prompt"]).values():
            assert table.exact
            assert all(table.positions(span) for span in spans), line["prompt"]


def fuzz(modules: dict[str, Any], count: int, seed: int, always: tuple[str, ...] = ()) -> int:
    """Check ``count`` prompts, each on the next kind of CLIP and on those in ``always``; how many checks were made."""
    rng = random.Random(seed)
    done = 0
    for n in range(count):
        prompt = random_prompt(rng)
        for kind in {KINDS[n % len(KINDS)], *always}:
            try:
                tokens = modules[kind].tokenize_with_weights(prompt)
            except IndexError:
                continue  # ComfyUI itself fails on an embedding without a name
            check(modules[kind], prompt, tokens)
            done += 1
    return done


def test_500_random_prompts_are_split_as_the_host_splits_them(modules: dict[str, Any]) -> None:
    assert fuzz(modules, 500, seed=1) > 450


@pytest.mark.slow
def test_5000_random_prompts_are_split_as_the_host_splits_them(modules: dict[str, Any]) -> None:
    assert fuzz(modules, 5000, seed=2, always=("sdxl",)) > 8000


def test_weights_escapes_and_break(modules: dict[str, Any]) -> None:
    prompt = r"a (red:1.2) car \(old\) BREAK a ((blue)) truck"
    table = align(modules["sd1"], prompt)["l"]
    found = {word: at(table, prompt, word) for word in ("red", "car", "old", "BREAK", "blue", "truck")}
    assert found == {"red": (2,), "car": (3,), "old": (5,), "BREAK": (7,), "blue": (9,), "truck": (10,)}
    assert at(table, prompt, "1.2") == ()


def test_repeated_words_are_told_apart(modules: dict[str, Any]) -> None:
    prompt = "a fish eats a (fish:1.3) near a fish"
    table = align(modules["sd1"], prompt)["l"]
    assert [at(table, prompt, "fish", n) for n in (1, 2, 3)] == [(2,), (5,), (8,)]


def test_a_word_can_straddle_two_chunks(modules: dict[str, Any]) -> None:
    prompt = "very " * 74 + "juggling clown"
    table = align(modules["sd1"], prompt)["l"]
    assert table.length == 154
    assert at(table, prompt, "juggling") == (75, 78)
    assert at(table, prompt, "clown") == (79,)


def test_a_small_group_moves_whole_to_the_next_chunk(modules: dict[str, Any]) -> None:
    prompt = "very " * 74 + "(juggling:1.1) clown"
    table = align(modules["sd1"], prompt)["l"]
    assert at(table, prompt, "juggling") == (78, 79)


def test_embeddings_take_their_vectors_positions(modules: dict[str, Any]) -> None:
    prompt = "embedding:small, a dog embedding:missing cat embedding:one"
    table = align(modules["sd1"], prompt)["l"]
    assert at(table, prompt, "embedding:small") == (1, 2, 3)
    assert at(table, prompt, ",") == (4,)
    assert (at(table, prompt, "dog"), at(table, prompt, "missing"), at(table, prompt, "cat")) == ((6,), (), (7,))
    assert at(table, prompt, "embedding:one") == (8,)


def test_embeddings_of_another_width_vanish_and_later_words_move_left(modules: dict[str, Any]) -> None:
    prompt = "a embedding:small dog " + "very " * 80 + "cat"
    tables = align(modules["sdxl"], prompt)
    small, large = tables["l"], tables["g"]
    assert (at(small, prompt, "embedding:small"), at(large, prompt, "embedding:small")) == ((2, 3, 4), ())
    assert (at(small, prompt, "dog"), at(large, prompt, "dog")) == ((5,), (2,))
    assert at(small, prompt, "cat") == at(large, prompt, "cat"), "the next chunk is not touched"
    assert all("different positions" in t.warnings[0] for t in tables.values())
    fits = align(modules["sdxl"], "a dog embedding:missing cat")
    assert not any(t.warnings for t in fits.values())
    assert at(align(modules["sd1"], prompt, widths={"l": 64})["l"], prompt, "dog") == (2,)


@pytest.mark.parametrize("width", [768, 1280])
def test_positions_are_where_the_text_model_puts_the_rows(modules: dict[str, Any], width: int) -> None:
    """Through ComfyUI's own ``process_tokens``: the row at a piece's position is the row of its id."""
    import torch
    from comfy.sd1_clip import SDClipModel

    config = {
        "num_hidden_layers": 1, "hidden_size": width, "num_attention_heads": 1, "intermediate_size": 8,
        "hidden_act": "quick_gelu", "max_position_embeddings": 77, "vocab_size": 49408, "eos_token_id": 49407,
    }  # fmt: skip
    model = SDClipModel(textmodel_json_config=config, dtype=torch.float32)
    rows = model.transformer.get_input_embeddings()
    rows.weight = torch.nn.Parameter(torch.zeros(49408, width), requires_grad=False)
    rows.weight[:, 0] = torch.arange(49408)
    module, name = modules["sdxl"], "l" if width == 768 else "g"
    rng = random.Random(3)
    prompts = ["embedding:small a dog embedding:both cat embedding:one mouse", *(random_prompt(rng) for _ in range(40))]
    for prompt in prompts:
        try:
            tokens = module.tokenize_with_weights(prompt)[name]
        except IndexError:
            continue
        tables = align(module, prompt)
        embedded = [model.process_tokens([[e[0] for e in chunk]], "cpu")[0][0] for chunk in tokens]
        axis = torch.cat(embedded)[: tables[name].length, 0]
        assert len(axis) == tables[name].length
        for piece in tables[name].pieces:
            assert axis[piece.position] == (piece.id if piece.id >= 0 else 1), (prompt, piece)


def test_repeated_conds_hold_the_word_in_every_copy(modules: dict[str, Any]) -> None:
    import torch
    from comfy.conds import CONDCrossAttn

    prompt = "a white dog"
    table = align(modules["sd1"], prompt)["l"]
    short = torch.arange(77.0).view(1, 77, 1)
    joined = CONDCrossAttn(short).concat([CONDCrossAttn(torch.zeros(1, 231, 1))])
    copies = table.copies((8, 11), joined.shape[1])
    assert copies == (3, 80, 157)
    assert joined[0, list(copies), 0].tolist() == [3.0, 3.0, 3.0]


def test_a_splitter_that_differs_is_searched_and_reported(modules: dict[str, Any]) -> None:
    """Another pack may tokenise otherwise, for instance without weights or with words in front."""
    module = modules["sd1"]
    prompt = "a fish eats a small reeling fish"
    table = align_comfyui(prompt, module, module.tokenize_with_weights("cinematic photo, " + prompt + ", sharp"))["l"]
    assert not table.exact
    assert table.warnings and "searching" in table.warnings[0]
    assert [at(table, prompt, "fish", n) for n in (1, 2)] == [(5,), (11,)]
    assert at(table, prompt, "reeling") == (9, 10)


def test_words_that_the_real_tokens_lack_get_no_position(modules: dict[str, Any]) -> None:
    module = modules["sd1"]
    prompt = "a zebra eats a fish"
    table = align_comfyui(prompt, module, module.tokenize_with_weights("a dog eats a fish"))["l"]
    assert (at(table, prompt, "zebra"), at(table, prompt, "fish")) == ((), (5,))
    assert table.warnings


def test_weights_switched_off_are_replayed_too(modules: dict[str, Any]) -> None:
    module = modules["sd1"]
    prompt = "a (red:1.2) car"
    table = align_comfyui(prompt, module, module.tokenize_with_weights(prompt, disable_weights=True))["l"]
    assert table.exact and not table.warnings
    assert at(table, prompt, "1.2") == (5, 6, 7)


def test_other_text_encoders_are_refused(modules: dict[str, Any]) -> None:
    tokens = modules["sdxl"].tokenize_with_weights("a dog")
    with pytest.raises(InterplayError, match=r"'t5xxl'.*SD1\.x, SD2\.x and SDXL"):
        align_comfyui("a dog", modules["sdxl"], {**tokens, "t5xxl": []})
