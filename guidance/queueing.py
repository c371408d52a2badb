"""Fill a workflow in API format with prompts, seeds and values, as ``interplay queue`` does."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InterplayError

SHIPPED = Path(__file__).resolve().parents[1] / "workflows" / "api"
HYPERGRAPH, ENCODER = "Interplay_PromptToHypergraph", "CLIPTextEncode"
SEEDS = ("seed", "noise_seed")
SEED_LIMIT = 2**64
Workflow = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """``value`` for the input ``name`` of the nodes with the id, title or type ``node``."""

    node: str
    name: str
    value: Any

    @classmethod
    def read(cls, text: str) -> Change:
        """NODE.INPUT=VALUE; the value is read as JSON where it is JSON, else as text.

        Raises:
            InterplayError: the text has another form.
        """
        place, equals, value = text.partition("=")
        node, dot, name = place.rpartition(".")
        if not (equals and dot and node and name):
            raise InterplayError(f"'{text}' is no setting; write NODE.INPUT=VALUE, as in KSampler.steps=30.")
        try:
            return cls(node, name, json.loads(value))
        except ValueError:
            return cls(node, name, value)


def read_workflow(name: str) -> Workflow:
    """A shipped workflow by its name, or a file in API format.

    Raises:
        InterplayError: there is no such workflow, or the file is not in API format.
    """
    path = Path(name)
    shipped = SHIPPED / f"{name}.json"
    if not path.is_file():
        if not shipped.is_file():
            known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.json")))
            raise InterplayError(f"There is no workflow '{name}'; give a file in API format or one of {known}.")
        path = shipped
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InterplayError(f"The workflow {path} cannot be read ({error}); export it again.") from error
    if isinstance(found, dict) and isinstance(found.get("nodes"), list):
        raise InterplayError(f"{path} is a workflow of the page; export it with Workflow > Export (API) and give that.")
    if not isinstance(found, dict) or not found or not all(_is_node(node) for node in found.values()):
        raise InterplayError(f"{path} holds no workflow in API format; export one with Workflow > Export (API).")
    return found


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)


def filled(workflow: Workflow, prompt: str | None, seed: int | None, changes: tuple[Change, ...] = ()) -> Workflow:
    """A copy with another prompt, another seed, other values; None leaves what is there.

    The prompt goes wherever the old one stood: into the text of the positive prompt, and into every other input
    that held the same words. The seed goes into the first sampler; all samplers are moved by the same number, so that
    those that shared a seed still share one.

    Raises:
        InterplayError: no prompt or no seed can be found, or a change fits no node.
    """
    out = copy.deepcopy(workflow)
    if prompt is not None:
        _put_prompt(out, prompt)
    if seed is not None:
        _put_seed(out, seed)
    for change in changes:
        _put(out, change)
    return out


def prompt_of(workflow: Workflow) -> str:
    """The words of the positive prompt; empty where none is found."""
    node = _prompt_node(workflow)
    return str(workflow[node]["inputs"]["text"]) if node else ""


def seed_of(workflow: Workflow) -> int | None:
    """The seed of the first sampler; None where none has one."""
    found = _seeds(workflow)
    return None if not found else int(workflow[found[0][0]]["inputs"][found[0][1]])


def title_of(workflow: Workflow, node: str) -> str:
    """What a node is called on the page."""
    found = workflow.get(node, {})
    return str(found.get("_meta", {}).get("title") or found.get("class_type") or node)


def _put_prompt(workflow: Workflow, prompt: str) -> None:
    node = _prompt_node(workflow)
    if node is None:
        raise InterplayError(
            "The workflow's positive prompt was not found; name its place with --set NODE.text=PROMPT."
        )
    old = workflow[node]["inputs"]["text"]
    workflow[node]["inputs"]["text"] = prompt
    for other in workflow.values():
        for name, value in other["inputs"].items():
            if old and value == old:
                other["inputs"][name] = prompt


def _prompt_node(workflow: Workflow) -> str | None:
    """The node whose text is the positive prompt: the pack's own, else the encoder that a 'positive' input leads to."""
    own = [id for id, node in workflow.items() if node["class_type"] == HYPERGRAPH and _has_text(node)]
    if own:
        return own[0]
    for node in workflow.values():
        found = _encoder(workflow, node["inputs"].get("positive"), set())
        if found is not None:
            return found
    encoders = [id for id, node in workflow.items() if node["class_type"] == ENCODER and _has_text(node)]
    return encoders[0] if len(encoders) == 1 else None


def _encoder(workflow: Workflow, link: Any, seen: set[str]) -> str | None:
    """The text encoder that a link comes from, over any number of nodes that pass conditioning on."""
    if not isinstance(link, list) or str(link[0]) in seen or str(link[0]) not in workflow:
        return None
    id = str(link[0])
    node = workflow[id]
    if _has_text(node):
        return id
    inputs = node["inputs"]
    names = [name for name in ("positive", "conditioning", "conditioning_1", "conditioning_to") if name in inputs]
    found = (_encoder(workflow, inputs[name], seen | {id}) for name in names)
    return next((encoder for encoder in found if encoder is not None), None)


def _has_text(node: dict[str, Any]) -> bool:
    return isinstance(node["inputs"].get("text"), str)


def _put_seed(workflow: Workflow, seed: int) -> None:
    places = _seeds(workflow)
    if not places:
        raise InterplayError("No sampler of the workflow has a seed; name its place with --set NODE.seed=NUMBER.")
    first, name = places[0]
    moved = seed - workflow[first]["inputs"][name]
    for node, name in places:
        inputs = workflow[node]["inputs"]
        inputs[name] = (inputs[name] + moved) % SEED_LIMIT


def _seeds(workflow: Workflow) -> list[tuple[str, str]]:
    """Node and input of all seeds that drawing begins with, in the order of the workflow."""
    return [
        (id, name)
        for id, node in workflow.items()
        for name in SEEDS
        if isinstance(node["inputs"].get(name), int)
        and ("latent_image" in node["inputs"] or node["class_type"] == "RandomNoise")
    ]


def _put(workflow: Workflow, change: Change) -> None:
    nodes = [node for id, node in workflow.items() if change.node in (id, title_of(workflow, id), node["class_type"])]
    if not nodes:
        known = ", ".join(f"{id} ({title_of(workflow, id)})" for id in workflow)
        raise InterplayError(f"The workflow has no node '{change.node}'; it has {known}.")
    for node in nodes:
        if change.name not in node["inputs"]:
            known = ", ".join(node["inputs"]) or "none"
            raise InterplayError(f"Node '{change.node}' has no input '{change.name}'; it has {known}.")
        if isinstance(node["inputs"][change.name], list):
            raise InterplayError(f"'{change.name}' of node '{change.node}' comes from another node; set it there.")
        node["inputs"][change.name] = change.value
