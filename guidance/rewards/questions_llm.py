"""Questions about a picture by a language model: any function that answers chat messages (``grounding.llm_http``)."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import InterplayError
from .answers import Asker
from .questions import Question
from .questions_json import SYSTEM, outermost, read_questions

Ask = Callable[[list[dict[str, str]]], str]


def llm_asker(ask: Ask) -> Asker:
    """Questions of a prompt, asked for once each; a reply that cannot be used is sent back once with the reason.

    Raises (when it is called):
        InterplayError: the second reply cannot be used either, or the model cannot be asked.
    """
    known: dict[str, tuple[Question, ...]] = {}

    def of(prompt: str) -> tuple[Question, ...]:
        if prompt not in known:
            known[prompt] = _asked(ask, prompt)
        return known[prompt]

    return of


def _asked(ask: Ask, prompt: str) -> tuple[Question, ...]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Caption: {prompt}"}]
    said = ask(messages)
    try:
        return questions_in(said)
    except InterplayError as error:
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"{error} Answer again."}]
    try:
        return questions_in(ask(messages))
    except InterplayError as error:
        raise InterplayError(
            f"The language model's questions for {prompt!r} cannot be used ({str(error).rstrip('.')}); take the rules "
            "or another model."
        ) from error


def questions_in(said: str) -> tuple[Question, ...]:
    """Questions of a reply. InterplayError when there are none."""
    found = outermost(said)
    return read_questions(found["questions"] if isinstance(found, dict) and "questions" in found else found)
