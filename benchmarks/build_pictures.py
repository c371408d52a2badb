"""Make the pictures of the README and the thumbnails of the workflows, by running the workflows in a real ComfyUI.

    COMFYUI_PATH=... python benchmarks/build_pictures.py --out DIR

Needs a ComfyUI with its requirements. Writes shy_pixelworld.jpg (the thumbnail), guided.jpg, hypergraph.jpg
and maps.jpg, and report.txt with what the nodes said; and the thumbnails of the workflows that choose and try again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import conftest  # noqa: E402, F401  (makes `interplay` importable)
from comfy_server import ComfyServer, api_workflow, nodes_of  # noqa: E402
from interplay.guidance.figures import Panel, sheet  # noqa: E402


def strip(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one size side by side."""
    width, height = pictures[0].size
    page = Image.new("RGB", (len(pictures) * (width + 4) - 4, height), (255, 255, 255))
    for i, picture in enumerate(pictures):
        page.paste(picture, (i * (width + 4), 0))
    return page


def save(picture: Image.Image, path: Path) -> None:
    """As JPEG, good enough for pixel art."""
    picture.convert("RGB").save(path, quality=90, optimize=True)


def draw(server: ComfyServer, out: Path, seed: int | None) -> None:
    """Run the PixelWorld workflow and save what it shows."""
    prompt: dict[str, Any] = api_workflow("shy_pixelworld")
    guided_id = nodes_of(prompt, "Interplay_ContrastLinkKSampler")[0]
    for id in (guided_id, *nodes_of(prompt, "KSampler")):
        prompt[id]["inputs"]["seed"] = prompt[id]["inputs"]["seed"] if seed is None else seed
    entry = server.run(prompt)
    if entry["status"]["status_str"] != "success":
        raise SystemExit(str(entry["status"]["messages"][-1]))
    plain, guided = (strip(server.pictures(entry, id)) for id in nodes_of(prompt, "SaveImage"))
    text_id = nodes_of(prompt, "Interplay_PromptToHypergraph")[0]
    maps_id = nodes_of(prompt, "Interplay_AttentionMaps")[0]
    title = prompt[text_id]["inputs"]["text"]
    save(sheet([[Panel(plain, "plain")], [Panel(guided, "guided, same noise")]], title), out / "guided.jpg")
    both = Image.new("RGB", (plain.width, plain.height * 2 + 4), (255, 255, 255))
    both.paste(plain, (0, 0))
    both.paste(guided, (0, plain.height + 4))
    save(both, out / "shy_pixelworld.jpg")
    save(server.pictures(entry, nodes_of(prompt, "Interplay_HypergraphPreview")[0])[0], out / "hypergraph.jpg")
    save(strip(server.pictures(entry, maps_id)), out / "maps.jpg")
    said = [t for id in (text_id, guided_id, maps_id) for t in entry["outputs"].get(id, {}).get("text", ())]
    (out / "report.txt").write_text("\n\n".join(said) + "\n", encoding="utf-8")


def draw_choice(server: ComfyServer, out: Path) -> None:
    """Run the workflows that choose and that try again, and save their thumbnails."""
    prompt: dict[str, Any] = api_workflow("best_of_batch_pixelworld")
    entry = _finished(server, prompt)
    everything, heat = (server.pictures(entry, id) for id in nodes_of(prompt, "PreviewImage"))
    (best,) = server.pictures(entry, nodes_of(prompt, "SaveImage")[0])
    report = json.loads(entry["outputs"][nodes_of(prompt, "Interplay_DiffusionITM")[0]]["text"][0])
    title = report["texts"][0]
    panels = [
        Panel(picture, f"{score[0]:.2f}" + (" best" if picture.tobytes() == best.tobytes() else ""))
        for picture, score in zip(everything, report["comparable"], strict=True)
    ]
    maps = [Panel(picture.resize(everything[0].size), "") for picture in heat]
    save(sheet([panels[:4], maps[:4], panels[4:], maps[4:]], title), out / "best_of_batch_pixelworld.jpg")
    (out / "best_of_batch.json").write_text(json.dumps(report, indent=1), encoding="utf-8")

    prompt = api_workflow("until_good_pixelworld")
    entry = _finished(server, prompt)
    (good,) = server.pictures(entry, nodes_of(prompt, "SaveImage")[0])
    shown, number = (entry["outputs"][id]["text"][0] for id in nodes_of(prompt, "PreviewAny"))
    panel = Panel(good.resize((256, 256), Image.Resampling.NEAREST), f"try {number}, p = {float(shown):.3f}")
    save(sheet([[panel]], title), out / "until_good_pixelworld.jpg")


