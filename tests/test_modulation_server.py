"""The workflow with masks by hand in a real ComfyUI: a robot and a cat that wear each other's colours are put right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("PIL")

from comfy_server import ComfyServer, api_workflow, nodes_of
from conftest import comfyui_path
from interplay.guidance.pixelworld.detect import judge

pytestmark = [pytest.mark.comfy, pytest.mark.server]

FLOW = api_workflow("reweight_pixelworld")
PROMPT = next(FLOW[i]["inputs"]["text"] for i in nodes_of(FLOW, "Interplay_PromptToHypergraph"))


def test_colours_come_back_to_their_owners_and_maps_show_why(tmp_path: Path) -> None:
    import numpy as np

    with ComfyServer(comfyui_path(), tmp_path / "base") as server:
        entry = server.run(FLOW)
        assert entry["status"]["status_str"] == "success", entry["status"]
        before = server.pictures(entry, nodes_of(FLOW, "PreviewImage")[0])[0]
        after = server.pictures(entry, nodes_of(FLOW, "SaveImage")[0])[0]
        maps = server.pictures(entry, nodes_of(FLOW, "Interplay_ReweightMaps")[0])
        if folder := os.environ.get("INTERPLAY_KEEP_PICTURES"):
            for name, picture in {"before": before, "after": after, "robot": maps[0], "cat": maps[1]}.items():
                picture.save(Path(folder) / f"{name}.png")
    first, second = (judge(PROMPT, np.asarray(picture.convert("RGB"))) for picture in (before, after))
    assert first.presence == 1 and first.binding == 0
    assert second.all_right
    assert len(maps) == 2
    text = "\n".join(entry["outputs"][nodes_of(FLOW, "Interplay_ReweightMaps")[0]]["text"])
    shares = [[int(w.rstrip("%")) for w in line.split() if w.rstrip(",").endswith("%")] for line in text.splitlines()]
    assert len(shares) == 2 and all(after > before for before, after in shares), text
    bound = "\n".join(entry["outputs"][nodes_of(FLOW, "Interplay_AttentionReweight")[0]]["text"])
    assert "robot -> 'red robot', score 2" in bound
