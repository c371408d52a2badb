"""The nodes' schemas: ids, input names, order and defaults are frozen by tests/data/object_info.json."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import comfyui_path

pytestmark = pytest.mark.comfy

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "tests" / "data" / "object_info.json"
# options that depend on the host or on what is installed
HOST_LISTS = {"sampler_name", "scheduler", "parser", "interaction_file", "detector", "segmenter", "tagger"}
KEYS = ("default", "min", "max", "step", "round", "multiline", "dynamicPrompts", "control_after_generate", "options")
KEYS = (*KEYS, "forceInput")


def node_classes() -> list[Any]:
    from interplay import comfy_entrypoint

    async def load() -> list[Any]:
        extension = await comfy_entrypoint()
        return await extension.get_node_list()

    return asyncio.run(load())


def frozen(info: dict[str, Any]) -> dict[str, Any]:
    """The parts of an /object_info entry that saved workflows rely on, alike on every version of the host."""
    inputs: dict[str, Any] = {}
    for part in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(part, {}).items():
            options = dict(rest[0]) if rest else {}
            if isinstance(kind, list):
                options["options"], kind = kind, "COMBO"
            if name in HOST_LISTS:
                options.pop("options", None)
                options.pop("default", None)
            kept = {key: options[key] for key in KEYS if options.get(key) is not None}
            inputs.setdefault(part, {})[name] = [kind, kept]
    out = {key: info[key] for key in ("display_name", "category", "output_node")}
    return {"input": inputs, "output": list(info["output"]), "output_name": list(info["output_name"]), **out}


def test_ids_inputs_order_and_defaults_are_as_published() -> None:
    now = {c.define_schema().node_id: frozen(c.GET_NODE_INFO_V1()) for c in node_classes()}
    if os.environ.get("INTERPLAY_UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    published = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert json.dumps(now, indent=1) == json.dumps(published, indent=1)


def test_every_input_and_output_has_a_tooltip_and_every_node_a_help_page() -> None:
    for cls in node_classes():
        schema = cls.define_schema()
        assert schema.description, schema.node_id
        for entry in [*schema.inputs, *schema.outputs]:
            assert entry.tooltip, f"{schema.node_id}.{entry.id}"
        page = ROOT / "web" / "docs" / f"{schema.node_id}.md"
        text = page.read_text(encoding="utf-8")
        for name in [*(i.id for i in schema.inputs), *(o.display_name for o in schema.outputs)]:
            assert f"`{name}`" in text, f"{page.name} does not mention {name}"


def test_no_output_has_the_id_of_an_input() -> None:
    """ComfyUI 0.3.64 refuses the whole pack otherwise."""
    for cls in node_classes():
        schema = cls.define_schema()
        ids = [entry.id for entry in [*schema.inputs, *schema.outputs]]
        assert len(set(ids)) == len(ids), schema.node_id


def test_help_pages_exist_only_for_nodes_that_exist() -> None:
    ids = {c.define_schema().node_id for c in node_classes()}
    assert {page.stem for page in (ROOT / "web" / "docs").glob("*.md")} == ids


LOAD_ALONE = """
import sys
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import conftest, asyncio, interplay
extension = asyncio.run(interplay.comfy_entrypoint())
for node in asyncio.run(extension.get_node_list()):
    node.GET_NODE_INFO_V1()
print(*(name for name in ("spacy", "lemminflect", "diffusers") if name in sys.modules))
"""


def test_loading_the_nodes_leaves_the_heavy_libraries_alone() -> None:
    paths = [str(ROOT / "tests"), str(comfyui_path()), *(p for p in sys.path if p)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", LOAD_ALONE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2].strip() == ""
