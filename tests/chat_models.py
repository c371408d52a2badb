"""Small chat models of real transformers classes: one of random weights, one that learned to say one thing. No test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
torch = pytest.importorskip("torch")

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHORT = "{{ messages[-1]['content'][-24:] }}|"  # the end of the question only: quickly learned
END = "<end>"


def byte_tokenizer(template: str | None) -> Any:
    """A token for every byte, and one for the end."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=END)
    fast.chat_template = template
    return fast


def _config(tokenizer: Any, **changes: Any) -> Any:
    return transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True, **changes,
    )  # fmt: skip


def random_chat(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Qwen2ForCausalLM with random weights."""
    torch.manual_seed(5)
    tokenizer = byte_tokenizer(template)
    return _saved(folder, transformers.Qwen2ForCausalLM(_config(tokenizer)), tokenizer)


def learned_chat(folder: Path, reply: str, question_end: str) -> Path:
    """The same class, trained until it answers a question that ends so with this reply."""
    torch.manual_seed(5)
    tokenizer = byte_tokenizer(SHORT)
    model = transformers.Qwen2ForCausalLM(_config(tokenizer))
    start = tokenizer(f"{question_end[-24:]}|")["input_ids"]
    ids = torch.tensor([[*start, *tokenizer(reply)["input_ids"], tokenizer.eos_token_id]])
    labels = ids.clone()
    labels[:, : len(start)] = -100
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(400):
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    assert loss.item() < 0.05
    return _saved(folder, model, tokenizer)


def _saved(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
