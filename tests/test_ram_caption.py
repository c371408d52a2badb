"""Tag2Text's captions: BERT's word pieces, the two text halves and the search, each against an independent one."""

from __future__ import annotations

import gzip
import itertools
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import ram_worlds  # noqa: E402
from interplay.guidance.grounding import ram_caption  # noqa: E402
from interplay.guidance.grounding.tags import DATA, tag_list  # noqa: E402

SHAPE = ram_worlds.SHAPES["tag2text"]
TEXTS = [
    "a picture of a red robot carrying a blue box", "Café-Bar, naïve façade!", "it's 3:45 pm; 50% off", "x" * 30,
    "unaffable embeddings", "strawberry | close-up | t-shirt", "日本 tag", "don't  stop…", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = Path(tmp_path_factory.mktemp("bert")) / "vocab.txt"
    file.write_bytes(gzip.decompress((DATA / "bert_vocab.txt.gz").read_bytes()))
    words = file.read_text(encoding="utf-8").split("\n")
    try:
        made = transformers.BertTokenizer(vocab_file=str(file), do_lower_case=True)
        assert made.convert_tokens_to_ids("robot") == words.index("robot")
    except (TypeError, AssertionError):
        made = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words[:30522])}, do_lower_case=True)
    return made


def test_the_vocabulary_is_berts() -> None:
    words = ram_caption.words()
    assert len(words) == 30522
    known = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, "the": 1996, "##s": 2015}
    assert {word: words[word] for word in known} == known


def test_words_are_cut_as_berts_tokenizer_cuts_them(bert: Any) -> None:
    for text in [*TEXTS[:6], *TEXTS[7:], *tag_list("tag2text").names]:
        assert ram_caption.encode(text) == bert(text, add_special_tokens=False)["input_ids"], text


def test_tags_are_told_as_published(bert: Any) -> None:
    for tags in (("cat", "close-up"), (), tuple(tag_list("tag2text").names[:60])):
        told = bert(" | ".join(tags), padding="max_length", truncation=True, max_length=40)["input_ids"]
        assert ram_caption.tag_ids(tags) == [30523, *told[1:]]


def test_captions_are_read_back_as_words(bert: Any) -> None:
    for text in ("a red robot, a cat and a dog.", "the man's hat", "two embeddings unaffable"):
        ids = ram_caption.encode(text)
        assert ram_caption.decode([ram_caption.START, *ids, ram_caption.END, 30522]) == text
        assert bert.decode(ids, clean_up_tokenization_spaces=True) in (text, text.replace("'s", " 's"), _spaced(text))


def _spaced(text: str) -> str:
    return text.replace(",", " ,").replace(".", " .").replace("'", " ' ")


# --- the two halves, against the library's class of the same architecture ---------------------------------------------


def blip_text(seen: int) -> Any:
    return transformers.BlipTextConfig(
        vocab_size=30524, hidden_size=16, encoder_hidden_size=seen, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=64, hidden_act="gelu", layer_norm_eps=1e-12, is_decoder=True,
    )  # fmt: skip


def half(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}


def test_the_encoder_of_tags_is_the_librarys_with_the_same_weights() -> None:
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    model = ram_worlds.model(SHAPE)
    theirs = BlipTextModel(blip_text(SHAPE.swin.features), add_pooling_layer=False).eval()
    fitted = theirs.load_state_dict(half(model.state_dict(), "tag_encoder."), strict=False)
    assert not fitted.unexpected_keys and not [key for key in fitted.missing_keys if "position_ids" not in key]
    ids = torch.tensor([ram_caption.tag_ids(("cat", "dog")), ram_caption.tag_ids(("red",) * 30)])
    seen = torch.randn(2, 17, SHAPE.swin.features, generator=torch.Generator().manual_seed(0))
    mask = ids != 0
    found = model.tag_encoder(ids, seen, mask)
    expected = theirs(
        ids, attention_mask=mask.long(), encoder_hidden_states=seen, encoder_attention_mask=torch.ones(2, 17),
        is_decoder=False, return_dict=True,
    ).last_hidden_state  # fmt: skip
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-4, atol=1e-4)
    assert found[mask].std() > 0.1


