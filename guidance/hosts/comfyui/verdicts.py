"""Judges of tags inside ComfyUI: rules, an endpoint that the environment names, chat models of ``models/interplay``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import folder_paths

from ....errors import InterplayError
from ....parsing.hypergraph import Hypergraph
from ...grounding import llm_http, llm_local
from ...grounding.verdicts import Verdicts, judge_offline
from ...grounding.verdicts_judge import Ask, JudgeError, judge_pasted, judge_with
from ...grounding.verdicts_reply import Messages
from ...grounding.verdicts_text import read_batch
from .scores import FOLDER, opened

RULES, ENDPOINT = "rules", "endpoint"
CHATS = {
    "Qwen3-4B-Instruct-2507": "Qwen/Qwen3-4B-Instruct-2507 (8 GB)",
    "Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct (15 GB)",
    "Qwen2.5-1.5B-Instruct": "Qwen/Qwen2.5-1.5B-Instruct (3.1 GB)",
}
Judging = Callable[[str, Sequence[str], Hypergraph | None], Verdicts]
_failures = 0


def judges() -> list[str]:
    """What the node offers: rules, the endpoint, known chat models, and every other folder with one."""
    found = {p.parent.name for root in folder_paths.get_folder_paths(FOLDER) for p in Path(root).glob("*/config.json")
             if _chats(p)}  # fmt: skip
    return [RULES, ENDPOINT, *CHATS, *sorted(found - {*CHATS})]


def _chats(config: Path) -> bool:
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
        named = [str(name) for name in found.get("architectures") or ()]
        return any(n.endswith("ForCausalLM") for n in named) or found.get("model_type") in llm_local.VISION
    except (OSError, ValueError, AttributeError):
        return False  # a folder of something else


def failures() -> int:
    """How often a language model could not judge. Part of the node's fingerprint: the next run asks it again."""
    return _failures


@dataclass(frozen=True)
class Judge:
    """by: one of ``judges``; pasted: a judge's reply, which then is the judge; timeout: seconds; retries: of an
    endpoint; strict: raise where a language model fails.
    """

    by: str = RULES
    pasted: str = ""
    timeout: float = llm_http.TIMEOUT
    retries: int = llm_http.RETRIES
    strict: bool = False


def judge_batch(
    prompts: Sequence[str], tags: Sequence[str], graph: Hypergraph | None = None, how: Judge | None = None
) -> list[Verdicts]:
    """Verdicts of each picture. prompts: one for all, or one a picture; tags: as ``verdicts_text.read_batch`` takes
    them; the same question is asked once.

    Raises:
        InterplayError: prompt and hypergraph differ, the tags are malformed, or ``strict`` and the judge failed.
    """
    pictures = read_batch(tags)
    texts = [_prompt(prompts[i if len(prompts) == len(pictures) else 0], graph) for i in range(len(pictures))]
    judge, known = judge_of(how or Judge()), dict[tuple[str, tuple[str, ...]], Verdicts]()
    for text, names in zip(texts, pictures, strict=True):
        if (text, names) not in known:
            known[text, names] = judge(text, names, graph)
    return [known[text, names] for text, names in zip(texts, pictures, strict=True)]


def judge_of(how: Judge) -> Judging:
    """Prompt, tags and perhaps the hypergraph to verdicts, for as many pictures as there are."""
    ask = None if how.by == RULES or how.pasted.strip() else _ask(how.by, how.timeout, how.retries)

    def judge(prompt: str, tags: Sequence[str], graph: Hypergraph | None = None) -> Verdicts:
        if how.pasted.strip():
            return judge_pasted(how.pasted, prompt, tags, graph, how.strict)
        if ask is None:
            return judge_offline(prompt, tags, graph)
        return _counted(ask, prompt, tags, graph, how.strict)

    return judge


def _counted(ask: Ask, prompt: str, tags: Sequence[str], graph: Hypergraph | None, strict: bool) -> Verdicts:
    global _failures
    try:
        found = judge_with(ask, prompt, tags, graph, strict)
    except InterplayError:
        _failures += 1
        raise
    _failures += bool(tags) and found.status.startswith("rules")
    return found


def _prompt(prompt: str, graph: Hypergraph | None) -> str:
    if graph is not None and prompt.strip() and graph.prompt.split() != prompt.split():
        raise InterplayError("The prompt and the hypergraph's prompt differ; leave the prompt of Judge Tags empty.")
    found = prompt if graph is None else graph.prompt
    if not found.strip():
        raise InterplayError("There is no prompt to judge tags by; write the one that the picture was drawn from.")
    return found


def _ask(by: str, timeout: float, retries: int) -> Ask:
    """Ask a model; it is opened no earlier than it is asked, and what hinders that is for the ladder."""
    check = comfy.model_management.throw_exception_if_processing_interrupted
    made: list[Ask] = []
    failed: list[JudgeError] = []

    def ask(messages: Messages) -> str:
        check()
        if failed:  # further pictures do not wait for it again
            raise failed[0]
        try:
            if not made:
                made.append(_opened(by, timeout, retries))
            return made[0](messages)
        except JudgeError as error:
            if by == ENDPOINT or not made:
                failed.append(error)
            raise

    def _opened(by: str, timeout: float, retries: int) -> Ask:
        if by == ENDPOINT:
            return llm_http.chat(llm_http.endpoint_from_environment(timeout=timeout, retries=retries), check)
        try:
            return llm_local.chat(opened(_known(by), llm_local.ROLE, llm_local.load_chat).ready(), check)
        except InterplayError as error:
            raise JudgeError(str(error)) from error

    return ask


def _known(name: str) -> str:
    """The name, when its folder is there or nothing is known of where to get it."""
    roots: Sequence[str] = folder_paths.get_folder_paths(FOLDER)
    if name in CHATS and not any((Path(root) / name / "config.json").is_file() for root in roots):
        where = Path(roots[0]) / name
        raise InterplayError(f"The chat model is missing; put the files of huggingface.co/{CHATS[name]} into {where}.")
    return name
