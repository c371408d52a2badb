"""Florence-2 and chat models that see as taggers, on the real classes of transformers with small weights."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import objects_models  # noqa: E402
import tags_models  # noqa: E402
from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.grounding import tags_chat, tags_florence  # noqa: E402
from interplay.guidance.grounding.detectors_florence import Florence2  # noqa: E402
from PIL import Image  # noqa: E402

BLACK, WHITE = (Image.new("RGB", (20, 12), color) for color in ("black", "white"))


# --- chat models ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> tags_chat.Loaded:
    return tags_chat.load_vlm(str(tags_models.vlm(tmp_path_factory.mktemp("chat"))))


def test_a_chat_model_names_what_each_picture_shows(vlm: tags_chat.Loaded) -> None:
    black, white = (tags_chat.look(vlm, picture) for picture in (BLACK, WHITE))
    assert set(black.names()) == {"cat", "black box"} and black.caption == "A cat."
    assert white.names() == ("dog",) and white.caption == ""
    assert all(0.8 < tag.score <= 1 for tag in (*black.tags, *white.tags))


def test_a_chat_models_scores_are_the_probabilities_of_its_words(vlm: tags_chat.Loaded) -> None:
    (dog,) = tags_chat.look(vlm, WHITE).tags
    inputs, start = tags_chat.instruct(vlm, [WHITE], [tags_chat.ASK])
    said = vlm.tokenizer(tags_models.WHITE)["input_ids"]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([said])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        logs = vlm.model(**inputs).logits[0].float().log_softmax(-1)
    at = tags_models.WHITE.index("dog")  # every letter is a token
    own = [float(logs[start + at + i - 1, said[at + i]]) for i in range(3)]
    assert dog.score == pytest.approx(math.exp(sum(own) / 3), rel=1e-4)


def test_a_folder_without_a_model_is_one_sentence(tmp_path) -> None:
    with pytest.raises(InterplayError, match=r"There is no model for tags in .*Qwen2\.5-VL"):
        tags_chat.load_vlm(str(tmp_path))


# --- Florence-2 -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Florence2:
    return Florence2.open(objects_models.florence(tmp_path_factory.mktemp("florence")), torch.float32)


def says(florence: Florence2, text: str, sure: float = 30.0):
    """A hook that makes the real model's next tokens those of a text, then the end."""
    tokenizer = florence.processor.tokenizer
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    step = iter([*ids, *([tokenizer.eos_token_id] * 1000)])

    def hook(module, inputs, out):
        wanted = torch.zeros_like(out)
        wanted[..., -1, next(step)] = sure
        return out + wanted

    return florence.model.get_output_embeddings().register_forward_hook(hook)


def test_florence_names_things_with_boxes(florence: Florence2) -> None:
    said = "cat<loc_100><loc_200><loc_299><loc_399><loc_0><loc_0><loc_9><loc_9>dog<loc_500><loc_500><loc_999><loc_999>"
    handle = says(florence, said)
    try:
        found = tags_florence.look(florence, BLACK, "cpu", caption=False)
    finally:
        handle.remove()
    assert set(found.names()) == {"cat", "dog"} and found.caption == ""
    boxes = {tag.name: tag.box for tag in found.tags}
    assert boxes["cat"] == pytest.approx((0.1005, 0.2005, 0.2995, 0.3995))
    assert boxes["dog"] == pytest.approx((0.5005, 0.5005, 0.9995, 0.9995))
    assert all(tag.score == pytest.approx(1.0, abs=1e-3) for tag in found.tags)


def test_florence_is_as_sure_as_its_tokens_are_likely(florence: Florence2) -> None:
    handle = says(florence, "cat<loc_1><loc_2><loc_300><loc_400>", sure=8.0)
    try:
        tokens = tags_florence.answer(florence, BLACK, tags_florence.OBJECTS, "cpu")
    finally:
        handle.remove()
    assert "".join(text for text, _ in tokens) == "cat<loc_1><loc_2><loc_300><loc_400>"
    assert all(0.1 < sure < 0.99 for _, sure in tokens)
    (cat,) = tags_florence.tags_of(tokens)
    assert cat.score == pytest.approx(sum(sure for _, sure in tokens) / len(tokens))
    inputs = florence.processor(text=tags_florence.OBJECTS, images=BLACK, return_tensors="pt")
    tokenizer = florence.processor.tokenizer
    told = [2, *tokenizer(tokens[0][0], add_special_tokens=False)["input_ids"]]
    with torch.no_grad():  # the probability of the first token, from the model itself
        out = florence.model(**inputs, decoder_input_ids=torch.tensor([[2]])).logits[0, -1].clone()
    out[told[1]] += 8.0
    assert tokens[0][1] == pytest.approx(float(out.softmax(-1)[told[1]]), rel=1e-3)


def test_florence_writes_a_caption_in_a_second_pass(florence: Florence2, monkeypatch) -> None:
    asked = []
    real = tags_florence.answer

    def answer(opened, picture, task, device):
        asked.append(task)
        handle = says(opened, "a cat." if task == "<DETAILED_CAPTION>" else "")
        try:
            return real(opened, picture, task, device)
        finally:
            handle.remove()

    monkeypatch.setattr(tags_florence, "answer", answer)
    found = tags_florence.look(florence, BLACK, "cpu")
    assert found.caption == "a cat." and found.tags == () and set(asked) == {"<DETAILED_CAPTION>", "<OD>"}
    asked.clear()
    assert tags_florence.look(florence, BLACK, "cpu", caption=False).caption == "" and asked == ["<OD>"]


def test_florence_says_the_same_every_time(florence: Florence2) -> None:
    once = tags_florence.answer(florence, BLACK, tags_florence.OBJECTS, "cpu")
    assert once == tags_florence.answer(florence, BLACK, tags_florence.OBJECTS, "cpu") and once
    other = tags_florence.answer(florence, BLACK, tags_florence.CAPTION, "cpu")
    assert [sure for _, sure in other] != [sure for _, sure in once]
