"""Verdicts by a language model, whichever answers: down the ladder to rules when it fails, never stuck."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...errors import InterplayError
from ...parsing.hypergraph import Hypergraph
from .verdicts import TagVerdict, Verdicts, judge_offline
from .verdicts_reply import BadReply, Messages, Reply, again, messages_for, read_reply

Ask = Callable[[Messages], str]
"""Chat messages to a reply; raises ``JudgeError`` when there is none to be had."""

ENOUGH = 0.5  # share of the tags that a reply must judge, or it is asked for again
BREAK = "\n--- asked again ---\n"


class JudgeError(InterplayError):
    """A language model could not be asked; the message holds no secret."""


def judge_with(
    ask: Ask, prompt: str, tags: Sequence[str], graph: Hypergraph | None = None, strict: bool = False
) -> Verdicts:
    """Ask; mend the reply; ask once more quoting what was wrong; fill what is missing by rule, all of it if need be.

    Never raises for what the model answers or fails to answer, unless ``strict``. The status says how far down it went:
    "llm", "repaired: …", "retry: …" or "rules: …".

    Raises:
        InterplayError: ``strict``, and no reply could be used.
    """
    rules = judge_offline(prompt, tags, graph)
    if not tags:
        return replace(rules, status="rules: there are no tags")
    messages, said, tried = messages_for(prompt, tags), list[str](), list[Reply]()
    error = ""
    for round_ in range(2):
        try:
            said.append(ask(messages))
            tried.append(read_reply(said[-1], prompt, tags))
            if len(tried[-1].verdicts) >= ENOUGH * len(tags):
                return _combined(tried[-1], rules, "retry" if round_ else "", said)
            error = f"The reply judges {len(tried[-1].verdicts)} of {len(tags)} tags."
        except BadReply as bad:
            error = str(bad)
        except JudgeError as bad:
            error = str(bad)
            break
        messages = again(messages, said[-1], error)
    if tried:
        best = max(tried, key=lambda reply: len(reply.verdicts))
        return _combined(best, rules, "retry" if len(said) > 1 else "", said, error)
    if strict:
        raise InterplayError(f"The judge gave no verdicts: {error}")
    return replace(rules, status=f"rules: {error}", raw=BREAK.join(said))


def judge_pasted(
    text: str, prompt: str, tags: Sequence[str], graph: Hypergraph | None = None, strict: bool = False
) -> Verdicts:
    """The same of a reply that a person or another node pasted; nobody can be asked again.

    Raises:
        InterplayError: ``strict``, and it cannot be used.
    """
    rules = judge_offline(prompt, tags, graph)
    if not tags:
        return replace(rules, status="rules: there are no tags", raw=text)
    try:
        return _combined(read_reply(text, prompt, tags), rules, "pasted", [text])
    except BadReply as error:
        if strict:
            raise
        told = str(error).replace("The reply cannot", "the pasted JSON cannot", 1)
        return replace(rules, status=f"rules: {told}", raw=text)


def _combined(reply: Reply, rules: Verdicts, status: str, said: Sequence[str], error: str = "") -> Verdicts:
    """The reply's verdicts, with rules where it has none."""
    notes = list(reply.notes)
    items = tuple(_item(reply.verdicts.get(i), item) for i, item in enumerate(rules.items))
    if filled := len(items) - len(reply.verdicts):
        notes.append(f"{filled} of {len(items)} tags by rule")
    answered = {phrase for item in items if item.score > 0 for phrase in (item.phrase, *item.others)}
    missing = rules.missing if reply.missing is None else reply.missing
    missing = tuple(name for name in missing if not any(_same(name, phrase) for phrase in answered))
    word = status or ("repaired" if notes else "llm")
    told = "; ".join([*([error.rstrip(".")] if error else []), *notes])
    return Verdicts(items, f"{word}: {told}" if told else word, BREAK.join(said), missing)


def _item(said: TagVerdict | None, rule: TagVerdict) -> TagVerdict:
    if said is None:
        return replace(rule, reason=f"by rule: {rule.reason}")
    if said.score > 0 and not said.phrase and rule.phrase:
        return replace(said, phrase=rule.phrase, others=rule.others)
    return said


def _same(name: str, phrase: str) -> bool:
    """Whether one holds the other, as "book" and "red book"."""
    a, b = f" {name.lower()} ", f" {phrase.lower()} "
    return bool(phrase) and (a in b or b in a)
