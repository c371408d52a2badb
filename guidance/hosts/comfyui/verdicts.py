"""Judges of tags inside ComfyUI: rules, an endpoint that the environment names, chat models of ``models/interplay``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import comfy.model_management
import folder_paths

from ....errors import InterplayError
from ....parsing.hypergraph import Hypergraph
from ...grounding import llm_http, llm_local
from ...grounding.verdicts import Verdicts, judge_offline
from ...grounding.verdicts_judge import Ask, JudgeError, judge_pasted, judge_with
from ...grounding.verdicts_reply import Messages
from ...grounding.verdicts_text import read_tags
from .scores import FOLDER, opened

RULES, ENDPOINT = "rules", "endpoint"
CHATS = {
    "Qwen3-4B-Instruct-2507": "Qwen/Qwen3-4B-Instruct-2507 (8 GB)",
    "Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct (15 GB)",
    "Qwen2.5-1.5B-Instruct": "Qwen/Qwen2.5-1.5B-Instruct (3.1 GB)",
}
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


def judge(
    prompt: str,
    tags: str,
    graph: Hypergraph | None,
    by: str,
    pasted: str = "",
    timeout: float = llm_http.TIMEOUT,
    retries: int = llm_http.RETRIES,
    strict: bool = False,
) -> Verdicts:
    """Verdicts on tags as ``verdicts_text.read_tags`` takes them; pasted: a judge's reply, which then is the judge.

    Raises:
        InterplayError: prompt and hypergraph differ, the tags are malformed, or ``strict`` and the judge failed.
    """
    global _failures
    prompt, names = _prompt(prompt, graph), read_tags(tags)
    if pasted.strip():
        return judge_pasted(pasted, prompt, names, graph, strict)
    if by == RULES:
        return judge_offline(prompt, names, graph)
    try:
        found = judge_with(_ask(by, timeout, retries), prompt, names, graph, strict)
    except InterplayError:
        _failures += 1
        raise
    _failures += bool(names) and found.status.startswith("rules")
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

    def ask(messages: Messages) -> str:
        check()
        if not made:
            made.append(_opened(by, timeout, retries))
        return made[0](messages)

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