def draw_captions(server: ComfyServer, out: Path) -> None:
    """Run the workflow with captions, and save its thumbnail."""
    prompt: dict[str, Any] = api_workflow("caption_reward_pixelworld")
    entry = _finished(server, prompt)
    everything = server.pictures(entry, nodes_of(prompt, "PreviewImage")[0])
    (best,) = server.pictures(entry, nodes_of(prompt, "SaveImage")[0])
    reward = nodes_of(prompt, "Interplay_CaptionReward")[0]
    said = entry["outputs"][reward]["text"][0].splitlines()
    panels = []
    for picture, line in zip(everything, said, strict=True):
        score = line.split(": ")[1].split(",")[0]
        panels.append(Panel(picture, score + (" best" if picture.tobytes() == best.tobytes() else "")))
    save(sheet([panels[:4], panels[4:]], prompt[reward]["inputs"]["prompt"]), out / "caption_reward_pixelworld.jpg")
    table = entry["outputs"][nodes_of(prompt, "Interplay_AlignmentScores")[0]]["text"][0]
    (out / "caption_reward.txt").write_text("\n".join([*said, "", table]) + "\n", encoding="utf-8")


def draw_realigned(server: ComfyServer, out: Path) -> None:
    """Run the workflows that look and draw again, and save their thumbnails."""
    prompt: dict[str, Any] = api_workflow("realign_pixelworld")
    entry = _finished(server, prompt)
    (plain,) = server.pictures(entry, nodes_of(prompt, "PreviewImage")[0])
    (kept,) = server.pictures(entry, nodes_of(prompt, "SaveImage")[0])
    (found,) = server.pictures(entry, nodes_of(prompt, "Interplay_GroundObjects")[0])
    panels = [Panel(plain, "plain"), Panel(found.resize((128, 128 * found.height // found.width)), "found")]
    title = prompt[nodes_of(prompt, "Interplay_PromptToHypergraph")[0]]["inputs"]["text"]
    save(sheet([[*panels, Panel(kept, "kept")]], title), out / "realign_pixelworld.jpg")

    prompt = api_workflow("realign_loop_pixelworld")
    entry = _finished(server, prompt)
    first = server.pictures(entry, nodes_of(prompt, "PreviewImage")[0])
    last = server.pictures(entry, nodes_of(prompt, "SaveImage")[0])
    (shown,) = nodes_of(prompt, "PreviewAny")
    told = json.loads(entry["outputs"][shown]["text"][0])["pictures"]
    above = [Panel(picture, f"{one['before']:.2f}") for picture, one in zip(first, told, strict=True)]
    below = [Panel(picture, f"{one['after']:.2f}") for picture, one in zip(last, told, strict=True)]
    save(sheet([above, below], title), out / "realign_loop_pixelworld.jpg")


def _finished(server: ComfyServer, prompt: dict[str, Any]) -> dict[str, Any]:
    entry = server.run(prompt)
    if entry["status"]["status_str"] != "success":
        raise SystemExit(str(entry["status"]["messages"][-1]))
    return entry


def main() -> None:
    """Run the server and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=None, help="another seed than the workflow's")
    parser.add_argument("--only", choices=["guidance", "choice", "captions", "realign"], help="a part of the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    comfyui = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")
    with tempfile.TemporaryDirectory() as folder, ComfyServer(comfyui, Path(folder) / "base") as server:
        if options.only in (None, "guidance"):
            draw(server, options.out, options.seed)
        if options.only in (None, "choice"):
            draw_choice(server, options.out)
        if options.only in (None, "captions"):
            draw_captions(server, options.out)
        if options.only in (None, "realign"):
            draw_realigned(server, options.out)


if __name__ == "__main__":
    main()