def test_the_decoder_is_the_librarys_with_the_same_weights() -> None:
    from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

    model = ram_worlds.model(SHAPE)
    theirs = BlipTextLMHeadModel(blip_text(16)).eval()
    theirs.cls.predictions.decoder.weight = torch.nn.Parameter(
        theirs.cls.predictions.decoder.weight.detach().clone(), requires_grad=False
    )
    state = half(model.state_dict(), "text_decoder.")
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    fitted = theirs.load_state_dict(state, strict=False)
    assert not fitted.unexpected_keys and not [key for key in fitted.missing_keys if "position_ids" not in key]
    ids = torch.tensor([[30522, 1037, 3861, 1997, 1037, 4937]])
    told = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(0))
    found = model.text_decoder(ids, told)
    expected = theirs(
        ids, attention_mask=torch.ones_like(ids), encoder_hidden_states=told,
        encoder_attention_mask=torch.ones(1, 40), is_decoder=True, return_dict=True,
    ).logits  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.shape == (1, 6, 30524) and found.std() > 0.1


# --- the search -------------------------------------------------------------------------------------------------------

WORDS, END = 4, 3


def chain(seed: int) -> Any:
    """Log-probabilities of the next of four words that depend on the last two and the length."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(12, WORDS, WORDS, WORDS, generator=generator).mul(1.5).log_softmax(-1)

    def logs(ids: Any) -> Any:
        return table[ids.shape[1], ids[:, -2], ids[:, -1]].clone()

    return logs


def every_text(logs: Any, start: list[int], shortest: int, longest: int) -> list[int]:
    """The best of all texts there are, by the mean over the length with the start, without the end."""
    best, winner = -math.inf, list[int]()
    for length in range(len(start), longest + 1):
        for more in itertools.product(range(END), repeat=length - len(start)):
            text, total = [*start, *more], 0.0
            for i in range(len(start), length):
                total += float(logs(torch.tensor([text[:i]]))[0, text[i]])
            if length < longest:
                if length < shortest:
                    continue
                total += float(logs(torch.tensor([text]))[0, END])
            if total / length > best:
                best, winner = total / length, text
    return winner


@pytest.mark.parametrize("seed", range(6))
def test_with_enough_beams_the_search_finds_the_best_of_all_texts(seed: int) -> None:
    logs, start = chain(seed), [0, 1]
    assert ram_caption.beam_search(logs, start, END, 300, 4, 6) == every_text(logs, start, 4, 6)


@pytest.mark.parametrize("seed", range(6))
def test_one_beam_takes_the_likeliest_word_each_time(seed: int) -> None:
    logs, text = chain(seed), [0, 1]
    while len(text) < 8:
        nexts = logs(torch.tensor([text]))[0]
        nexts[END] = -math.inf
        text.append(int(nexts.argmax()))
    assert ram_caption.beam_search(logs, [0, 1], END, 1, 99, 8) == text


def test_no_caption_is_shorter_than_it_may_be_nor_longer() -> None:
    for seed in range(10):
        assert 5 <= len(ram_caption.beam_search(chain(seed), [0, 1], END, 3, 5, 9)) <= 9


def test_captions_depend_on_picture_and_tags_and_not_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ram_caption, "LONGEST", 20)
    model = ram_worlds.model(SHAPE, scale=0.6)
    features = torch.randn(2, 17, SHAPE.swin.features, generator=torch.Generator().manual_seed(1)) * 3
    both = ram_caption.captions(model, features, [("cat",), ("dog", "red")])
    assert both[0] == ram_caption.captions(model, features[:1], [("cat",)])[0]
    assert both[1] == ram_caption.captions(model, features[1:], [("dog", "red")])[0]
    ids = torch.tensor([ram_caption.tag_ids(names) for names in (("cat",), ("dog", "red"))])

    def logits(picture: int, tags: int) -> Any:
        told = model.tag_encoder(ids[tags : tags + 1], features[picture : picture + 1], ids[tags : tags + 1] != 0)
        return model.text_decoder(torch.tensor([[ram_caption.DECODE, 1037]]), told)

    assert (logits(0, 0) - logits(1, 0)).abs().max() > 0.01 and (logits(0, 0) - logits(0, 1)).abs().max() > 1e-3
