"""A chat model on this machine as judge: the real class, small."""

from __future__ import annotations

import json

import chat_models
import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.grounding import llm_local
from interplay.guidance.grounding.verdicts_judge import JudgeError, judge_with
from interplay.guidance.grounding.verdicts_reply import messages_for

PROMPT, TAGS = "a red book and a yellow pen", ["book", "pen", "table", "banana"]
SAID = '{"book":"certain","pen":"certain","table":"unlikely","banana":"possible"}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chat_models.random_chat(tmp_path_factory.mktemp("chat") / "random")


@pytest.fixture(scope="module")
def loaded(folder):
    return llm_local.load_chat(str(folder))


def greedy(folder, text: str, count: int) -> str:
    """The likeliest token, over and over, without a cache and without generate."""
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen2ForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(count):
            following = model(ids).logits[:, -1].argmax(-1, keepdim=True)
            if int(following) == tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, following], 1)
    return tokenizer.decode(ids[0, start:])


def test_it_says_what_greedy_decoding_says(folder, loaded):
    messages = messages_for(PROMPT, TAGS)
    text = "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"
    said = llm_local.chat(loaded, max_new_tokens=12)(messages)
    assert said == greedy(folder, text, 12) and said


def test_without_a_template_the_roles_are_written_out(tmp_path):
    folder = chat_models.random_chat(tmp_path / "plain", template=None)
    messages = messages_for("a cat", ["cat"])
    said = llm_local.chat(llm_local.load_chat(str(folder)), max_new_tokens=8)(messages)
    assert said == greedy(folder, llm_local.text_of(messages), 8)
    assert llm_local.text_of(messages).endswith("assistant:")


def test_nonsense_falls_down_to_the_rules(loaded):
    found = judge_with(llm_local.chat(loaded, max_new_tokens=16), PROMPT, TAGS)
    assert found.status.startswith("rules: The reply cannot be used") and found.raw
    assert [i.score for i in found.items] == [2, 2, 0.5, 0]


def test_a_model_that_learned_its_answer_is_believed(tmp_path):
    end = messages_for(PROMPT, TAGS)[-1]["content"]
    folder = chat_models.learned_chat(tmp_path / "learned", SAID, end)
    found = judge_with(llm_local.chat(llm_local.load_chat(str(folder))), PROMPT, TAGS)
    assert found.raw == SAID and found.status == "llm"
    assert [(i.score, i.phrase) for i in found.items] == [(2, "red book"), (2, "yellow pen"), (0, ""), (0.5, "")]


def test_generation_can_be_cancelled(loaded):
    class Cancelled(Exception):
        pass

    seen: list[int] = []

    def check() -> None:
        seen.append(1)
        if len(seen) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        judge_with(llm_local.chat(loaded, check, max_new_tokens=50), PROMPT, TAGS)
    assert len(seen) == 3


def test_a_question_longer_than_the_model_reads(loaded):
    tags = [f"tag number {i}" for i in range(400)]
    with pytest.raises(JudgeError, match="reads 4096"):
        llm_local.chat(loaded)(messages_for(PROMPT, tags))
    assert judge_with(llm_local.chat(loaded), PROMPT, tags).status.startswith("rules: The question has")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InterplayError, match=r"config\.json"):
        llm_local.load_chat(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}), encoding="utf-8")
    with pytest.raises(InterplayError, match="cannot be loaded"):
        llm_local.load_chat(str(tmp_path))
