"""A chat model on this machine, through transformers' own classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..rewards.loading import Loaded, Source, load
from .verdicts_judge import JudgeError
from .verdicts_reply import Messages

ROLE = "judging tags"
EXAMPLE = "Qwen/Qwen3-4B-Instruct-2507 (8 GB)"
MAX_NEW_TOKENS = 2048
VISION = (
    "gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "smolvlm", "idefics3", "internvl", "llava",
    "llava_next", "mistral3",
)  # fmt: skip
"""Model types that also see; they are asked in words alone."""


def load_chat(place: str, device: str = "cpu", dtype: torch.dtype | None = None) -> Loaded:
    """Open a chat model from a folder.

    Raises:
        InterplayError: there is none, or it cannot be loaded.
    """
    classes = dict.fromkeys(VISION, "AutoModelForImageTextToText")
    return load(Source(place, ROLE, EXAMPLE), classes, "AutoModelForCausalLM", device, text_only=True, dtype=dtype)


def chat(
    loaded: Loaded, check: Callable[[], None] = lambda: None, max_new_tokens: int = MAX_NEW_TOKENS
) -> Callable[[Messages], str]:
    """A function that asks the model, greedily; check: called before every token, raises to give up.

    The function raises ``JudgeError`` when the question is longer than the model can read, or memory runs out.
    """

    def ask(messages: Messages) -> str:
        inputs = _inputs(loaded, messages)
        start, limit = inputs["input_ids"].shape[1], _limit(loaded)
        if start >= limit:
            raise JudgeError(f"The question has {start} tokens and the model reads {limit}; give fewer tags.")
        room = min(max_new_tokens, limit - start)
        try:
            ids = _generate(loaded, inputs, room, check)
        except torch.OutOfMemoryError:
            raise JudgeError("The chat model ran out of memory; choose a smaller one.") from None
        return str(loaded.tokenizer.decode(ids[0, start:], skip_special_tokens=True))

    return ask


def text_of(messages: Messages) -> str:
    """Messages for a model without a chat template."""
    return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant:"


def _inputs(loaded: Loaded, messages: Messages) -> dict[str, Any]:
    tokenizer = loaded.tokenizer
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        found = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    else:
        found = tokenizer(text_of(messages), return_tensors="pt")
    return {name: found[name].to(loaded.device) for name in ("input_ids", "attention_mask")}


def _limit(loaded: Loaded) -> int:
    config = loaded.model.config
    for part in (getattr(config, "text_config", None), config):
        found = getattr(part, "max_position_embeddings", None)
        if found:
            return int(found)
    return 4096


@torch.no_grad()
def _generate(loaded: Loaded, inputs: Mapping[str, Any], room: int, check: Callable[[], None]) -> torch.Tensor:
    from transformers import StoppingCriteria, StoppingCriteriaList

    class _Look(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            check()
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    tokenizer = loaded.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.inference_mode(False):
        ids: torch.Tensor = loaded.model.generate(
            **inputs, max_new_tokens=room, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
            pad_token_id=pad, stopping_criteria=StoppingCriteriaList([_Look()]),
        )  # fmt: skip
    return ids
