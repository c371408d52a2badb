"""Write the example workflows, in UI format (workflows/) and API format (workflows/api/), from one description.

    python benchmarks/build_workflows.py            writes the files
    python benchmarks/build_workflows.py --check    exits 1 when a file on disk differs

The sockets and widgets of Interplay's nodes come from tests/data/object_info.json, those of the stock nodes from STOCK.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VERSION = "0.1.0"
SEED_CONTROL = "control_after_generate"
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@dataclass(frozen=True)
class Kind:
    """A node type: sockets and outputs as (name, type), widgets by name in their order."""

    sockets: tuple[tuple[str, str], ...] = ()
    widgets: tuple[str, ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()


KSAMPLER_WIDGETS = ("seed", SEED_CONTROL, "steps", "cfg", "sampler_name", "scheduler", "denoise")
STOCK = {
    "CheckpointLoaderSimple": Kind((), ("ckpt_name",), (("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE"))),
    "CLIPTextEncode": Kind((("clip", "CLIP"),), ("text",), (("CONDITIONING", "CONDITIONING"),)),
    "EmptyLatentImage": Kind((), ("width", "height", "batch_size"), (("LATENT", "LATENT"),)),
    "KSampler": Kind(
        (("model", "MODEL"), ("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("latent_image", "LATENT")),
        KSAMPLER_WIDGETS,
        (("LATENT", "LATENT"),),
    ),
    "VAEDecode": Kind((("samples", "LATENT"), ("vae", "VAE")), (), (("IMAGE", "IMAGE"),)),
    "SaveImage": Kind((("images", "IMAGE"),), ("filename_prefix",)),
    "PreviewImage": Kind((("images", "IMAGE"),)),
    "PreviewAny": Kind((("source", "*"),)),
    "MarkdownNote": Kind((), ("text",)),
    "SolidMask": Kind((), ("value", "width", "height"), (("MASK", "MASK"),)),
    "MaskComposite": Kind((("destination", "MASK"), ("source", "MASK")), ("x", "y", "operation"), (("MASK", "MASK"),)),
}


def own_kinds() -> dict[str, Kind]:
    """Interplay's node types, read off the snapshot of /object_info."""
    info = json.loads((ROOT / "tests/data/object_info.json").read_text(encoding="utf-8"))
    return {name: _kind(entry) for name, entry in info.items()}


def _kind(entry: dict[str, Any]) -> Kind:
    sockets, widgets = [], []
    for part in ("required", "optional"):
        for name, (kind, *options) in entry["input"].get(part, {}).items():
            forced = bool(options) and options[0].get("forceInput")
            if isinstance(kind, list) or (kind in WIDGET_TYPES and not forced):
                widgets.append(name)
                if options and options[0].get(SEED_CONTROL):
                    widgets.append(SEED_CONTROL)
            else:
                sockets.append((name, kind))
    return Kind(tuple(sockets), tuple(widgets), tuple(zip(entry["output_name"], entry["output"], strict=True)))


@dataclass
class Node:
    """One node of a description. ``links`` maps a socket to (node, output name)."""

    id: int
    type: str
    pos: tuple[int, int]
    size: tuple[int, int]
    values: dict[str, Any] = field(default_factory=dict)
    links: dict[str, tuple[Node, str]] = field(default_factory=dict)
    title: str = ""


class Workflow:
    """Collects nodes and writes both formats."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kinds = {**STOCK, **own_kinds()}
        self.nodes: list[Node] = []
        self.groups: list[dict[str, Any]] = []

    def add(self, type: str, pos: tuple[int, int], size: tuple[int, int], title: str = "", **inputs: Any) -> Node:
        """A node; keyword arguments are widget values, or (node, output name) for sockets and for linked widgets."""
        kind = self.kinds[type]
        sockets = {name for name, _ in kind.sockets}
        unknown = set(inputs) - sockets - set(kind.widgets)
        if unknown or set(kind.widgets) - set(inputs):
            raise ValueError(f"{type}: unknown {sorted(unknown)}, missing {sorted(set(kind.widgets) - set(inputs))}")
        links = {n: value for n, value in inputs.items() if n in sockets or isinstance(value, tuple)}
        values = {name: "" if isinstance(inputs[name], tuple) else inputs[name] for name in kind.widgets}
        node = Node(len(self.nodes) + 1, type, pos, size, values, links, title)
        self.nodes.append(node)
        return node

    def group(self, title: str, box: tuple[int, int, int, int], color: str) -> None:
        """A coloured frame: x, y, width, height."""
        entry = {"id": len(self.groups) + 1, "title": title, "bounding": list(box), "color": color}
        self.groups.append({**entry, "font_size": 24, "flags": {}})

    def api(self) -> dict[str, Any]:
        """API format: what POST /prompt takes."""
        out = {}
        for node in self.nodes:
            if node.type == "MarkdownNote":
                continue
            inputs: dict[str, Any] = {k: v for k, v in node.values.items() if k != SEED_CONTROL}
            for name, (source, output) in node.links.items():
                inputs[name] = [str(source.id), self._slot(source, output)]
            out[str(node.id)] = {"class_type": node.type, "inputs": inputs, "_meta": {"title": node.title or node.type}}
        return out

    def ui(self) -> dict[str, Any]:
        """UI format 0.4: what the canvas loads."""
        links: list[list[Any]] = []
        nodes = [self._ui_node(node) for node in self.nodes]
        for node, entry in zip(self.nodes, nodes, strict=True):
            for slot, (name, kind) in enumerate((i["name"], i["type"]) for i in entry["inputs"]):
                if name not in node.links:
                    continue
                source, output = node.links[name]
                origin = self._slot(source, output)
                link = len(links) + 1
                links.append([link, source.id, origin, node.id, slot, kind])
                entry["inputs"][slot]["link"] = link
                nodes[source.id - 1]["outputs"][origin]["links"].append(link)
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"interplay/{self.name}")),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [140, 120]}},
            "version": 0.4,
        }

    def _slot(self, node: Node, output: str) -> int:
        return [name for name, _ in self.kinds[node.type].outputs].index(output)

    def _ui_node(self, node: Node) -> dict[str, Any]:
        kind = self.kinds[node.type]
        properties: dict[str, Any] = {}
        if node.type != "MarkdownNote":
            ours = node.type.startswith("Interplay_")
            properties = {"cnr_id": "interplay" if ours else "comfy-core", "ver": VERSION if ours else "0.3.64"}
            properties["Node name for S&R"] = node.type
        entry: dict[str, Any] = {"id": node.id, "type": node.type, "pos": list(node.pos), "size": list(node.size)}
        entry |= {"flags": {}, "order": node.id - 1, "mode": 0}
        entry["inputs"] = [{"name": name, "type": type, "link": None} for name, type in kind.sockets]
        linked = [name for name in kind.widgets if name in node.links]
        entry["inputs"] += [{"name": n, "type": "STRING", "link": None, "widget": {"name": n}} for n in linked]
        entry["outputs"] = [{"name": name, "type": type, "links": []} for name, type in kind.outputs]
        entry |= {"properties": properties, "widgets_values": list(node.values.values())}
        if node.title:
            entry["title"] = node.title
        return entry


BLUE, GREEN, GOLD, GREY = "#3f789e", "#3f8a5a", "#a1823f", "#555"
PIXEL_PROMPT = "a red robot carrying a blue box in the forest"
SD_PROMPT = "a white cat chasing a black dog in the garden"
SD_CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"


def _prompt(flow: Workflow, loader: Node, names: tuple[str, str], text: str, negative: str) -> tuple[Node, Node]:
    """The two prompts of a workflow, in the second column."""
    clip = (loader, names[1])
    positive = flow.add(
        "Interplay_PromptToHypergraph",
        (420, 60),
        (420, 620),
        clip=clip,
        text=text,
        parser="auto",
        relations=False,
        override="",
    )
    empty = flow.add("CLIPTextEncode", (420, 740), (420, 110), "Negative prompt", clip=clip, text=negative)
    return positive, empty


def _sampler(seed: int, steps: int, cfg: float, sampler: str, scheduler: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"seed": seed, SEED_CONTROL: "fixed", "steps": steps, "cfg": cfg}
    return {**settings, "sampler_name": sampler, "scheduler": scheduler, "denoise": 1.0}


def _shy(
    name: str, loader: tuple[str, dict[str, Any]], text: str, negative: str, size: int, batch: int, note: str
) -> Workflow:
    """Plain and guided with the same seed, heat-maps and the drawn hypergraph; ``loader`` is (node type, widgets)."""
    flow = Workflow(name)
    kind, widgets = loader
    load = flow.add(kind, (20, 60), (340, 100), **widgets)
    model, clip, vae = (output for output, _ in flow.kinds[kind].outputs)
    positive, empty = _prompt(flow, load, (model, clip), text, negative)
    latent = flow.add("EmptyLatentImage", (20, 220), (340, 110), width=size, height=size, batch_size=batch)
    flow.add("MarkdownNote", (20, 390), (340, 300), "Read me", text=note)
    common: dict[str, Any] = {
        "model": (load, model),
        "positive": (positive, "conditioning"),
        "negative": (empty, "CONDITIONING"),
        "latent_image": (latent, "LATENT"),
        **SETTINGS[kind],
    }
    plain = flow.add("KSampler", (900, 60), (340, 270), "Plain", **common)
    guided = flow.add(
        "Interplay_ContrastLinkKSampler", (900, 390), (340, 380), "Guided", **common, preset="SHY", strength=1.0
    )
    plain_image = flow.add("VAEDecode", (1300, 60), (200, 60), samples=(plain, "LATENT"), vae=(load, vae))
    guided_image = flow.add("VAEDecode", (1300, 390), (200, 60), samples=(guided, "latent"), vae=(load, vae))
    flow.add("SaveImage", (1540, 60), (320, 300), images=(plain_image, "IMAGE"), filename_prefix="interplay/plain")
    flow.add("SaveImage", (1540, 420), (320, 300), images=(guided_image, "IMAGE"), filename_prefix="interplay/guided")
    flow.add("PreviewAny", (1300, 520), (200, 200), "What guidance did", source=(guided, "report"))
    flow.add(
        "Interplay_HypergraphPreview",
        (420, 910),
        (420, 370),
        hypergraph=(positive, "hypergraph"),
        width=768,
        height=448,
    )
    flow.add(
        "Interplay_AttentionMaps",
        (900, 860),
        (960, 430),
        model=(load, model),
        positive=(positive, "conditioning"),
        samples=(plain, "LATENT"),
        image=(plain_image, "IMAGE"),
        noise_percent=0.5,
        map_seed=0,
    )
    flow.group("Model and size", (0, 0, 380, 710), GREY)
    flow.group("Prompt and hypergraph", (400, 0, 460, 1310), BLUE)
    flow.group("Plain and guided, same seed", (880, 0, 1000, 790), GREEN)
    flow.group("Where the plain picture's attention lies", (880, 800, 1000, 510), GOLD)
    return flow


SETTINGS = {
    "Interplay_PixelWorldLoader": _sampler(3, 25, 5.0, "euler", "normal"),
    "CheckpointLoaderSimple": _sampler(7, 30, 7.5, "dpmpp_2m", "karras"),
}

PIXEL_NOTE = """## SHY on PixelWorld

Needs no download: the small model is part of the pack.

1. Press Queue. Above: sampled plainly. Below: with guidance, from the same noise.
2. Change the prompt: *object action object in environment*.
3. The graph under the prompt shows what was understood. Wrong? Write a line into *override*.
4. The heat-maps show where the model looks for each word. Guidance sorts them apart while it samples.
"""
SD_NOTE = """## SHY on Stable Diffusion 1.5

Needs `{checkpoint}` in `models/checkpoints`; any SD1.x, SD2.x or SDXL checkpoint will do.

1. Press Queue. Above: sampled plainly. Below: with guidance, from the same noise.
2. The graph under the prompt shows what was understood. Wrong? Write a line into *override*.
3. Too weak or too strong? Change *strength*; 0 gives the plain picture back.
"""
PATCH_NOTE = """## Guidance as a patch

*Contrast/Link Guidance* patches the model, so that any sampler can follow: here the stock KSampler.
Place it after LoRA, ControlNet and IP-Adapter nodes.

Needs `{checkpoint}` in `models/checkpoints`; any SD1.x, SD2.x or SDXL checkpoint will do.
To try it without a download, put *Load PixelWorld* in the loader's place and set the size to 128.
"""


def shy_pixelworld() -> Workflow:
    """Runs anywhere."""
    loader = ("Interplay_PixelWorldLoader", {})
    return _shy("shy_pixelworld", loader, PIXEL_PROMPT, "", 128, 4, PIXEL_NOTE)


def shy_sd15() -> Workflow:
    """The same at full size."""
    loader = ("CheckpointLoaderSimple", {"ckpt_name": SD_CHECKPOINT})
    return _shy("shy_sd15", loader, SD_PROMPT, "blurry, deformed", 512, 1, SD_NOTE.format(checkpoint=SD_CHECKPOINT))


def shy_sd15_patch() -> Workflow:
    """The patch with the stock sampler."""
    flow = Workflow("shy_sd15_patch")
    load = flow.add("CheckpointLoaderSimple", (20, 60), (340, 100), ckpt_name=SD_CHECKPOINT)
    positive, empty = _prompt(flow, load, ("MODEL", "CLIP"), SD_PROMPT, "blurry, deformed")
    latent = flow.add("EmptyLatentImage", (20, 220), (340, 110), width=512, height=512, batch_size=1)
    flow.add("MarkdownNote", (20, 390), (340, 300), "Read me", text=PATCH_NOTE.format(checkpoint=SD_CHECKPOINT))
    patch = flow.add(
        "Interplay_ContrastLinkGuidance",
        (900, 60),
        (340, 240),
        model=(load, "MODEL"),
        preset="SHY",
        strength=1.0,
        start_percent=0.0,
        end_percent=0.0,
        apply_to="latent",
        selection="as preset",
        link_loss="as preset",
        off_switch="as preset",
    )
    sampled = flow.add(
        "KSampler",
        (900, 370),
        (340, 270),
        model=(patch, "model"),
        positive=(positive, "conditioning"),
        negative=(empty, "CONDITIONING"),
        latent_image=(latent, "LATENT"),
        **SETTINGS["CheckpointLoaderSimple"],
    )
    image = flow.add("VAEDecode", (1300, 60), (200, 60), samples=(sampled, "LATENT"), vae=(load, "VAE"))
    flow.add("SaveImage", (1300, 180), (460, 460), images=(image, "IMAGE"), filename_prefix="interplay/guided")
    flow.group("Model and size", (0, 0, 380, 710), GREY)
    flow.group("Prompt", (400, 0, 460, 880), BLUE)
    flow.group("Patch, then any sampler", (880, 0, 900, 710), GREEN)
    return flow


SCORE_PROMPT = "a green cat chasing a red robot in the desert"
BATCH_NOTE = """## Best of a batch, by the model's own judgement

Needs no download: the small model is part of the pack.

1. Press Queue. Eight pictures are drawn; *DiffusionITM Score* asks the model how well each matches the prompt.
2. *Best of Batch* takes the one that the prompt helps most, and more than captions with the parties exchanged: *scores*
   and *p*, mixed. Any node that gives numbers can be mixed in.
3. The heat-maps show where the prompt helps the model.
"""
UNTIL_NOTE = """## Generate until p reaches a threshold, or four tries

Needs no download: the small model is part of the pack.

1. Press Queue. The first try is drawn and scored; the next one runs only if its p falls short of the threshold.
2. *First Good Try* gives the first that is good enough, or else the best of all.
3. p is the probability that the prompt fits better than each of its swapped captions.
"""


def _itm(flow: Workflow, pos: tuple[int, int], stop: float = -1.0, **links: Any) -> Node:
    """A DiffusionITM node on its defaults."""
    settings = {"preset": "fast", "noise_seed": 0, SEED_CONTROL: "fixed", "swaps": 3}
    settings |= {"levels": 0, "low": 0.5, "high": 0.98, "metric": "as preset", "noise": "as preset", "stop": stop}
    return flow.add("Interplay_DiffusionITM", pos, (340, 440), **links, **settings, normalise="as preset")


def _pixel_start(flow: Workflow, batch: int, note: str) -> tuple[Node, Node, Node, Node]:
    """Loader, prompts and latent of a PixelWorld workflow."""
    load = flow.add("Interplay_PixelWorldLoader", (20, 60), (340, 100))
    positive, empty = _prompt(flow, load, ("model", "clip"), SCORE_PROMPT, "")
    latent = flow.add("EmptyLatentImage", (20, 220), (340, 110), width=128, height=128, batch_size=batch)
    flow.add("MarkdownNote", (20, 390), (340, 300), "Read me", text=note)
    flow.group("Model and size", (0, 0, 380, 710), GREY)
    flow.group("Prompt", (400, 0, 460, 880), BLUE)
    return load, positive, empty, latent


def _drawn(
    flow: Workflow,
    start: tuple[Node, Node, Node, Node],
    seed: int,
    pos: tuple[int, int],
    title: str = "",
    model: Node | None = None,
) -> tuple[Node, Node]:
    """A stock sampler and its picture. model: the node whose model samples; the loader where None."""
    load, positive, empty, latent = start
    sampled = flow.add(
        "KSampler",
        pos,
        (340, 270),
        title,
        model=(model or load, "model"),
        positive=(positive, "conditioning"),
        negative=(empty, "CONDITIONING"),
        latent_image=(latent, "LATENT"),
        **_sampler(seed, 25, 5.0, "euler", "normal"),
    )
    below = (pos[0], pos[1] + 320)
    return sampled, flow.add("VAEDecode", below, (340, 60), samples=(sampled, "LATENT"), vae=(load, "vae"))


def best_of_batch_pixelworld() -> Workflow:
    """Eight pictures, the best by the model's own score."""
    flow = Workflow("best_of_batch_pixelworld")
    start = _pixel_start(flow, 8, BATCH_NOTE)
    load, positive = start[:2]
    sampled, image = _drawn(flow, start, 6, (900, 60))
    pictures = (image, "IMAGE")
    scored = _itm(
        flow,
        (1300, 60),
        stop=0.0,
        model=(load, "model"),
        positive=(positive, "conditioning"),
        samples=(sampled, "LATENT"),
        clip=(load, "clip"),
        image=pictures,
    )
    weights = {f"weight_{i}": 1.0 for i in range(1, 5)}
    best = flow.add(
        "Interplay_BestOfBatch",
        (1700, 60),
        (340, 340),
        score_1=(scored, "scores"),
        score_2=(scored, "p"),
        image=pictures,
        samples=(sampled, "LATENT"),
        **weights,
    )
    flow.add("PreviewImage", (900, 560), (340, 340), "All eight", images=pictures)
    flow.add("PreviewImage", (1300, 560), (340, 340), "Where the prompt helps", images=(scored, "heatmap"))
    flow.add("SaveImage", (1700, 460), (340, 340), "The best", images=(best, "image"), filename_prefix="interplay/best")
    flow.add("PreviewAny", (2080, 60), (320, 740), "Scores", source=(scored, "report"))
    flow.group("Draw, score, choose", (880, 0, 1540, 930), GREEN)
    return flow


def until_good_pixelworld() -> Workflow:
    """Up to four tries, each run only if those before fell short."""
    flow = Workflow("until_good_pixelworld")
    start = _pixel_start(flow, 1, UNTIL_NOTE)
    load, positive = start[:2]
    links: dict[str, Any] = {}
    for i in range(1, 5):
        x = 900 + (i - 1) * 380
        sampled, image = _drawn(flow, start, i, (x, 60), f"Try {i}")
        scored = _itm(
            flow,
            (x, 500),
            model=(load, "model"),
            positive=(positive, "conditioning"),
            samples=(sampled, "LATENT"),
            clip=(load, "clip"),
            image=(image, "IMAGE"),
        )
        links |= {f"p_{i}": (scored, "p"), f"image_{i}": (image, "IMAGE")}
    x = 900 + 4 * 380
    first = flow.add("Interplay_FirstGoodTry", (x, 60), (340, 420), threshold=0.95, **links)
    flow.add(
        "SaveImage",
        (x, 540),
        (340, 340),
        "The first good one",
        images=(first, "image"),
        filename_prefix="interplay/good",
    )
    flow.add("PreviewAny", (x + 380, 60), (240, 120), "Its p", source=(first, "p"))
    flow.add("PreviewAny", (x + 380, 240), (240, 120), "Which try", source=(first, "try"))
    flow.group("Tries", (880, 0, 1540, 1200), GREEN)
    flow.group("The first good one", (2400, 0, 760, 1200), GOLD)
    return flow


REWARD_NOTE = """## Caption reward, and alignment scores

Needs no download: the small models are part of the pack.

1. Press Queue. Eight pictures are drawn; *Caption Reward* says what each shows, and how near that comes to the prompt.
2. *Best of Batch* takes the best by the caption reward and the model's own score together.
3. *Alignment Scores* holds the eight against their prompt by several measures, as a table.

With other models take other captioners: folders in models/interplay.
"""


def caption_reward_pixelworld() -> Workflow:
    """Eight pictures with their captions; the best by a mix of scores; a table of alignment scores."""
    flow = Workflow("caption_reward_pixelworld")
    start = _pixel_start(flow, 8, REWARD_NOTE)
    load, positive = start[:2]
    sampled, image = _drawn(flow, start, 6, (900, 60))
    pictures = (image, "IMAGE")
    reward = flow.add(
        "Interplay_CaptionReward",
        (1300, 60),
        (400, 420),
        image=pictures,
        prompt=SCORE_PROMPT,
        captioner="PixelWorld",
        encoder="PixelWorld",
        max_new_tokens=40,
        mode="short",
        beams=1,
    )
    scored = _itm(
        flow,
        (1300, 540),
        stop=0.0,
        model=(load, "model"),
        positive=(positive, "conditioning"),
        samples=(sampled, "LATENT"),
        clip=(load, "clip"),
    )
    weights = {f"weight_{i}": 1.0 for i in range(1, 5)}
    best = flow.add(
        "Interplay_BestOfBatch",
        (1760, 60),
        (340, 340),
        score_1=(reward, "scores"),
        score_2=(scored, "scores"),
        image=pictures,
        samples=(sampled, "LATENT"),
        **weights,
    )
    flow.add(
        "Interplay_AlignmentScores",
        (2160, 60),
        (460, 560),
        image=pictures,
        prompt=SCORE_PROMPT,
        clip="none",
        matching="PixelWorld",
        vqascore="none",
        tifa="PixelWorld",
        csv_name="",
        question_maker="rules",
    )
    flow.add("PreviewImage", (900, 560), (340, 340), "All eight", images=pictures)
    flow.add("SaveImage", (1760, 460), (340, 340), "The best", images=(best, "image"), filename_prefix="interplay/best")
    flow.group("Draw, caption, choose", (880, 0, 1240, 1280), GREEN)
    flow.group("Alignment", (2140, 0, 500, 660), GOLD)
    return flow


INTERACT_FILE = "diffusers/diffusers-v1-2"
SHYI_NOTE = """## SHYI, as in the paper

SHYI puts InteractDiffusion's U-Net under its losses, without boxes. By the authors' training code that U-Net is SD1.5
plus layers that only boxes or null tokens switch on: **with fusers off this is SD1.5 itself**. Set
*fusers_without_boxes* to *null tokens* to use what was trained, or take one of the workflows with boxes.

Needs the diffusers folder `diffusers-v1-2` of InteractDiffusion in `models/diffusers`. 50 steps of ddim, CFG 7.5.
Not run by us at full size: we had no such weights.
"""
BOXES_NOTE = """## Boxes by hand

*Interaction Conditioning* says who does what to whom, and where: box of the subject ; box of the object, as
x1, y1, x2, y2 from 0 to 1. The place of the action (red) lies between them. Connect both of its outputs.

Needs the diffusers folder `diffusers-v1-2` of InteractDiffusion in `models/diffusers`, or any other of its forms.
Not run by us at full size: we had no such weights.
"""
AUTO_NOTE = """## Boxes from the prompt

*Interaction Layout* places everyone who takes part in an action: *by rule*, or *from attention*, a short draft with the
sampler's own seed (keep *draft_seed* and *seed* alike). SHY's guidance runs on top, with its gradient through the
fusers. Wrong place? Copy the text, correct it, paste it into *triplets* of Interaction Conditioning and cut the link of
its *layout*.

Needs the diffusers folder `diffusers-v1-2` of InteractDiffusion in `models/diffusers`, or any other of its forms.
Not run by us at full size: we had no such weights.
"""
INTERACT_SETTINGS = _sampler(7, 50, 7.5, "ddim", "ddim_uniform")
TRIPLETS = "cat | chasing | dog @ 0.05,0.35,0.47,0.9 ; 0.55,0.35,0.97,0.9"


def _interact_start(flow: Workflow, note: str) -> tuple[Node, Node, Node, Node]:
    """Loader, prompts and latent of an InteractDiffusion workflow."""
    load = flow.add(
        "Interplay_InteractDiffusionLoader",
        (20, 60),
        (340, 210),
        interaction_file=INTERACT_FILE,
        weight_dtype="default",
        fusers_without_boxes="off",
        convert_to="",
    )
    positive, empty = _prompt(flow, load, ("model", "clip"), SD_PROMPT, "blurry, deformed")
    latent = flow.add("EmptyLatentImage", (20, 330), (340, 110), width=512, height=512, batch_size=1)
    flow.add("MarkdownNote", (20, 500), (340, 380), "Read me", text=note)
    flow.group("Model and size", (0, 0, 380, 900), GREY)
    flow.group("Prompt", (400, 0, 460, 900), BLUE)
    return load, positive, empty, latent


def _interact_end(flow: Workflow, load: Node, samples: tuple[Node, str], x: int, name: str) -> None:
    image = flow.add("VAEDecode", (x, 60), (200, 60), samples=samples, vae=(load, "vae"))
    flow.add("SaveImage", (x, 180), (460, 460), images=(image, "IMAGE"), filename_prefix=f"interplay/{name}")


def shyi_sd15() -> Workflow:
    """What the SHYI paper describes."""
    flow = Workflow("shyi_sd15")
    load, positive, empty, latent = _interact_start(flow, SHYI_NOTE)
    guided = flow.add(
        "Interplay_ContrastLinkKSampler",
        (900, 60),
        (340, 380),
        model=(load, "model"),
        positive=(positive, "conditioning"),
        negative=(empty, "CONDITIONING"),
        latent_image=(latent, "LATENT"),
        **INTERACT_SETTINGS,
        preset="SHY (paper)",
        strength=1.0,
    )
    flow.add("PreviewAny", (900, 500), (340, 200), "What the file is", source=(load, "report"))
    _interact_end(flow, load, (guided, "latent"), 1300, "shyi")
    flow.group("SHY's losses on the other U-Net", (880, 0, 900, 900), GREEN)
    return flow


def _grounded(flow: Workflow, load: Node, positive: Node, empty: Node, triplets: str, **layout: Any) -> Node:
    return flow.add(
        "Interplay_InteractionConditioning",
        (900, 60),
        (360, 480),
        positive_in=(positive, "conditioning"),
        negative_in=(empty, "CONDITIONING"),
        interactdiffusion=(load, "interactdiffusion"),
        clip=(load, "clip"),
        triplets=triplets,
        beta=1.0,
        decay=0.0,
        strength=1.0,
        width=512,
        height=512,
        **layout,
    )


def interaction_boxes_sd15() -> Workflow:
    """Boxes typed, stock sampler."""
    flow = Workflow("interaction_boxes_sd15")
    load, positive, empty, latent = _interact_start(flow, BOXES_NOTE)
    grounded = _grounded(flow, load, positive, empty, TRIPLETS)
    flow.add("PreviewImage", (900, 600), (360, 280), images=(grounded, "preview"))
    sampled = flow.add(
        "KSampler",
        (1300, 60),
        (340, 270),
        model=(load, "model"),
        positive=(grounded, "positive"),
        negative=(grounded, "negative"),
        latent_image=(latent, "LATENT"),
        **INTERACT_SETTINGS,
    )
    _interact_end(flow, load, (sampled, "LATENT"), 1680, "boxes")
    flow.group("Who does what to whom, and where", (880, 0, 1280, 900), GREEN)
    return flow


def interaction_layout_sd15() -> Workflow:
    """Boxes from the prompt, with guidance on top."""
    flow = Workflow("interaction_layout_sd15")
    load, positive, empty, latent = _interact_start(flow, AUTO_NOTE)
    layout = flow.add(
        "Interplay_InteractionLayout",
        (900, 610),
        (360, 460),
        method="by rule",
        triplets="",
        width=512,
        height=512,
        draft_seed=7,
        draft_share=0.3,
        threshold=0.45,
        hypergraph=(positive, "hypergraph"),
        model=(load, "model"),
        positive=(positive, "conditioning"),
        negative=(empty, "CONDITIONING"),
        latent=(latent, "LATENT"),
    )
    grounded = _grounded(flow, load, positive, empty, "", layout=(layout, "layout"))
    guided = flow.add(
        "Interplay_ContrastLinkKSampler",
        (1300, 60),
        (340, 380),
        model=(load, "model"),
        positive=(grounded, "positive"),
        negative=(grounded, "negative"),
        latent_image=(latent, "LATENT"),
        **INTERACT_SETTINGS,
        preset="SHY",
        strength=1.0,
    )
    flow.add("PreviewAny", (1300, 500), (340, 200), "The layout as text", source=(layout, "text"))
    _interact_end(flow, load, (guided, "latent"), 1680, "layout")
    flow.group("Layout from the prompt, guidance on top", (880, 0, 1280, 1090), GREEN)
    return flow


REWEIGHT_NOTE = """## Wrong colours, drawn again with attention re-weighted

1. Press Queue. The first sampler draws plainly{what}.
2. *Objects from Masks* names two regions by hand: label | phrase of the prompt | weight. Here they are rectangles; any
   MASK will do, *Load Image* with the mask editor too, or *Ground Objects*, which finds them.
3. *Attention Re-weighting* makes each region look at its own words, and the same seed draws again.
4. *Re-weighting Maps* shows for each object where its words were looked at before (left) and after (right).
{more}"""
TALL = 1100  # nodes with pictures and texts grow when they have run
RECTANGLES = {  # x, y, width, height in an image of 128
    "robot | red robot": (16, 72, 40, 40),
    "cat | blue cat": (80, 72, 40, 40),
}
SD_RECTANGLES = {"cat | white cat": (8, 40, 52, 80), "dog | black dog": (68, 40, 52, 80)}


def reweight_pixelworld() -> Workflow:
    """Masks by hand, attention re-weighted, before and after."""
    note = REWEIGHT_NOTE.format(what=", and gives the robot the cat's colour", more="Needs no download.")
    flow = Workflow("reweight_pixelworld")
    load = flow.add("Interplay_PixelWorldLoader", (20, 60), (340, 100))
    prompt = "a red robot chasing a blue cat in the forest"
    sampler = _sampler(11, 25, 5.0, "euler", "normal")
    return _reweight(flow, load, ("model", "clip", "vae"), (prompt, ""), 128, RECTANGLES, sampler, note)


def reweight_sd15() -> Workflow:
    """The same with Stable Diffusion 1.5."""
    more = f"Needs {SD_CHECKPOINT} in models/checkpoints. Not run by us at full size: we had no such weights."
    note = REWEIGHT_NOTE.format(what="; move the rectangles to where it put the animals", more=more)
    flow = Workflow("reweight_sd15")
    load = flow.add("CheckpointLoaderSimple", (20, 60), (340, 100), ckpt_name=SD_CHECKPOINT)
    texts, sampler = (SD_PROMPT, "blurry, deformed"), SETTINGS["CheckpointLoaderSimple"]
    return _reweight(flow, load, ("MODEL", "CLIP", "VAE"), texts, 512, SD_RECTANGLES, sampler, note)


def _reweight(
    flow: Workflow,
    load: Node,
    names: tuple[str, str, str],
    texts: tuple[str, str],
    size: int,
    rectangles: dict[str, tuple[int, int, int, int]],
    sampler: dict[str, Any],
    note: str,
) -> Workflow:
    """Plain, objects from rectangles, re-weighted, maps. names: of the loader's model, clip and vae."""
    model, vae = (load, names[0]), (load, names[2])
    positive, empty = _prompt(flow, load, names[:2], *texts)
    latent = flow.add("EmptyLatentImage", (20, 220), (340, 110), width=size, height=size, batch_size=1)
    flow.add("MarkdownNote", (20, 390), (340, 460), "Read me", text=note)
    flow.group("Model and size", (0, 0, 380, TALL), GREY)
    flow.group("Prompt", (400, 0, 460, TALL), BLUE)
    shared = {"negative": (empty, "CONDITIONING"), "latent_image": (latent, "LATENT"), **sampler}
    plain = flow.add(
        "KSampler", (900, 60), (340, 270), "Plain", model=model, positive=(positive, "conditioning"), **shared
    )
    before = flow.add("VAEDecode", (900, 380), (340, 60), samples=(plain, "LATENT"), vae=vae)
    flow.add("PreviewImage", (900, 490), (340, 340), "Plain", images=(before, "IMAGE"))
    flow.group("Draw", (880, 0, 380, TALL), GREY)
    ground = flow.add("SolidMask", (1300, 60), (260, 110), "Nothing", value=0.0, width=size, height=size)
    found: dict[str, Any] = {}
    for i, (label, box) in enumerate(rectangles.items()):
        x, y, width, height = (value * size // 128 for value in box)
        left = 1300 + 300 * i
        patch = flow.add("SolidMask", (left, 220), (260, 110), label, value=1.0, width=width, height=height)
        mask = flow.add(
            "MaskComposite",
            (left, 380),
            (260, 130),
            destination=(ground, "MASK"),
            source=(patch, "MASK"),
            x=x,
            y=y,
            operation="add",
        )
        made = flow.add(
            "Interplay_ObjectsFromMasks",
            (left, 560),
            (260, 240),
            mask=(mask, "MASK"),
            labels=f"{label} | 2",
            mask_batch="an object each",
            image=(before, "IMAGE"),
            hypergraph=(positive, "hypergraph"),
            **found,
        )
        found = {"objects": (made, "objects")}
    flow.group("Regions by hand", (1280, 0, 620, TALL), GOLD)
    ours = flow.add(
        "Interplay_AttentionReweight",
        (1940, 60),
        (360, 360),
        model=model,
        positive=(positive, "conditioning"),
        **found,
        clip=(load, names[1]),
        preset="RealignDiff (recommended)",
        strength=1.0,
        start_percent=0.0,
        end_percent=0.0,
        other_words="as preset",
        background="as preset",
        phrase_embeddings="as preset",
        regions="as preset",
    )
    again = flow.add(
        "KSampler",
        (1940, 490),
        (360, 270),
        "Again, the same seed",
        model=(ours, "model"),
        positive=(ours, "positive"),
        **shared,
    )
    after = flow.add("VAEDecode", (1940, 830), (360, 60), samples=(again, "LATENT"), vae=vae)
    flow.add("SaveImage", (2340, 60), (400, 400), images=(after, "IMAGE"), filename_prefix="interplay/reweighted")
    flow.add(
        "Interplay_ReweightMaps",
        (2340, 520),
        (400, 330),
        model=(ours, "model"),
        positive=(ours, "positive"),
        samples=(plain, "LATENT"),
        image=(before, "IMAGE"),
        noise_percent=0.1,
        map_seed=0,
    )
    flow.group("Draw again", (1920, 0, 840, TALL), GREEN)
    return flow


REFL_NOTE = """## A LoRA without a single picture

PixelWorld learns to draw what prompts say. Each prompt and its *twin*, the same words the wrong way round, are drawn
from the same noise, a small model that ships with the pack says which picture shows which, and the LoRA learns what
sets them apart (*twins*). Other ways of *method*: *refl* follows the reward's gradient, *raft* learns from the pictures
with the best captions.

Takes some ten minutes on a CPU, half of them to draw. **Cancel** loses nothing: switch *resume* on and run again. The
LoRA is in `models/loras` afterwards. Left: the same prompt and seed before and after; it is not one of the prompts
trained on.
"""
REFL_PROMPTS = """a blue cup riding an orange robot in the snow
a pink crown and a white ghost in the cave
a purple crown pushing an orange robot in the snow
a pink car and an orange ghost in the sea
a pink crown riding a red car in the snow
a yellow rabbit and a red ball in the forest
a pink ghost riding a white rabbit in the city
a green cat and a purple ghost in the city
a pink box pushing a blue ball in the city
a red bird chasing a green star in the city
an orange rabbit and a green bird in the forest
a blue star kicking a yellow fish in the city
a white cat and a pink ball in the snow
a green ball riding a yellow robot in the snow
a blue robot and a white rabbit in the forest
a purple ghost pulling a yellow robot in the sea
a green robot and a red bird in the sea
a blue star pulling a purple cup in the desert
a yellow car and a white rabbit in the forest
a red rabbit watching a blue robot in the forest
a red star and a blue cup in the city
a white cup carrying a red star in the snow
a green fish and a red robot in the sea
a white robot kicking a pink ghost in the city
an orange ghost and a purple robot in the city
a green cup throwing a red car in the forest
a green rabbit kicking a red ghost in the city
a red box and a yellow fish in the desert
a blue bird pulling a pink cat in the sea
a red robot pulling an orange ghost in the cave
a purple car and a yellow ghost in the cave
a yellow box kicking a purple robot in the cave
a blue fish and a white ghost in the desert
a green car pushing a purple box in the desert
a purple crown watching a white star in the city
a green star and a white cup in the desert
a pink box pushing a white ghost in the cave
a blue star and a red car in the city
a white ghost pushing a green cat in the cave
a blue ball and a red box in the sea
an orange box watching a blue car in the desert
a pink bird and a white cat in the city
a blue ghost watching a green cat in the city
an orange ball and a blue bird in the cave
a white bird watching a yellow ball in the city
an orange box and a yellow bird in the snow
a pink bird kicking a red ghost in the sea
a red crown kicking a pink cat in the cave"""
REFL_OTHERS = """a red ghost riding a blue crown in the snow
a blue robot and a yellow fish in the sea
a pink star throwing a yellow ball in the snow
a green cat and a white star in the desert
a blue car throwing a green box in the sea
a red fish and a pink rabbit in the snow
a red cat kicking a green star in the city
a red bird and a yellow box in the desert
an orange box throwing a green ghost in the city
a yellow star and a pink cup in the city
a white cup throwing an orange robot in the cave
a purple robot and an orange ball in the city
a red star watching a pink rabbit in the desert
a white cup and a pink fish in the desert
a red crown chasing an orange car in the desert
a yellow rabbit and a pink crown in the desert
a white robot carrying a blue ball in the forest
a white rabbit and a blue ball in the snow
a pink cat watching a yellow ball in the sea
a green rabbit and an orange ghost in the desert
a green cup pushing a yellow rabbit in the forest
a pink bird and a white cat in the cave
a red cat chasing a green rabbit in the sea
a pink bird and a purple robot in the forest"""
SAMPLED = """a blue robot pushing a red star in the snow
a pink rabbit and a green crown in the cave"""


def refl_pixelworld() -> Workflow:
    """Train a LoRA by a reward, and draw with it and without."""
    flow = Workflow("refl_pixelworld")
    start = _pixel_start(flow, 4, REFL_NOTE)
    load = start[0]
    settings = {
        "method": "twins", "prompts": REFL_PROMPTS, "validation_prompts": REFL_OTHERS, "lora_name": "pixelworld_refl",
        "steps": 240, "batch": 8, "learning_rate": 3e-3, "rank": 8, "targets": "attn2", "width": 128, "height": 128,
        "reward": "itm", "matcher": "PixelWorld", "captioner": "PixelWorld", "encoder": "PixelWorld",
        "judge": "likelihood", "unused": "itc", "ladder": 12, "first": 0, "last": 2, "carry": 0, "cfg": 5.0,
        "reward_weight": 1.0, "pretrain": "anchor", "pretrain_weight": 5.0, "pictures": 4, "batch_of_pictures": 8,
        "validate_every": 120,
        "validation_cfg": 5.0, "patience": 0, "checkpointing": False, "decode_crop": 0, "seed": 0,
        SEED_CONTROL: "fixed", "resume": False,
        "captions": "", "points": 160, "push": 2.0, "ghosts": 0.0, "guide": "none",
    }  # fmt: skip
    parts = {"model": (load, "model"), "clip": (load, "clip"), "vae": (load, "vae")}
    trained = flow.add("Interplay_ReFLTrainer", (1300, 60), (460, 1240), **parts, **settings)
    _, before = _drawn(flow, start, 5, (900, 60), "Before")
    _, after = _drawn(flow, start, 5, (1800, 60), "After, the same seed", trained)
    flow.add("PreviewImage", (900, 560), (340, 340), "Before", images=(before, "IMAGE"))
    flow.add("SaveImage", (1800, 500), (340, 340), "After", images=(after, "IMAGE"), filename_prefix="interplay/refl")
    flow.add("PreviewImage", (2180, 60), (340, 340), "Validation: before, after", images=(trained, "pictures"))
    flow.add("PreviewAny", (2180, 460), (340, 380), "Report", source=(trained, "report"))
    flow.group("Train", (1280, 0, 500, 1320), GOLD)
    flow.group("Draw", (1790, 0, 760, 880), GREEN)
    return flow


TRAIN_NOTE = """## Your first LoRA, in minutes on a CPU

Needs no download: model, pictures and captions are part of the pack.

1. Press Queue. *Negative Captions* draws PixelWorld scenes with captions, and makes from each caption others with the
   same words in the wrong places.
2. *Negative LoRA Trainer* teaches the model to tell them apart. A tripwire watches, and the best LoRA is the one kept.
3. Left the prompt before, right after, with the same seeds. The LoRA is in `models/loras`: *Load LoRA* takes it.

**Cancel** loses nothing: switch *resume* on and run again. For your own pictures set *source* to folder, connect your
checkpoint, and take a *learning_rate* of 1e-4.
"""


def negative_lora_pixelworld() -> Workflow:
    """Train a LoRA by contrast with negative captions, and draw with it and without."""
    flow = Workflow("negative_lora_pixelworld")
    start = _pixel_start(flow, 4, TRAIN_NOTE)
    load = start[0]
    captions = flow.add(
        "Interplay_NegativeCaptions", (1300, 60), (400, 420), source="PixelWorld scenes", text="", folder="",
        scenes=1024, limit=4, ops="", mixed=True, positives=True, seed=0,
        **{SEED_CONTROL: "fixed"}, maker="rules",
    )  # fmt: skip
    settings = {
        "lora_name": "pixelworld_negatives", "objective": "contrast_hinge", "steps": 900, "batch": 10,
        "learning_rate": 4e-3, "rank": 8, "targets": "attn2", "seed": 0, SEED_CONTROL: "fixed",
        "resume": False,
        "sample_prompts": SAMPLED, "validate_every": 100, "save_every": 40, "patience": 0, "margin_k": 0.25,
        "anchor": 1.0, "low": 0.05, "high": 0.99, "min_snr": 5.0, "resolution": 128, "checkpointing": False,
        "contrast": 0.7, "ema": 0.95, "fade": 0.4, "look_every": 2, "look_first": False, "contrast_from": 0.55,
        "contrast_until": 0.6, "contrast_rest": 0.0, "contrast_space": "clean", "lean": 0.65, "snr_power": 0.5,
        "clip_norm": 0.02, "check": 0, "stray": 1.3, "hold_below": 0.0, "ghosts": 0.5,
    }  # fmt: skip
    parts = {"model": (load, "model"), "clip": (load, "clip"), "vae": (load, "vae"), "captions": (captions, "captions")}
    trained = flow.add("Interplay_NegativeLoRATrainer", (1740, 60), (460, 1040), **parts, **settings)
    _, before = _drawn(flow, start, 5, (900, 60), "Before")
    _, after = _drawn(flow, start, 5, (2240, 60), "After, the same seed", trained)
    flow.add("PreviewImage", (900, 560), (340, 340), "Before", images=(before, "IMAGE"))
    flow.add("SaveImage", (2240, 500), (340, 340), "After", images=(after, "IMAGE"), filename_prefix="interplay/lora")
    flow.add("PreviewImage", (2620, 60), (340, 340), "Samples: before, after", images=(trained, "samples"))
    flow.add("PreviewImage", (2620, 460), (340, 340), "Errors over the steps", images=(trained, "curves"))
    flow.add("PreviewAny", (1300, 540), (400, 340), "Report", source=(trained, "report"))
    flow.group("Train", (1280, 0, 940, 1120), GOLD)
    flow.group("Draw", (2230, 0, 750, 880), GREEN)
    return flow


REALIGN_NOTE = """## Look, judge, re-weight, draw again: node by node

The fine stage of RealignDiff, taken apart.

1. *Plain* draws. *What is there?* names the things that it sees in the picture (on photographs: by RAM).
2. *Judge Tags* says which of that the prompt asks for, by rule or by a language model.
3. *Ground Objects* finds each thing of the prompt and cuts it out; what is missing, it reports.
4. *Attention Re-weighting* makes each region look at its own words (*Regions as wanted*: and gives regions of what
   nobody asked for to what is missing), *Presence Guidance* asks for what is missing, and the same seed draws again.
5. *First Good Try* keeps the first picture when it is right, and the second is then not even drawn; else the better.

{more}"""
LOOP_NOTE = """## The whole loop in one node

It draws, looks what is there, re-weights attention where that is wrong, and draws again: up to *rounds* times, for each
picture of the batch by itself. It ends when nothing is wrong, and keeps the better picture.

Above: the first drawing. Below: what was kept. The report tells every pass.

{more}"""
HIGH = 1240  # see TALL
REALIGN_PROMPT = "a red robot and a blue box in the forest"


def _realign_start(flow: Workflow, sd: bool, batch: int, note: str) -> tuple[dict[str, Any], Node, Node]:
    """Loader, prompts and latent: what samplers need, the loader, and the prompt."""
    kind = "CheckpointLoaderSimple" if sd else "Interplay_PixelWorldLoader"
    values = {"ckpt_name": SD_CHECKPOINT} if sd else {}
    load = flow.add(kind, (20, 60), (340, 100), **values)
    outputs = [name for name, _ in flow.kinds[kind].outputs]
    text, negative = (SD_PROMPT, "blurry, deformed") if sd else (REALIGN_PROMPT, "")
    positive, empty = _prompt(flow, load, (outputs[0], outputs[1]), text, negative)
    side = 512 if sd else 128
    latent = flow.add("EmptyLatentImage", (20, 220), (340, 110), width=side, height=side, batch_size=batch)
    flow.add("MarkdownNote", (20, 390), (340, 460), "Read me", text=note)
    flow.group("Model and size", (0, 0, 380, HIGH), GREY)
    flow.group("Prompt", (400, 0, 460, HIGH), BLUE)
    shared = {"model": (load, outputs[0]), "clip": (load, outputs[1]), "vae": (load, outputs[2])}
    shared |= {"positive": (positive, "conditioning"), "negative": (empty, "CONDITIONING")}
    return {**shared, "latent_image": (latent, "LATENT"), **SETTINGS[kind]}, load, positive


def realign_pixelworld() -> Workflow:
    """The loop's stages as nodes of their own."""
    flow = Workflow("realign_pixelworld")
    start, load, positive = _realign_start(flow, False, 1, REALIGN_NOTE.format(more="Needs no download."))
    clip, vae = start.pop("clip"), start.pop("vae")
    graph = (positive, "hypergraph")
    plain = flow.add("KSampler", (900, 60), (340, 270), "Plain", **start)
    before = flow.add("VAEDecode", (900, 380), (340, 60), samples=(plain, "LATENT"), vae=vae)
    look = {"detector": "PixelWorld (exact)", "segmenter": "boxes as masks", "threshold": 0.3, "instances": "separate"}
    seen = flow.add(
        "Interplay_TagImage", (900, 500), (340, 320), "What is there?", image=(before, "IMAGE"), tagger="PixelWorld",
        threshold=0.0, keep="things", leave_out="", caption=True,
    )  # fmt: skip
    judge = {"timeout": 60.0, "retries": 2, "strict": False, "certain": 2.0, "possible": 0.5, "unlikely": 0.0}
    judged = flow.add(
        "Interplay_JudgeTags",
        (1300, 60),
        (340, 460),
        prompt=REALIGN_PROMPT,
        tags=(seen, "tags"),
        judge="rules",
        hypergraph=graph,
        pasted="",
        **judge,
    )
    found = flow.add(
        "Interplay_GroundObjects",
        (1300, 590),
        (340, 570),
        image=(before, "IMAGE"),
        hypergraph=graph,
        **look,
        tags=(seen, "json"),
        verdicts=(judged, "verdicts"),
    )
    flow.group("Draw and look", (880, 0, 800, HIGH), GOLD)
    ours = flow.add(
        "Interplay_AttentionReweight",
        (1700, 60),
        (340, 360),
        model=(load, "model"),
        positive=(positive, "conditioning"),
        objects=(found, "objects"),
        clip=clip,
        preset="Regions as wanted",
        strength=1.0,
        start_percent=0.0,
        end_percent=0.0,
        other_words="as preset",
        background="as preset",
        phrase_embeddings="as preset",
        regions="as preset",
    )
    asked = flow.add(
        "Interplay_PresenceGuidance",
        (1700, 480),
        (340, 110),
        model=(ours, "model"),
        objects=(found, "objects"),
        strength=1.0,
        enabled=True,
    )
    again = flow.add(
        "KSampler",
        (2080, 60),
        (340, 270),
        "Again, same seed",
        **{**start, "model": (asked, "model"), "positive": (ours, "positive")},
    )
    after = flow.add("VAEDecode", (2080, 380), (340, 60), samples=(again, "LATENT"), vae=vae)
    flow.group("Re-weight and draw again", (1680, 0, 780, HIGH), GREEN)
    marks = [
        _itm(
            flow,
            (x, 60),
            model=(load, "model"),
            positive=(positive, "conditioning"),
            samples=(samples, "LATENT"),
            image=(image, "IMAGE"),
            clip=clip,
        )
        for x, samples, image in ((2500, plain, before), (2880, again, after))
    ]
    best = flow.add(
        "Interplay_FirstGoodTry",
        (3260, 60),
        (260, 400),
        threshold=0.95,
        p_1=(marks[0], "p"),
        image_1=(before, "IMAGE"),
        p_2=(marks[1], "p"),
        image_2=(after, "IMAGE"),
    )
    flow.add("SaveImage", (3260, 520), (260, 320), images=(best, "image"), filename_prefix="interplay/realign")
    flow.add("PreviewImage", (3560, 60), (260, 380), "Plain", images=(before, "IMAGE"))
    flow.add("PreviewAny", (3560, 520), (260, 160), "Score of the one kept", source=(best, "p"))
    flow.group("Keep the better", (2480, 0, 1360, HIGH), GREY)
    return flow


def _realign_loop(name: str, sd: bool, look: dict[str, Any], more: str) -> Workflow:
    flow = Workflow(name)
    start, _, _ = _realign_start(flow, sd, 1 if sd else 4, LOOP_NOTE.format(more=more))
    loop = flow.add(
        "Interplay_RAMGroundedSAMReweight",
        (900, 60),
        (400, 1160),
        **start,
        rounds=2,
        judge="rules",
        **look,
        threshold=0.3,
        strength=1.0,
        growth=1.5,
        presence=1.0,
        score="auto",
        pasted="",
        strict=False,
    )
    flow.add("PreviewImage", (1340, 60), (340, 360), "First drawing", images=(loop, "first_image"))
    flow.add("SaveImage", (1340, 480), (340, 360), images=(loop, "image"), filename_prefix=f"interplay/{name}")
    flow.add("PreviewImage", (1720, 60), (340, 360), "What is in it", images=(loop, "preview"))
    flow.add("PreviewAny", (1720, 480), (340, 360), "Every pass", source=(loop, "report"))
    flow.group("Draw, look, draw again", (880, 0, 1200, HIGH), GREEN)
    return flow


def realign_loop_pixelworld() -> Workflow:
    """The loop in one node, with the exact detector."""
    look = {"tagger": "PixelWorld (exact)", "detector": "PixelWorld (exact)", "segmenter": "boxes as masks"}
    more = (
        "Needs no download. The preset *Regions as wanted* also lets parties of an action change places, and *noise: "
        "as needed* takes another noise where a thing or the action is not there at all. With the preset "
        "*RealignDiff (recommended)* and *noise: same* it is the paper's loop."
    )
    how = {"preset": "Regions as wanted", "noise": "as needed"}
    return _realign_loop("realign_loop_pixelworld", False, {**look, **how}, more)


def realign_loop_sd15() -> Workflow:
    """The same with Stable Diffusion 1.5, Grounding DINO and SAM."""
    look = {"tagger": "things of the prompt", "detector": "grounding-dino-tiny", "segmenter": "sam-vit-base"}
    more = (
        f"Needs {SD_CHECKPOINT} in models/checkpoints, and the folders *grounding-dino-tiny* and *sam-vit-base* of "
        "transformers in models/interplay. Not run by us at full size: we had no such weights."
    )
    how = {"preset": "RealignDiff (recommended)", "noise": "same"}
    return _realign_loop("realign_loop_sd15", True, {**look, **how}, more)


def realigning() -> tuple[Workflow, ...]:
    """The workflows of RealignDiff's fine stage."""
    return (realign_pixelworld(), realign_loop_pixelworld(), realign_loop_sd15())


WORLD_LAYOUT_PROMPT, WORLD_LAYOUT_SEED = "a yellow star pushing a blue cat in the snow", 5
WORLD_LAYOUT_NOTE = """## Boxes from the prompt, on PixelWorld

Needs no download: model and interaction layers are part of the pack. The same seed three times:

1. plainly;
2. with boxes that *Interaction Layout* finds by rule: change *method*, or copy the text below and correct it;
3. with boxes that the run's own first steps show.

The seed was chosen: by rule all four are right, plainly one. Averages are in docs/interaction.md.
SHY's guidance can go on top: put *Contrast/Link Guidance* before a sampler.
"""


def interaction_layout_pixelworld() -> Workflow:
    """Plain, boxes by rule, boxes from the attention of the run; runs anywhere."""
    flow = Workflow("interaction_layout_pixelworld")
    load = flow.add(
        "Interplay_InteractDiffusionLoader",
        (20, 60),
        (340, 270),
        interaction_file="PixelWorld (bundled)",
        weight_dtype="default",
        fusers_without_boxes="off",
        convert_to="",
    )
    positive, empty = _prompt(flow, load, ("model", "clip"), WORLD_LAYOUT_PROMPT, "")
    latent = flow.add("EmptyLatentImage", (20, 380), (340, 110), width=128, height=128, batch_size=4)
    flow.add("MarkdownNote", (20, 550), (340, 300), "Read me", text=WORLD_LAYOUT_NOTE)
    layout = flow.add(
        "Interplay_InteractionLayout",
        (900, 420),
        (360, 580),
        method="by rule (PixelWorld)",
        triplets="",
        width=128,
        height=128,
        draft_seed=3,
        draft_share=0.3,
        threshold=0.45,
        hypergraph=(positive, "hypergraph"),
    )
    common: dict[str, Any] = {"interactdiffusion": (load, "interactdiffusion"), "clip": (load, "clip")}
    prompts: dict[str, Any] = {"positive_in": (positive, "conditioning"), "negative_in": (empty, "CONDITIONING")}
    ruled = flow.add(
        "Interplay_InteractionConditioning",
        (1300, 420),
        (340, 580),
        **prompts,
        **common,
        triplets="",
        beta=1.0,
        decay=0.0,
        strength=1.0,
        width=128,
        height=128,
        layout=(layout, "layout"),
    )
    seen = flow.add(
        "Interplay_InteractionFromAttention",
        (1300, 1050),
        (340, 340),
        model_in=(load, "model"),
        **prompts,
        **common,
        plain_share=0.1,
        arrange="by rule (PixelWorld)",
        threshold=0.45,
        beta=1.0,
        decay=0.0,
        strength=1.0,
    )
    sources = (
        ("Plain", 60, (load, "model"), (positive, "conditioning"), (empty, "CONDITIONING")),
        ("By rule", 420, (load, "model"), (ruled, "positive"), (ruled, "negative")),
        ("From attention", 1050, (seen, "model"), (seen, "positive"), (seen, "negative")),
    )
    for title, y, model, first, second in sources:
        sampled = flow.add(
            "KSampler",
            (1680, y),
            (340, 270),
            title,
            model=model,
            positive=first,
            negative=second,
            latent_image=(latent, "LATENT"),
            **{**SETTINGS["Interplay_PixelWorldLoader"], "seed": WORLD_LAYOUT_SEED},
        )
        image = flow.add("VAEDecode", (2060, y), (200, 60), samples=(sampled, "LATENT"), vae=(load, "vae"))
        prefix = f"interplay/{title.split()[-1].lower()}"
        flow.add("SaveImage", (2300, y), (320, 300), images=(image, "IMAGE"), filename_prefix=prefix)
    flow.add("PreviewAny", (900, 1050), (360, 180), "The layout as text", source=(layout, "text"))
    flow.group("Model and size", (0, 0, 380, 880), GREY)
    flow.group("Prompt", (400, 0, 460, 900), BLUE)
    flow.group("Who does what to whom, and where", (880, 340, 780, 1080), GOLD)
    flow.group("The same seed", (1660, 0, 980, 1420), GREEN)
    return flow


def files() -> dict[Path, str]:
    """Path -> text of every workflow file."""
    pixelworld = (shy_pixelworld(), best_of_batch_pixelworld(), until_good_pixelworld(), caption_reward_pixelworld())
    large = (shy_sd15(), shy_sd15_patch(), shyi_sd15(), interaction_boxes_sd15(), interaction_layout_sd15())
    trainers = (refl_pixelworld(), negative_lora_pixelworld())
    others = (reweight_pixelworld(), reweight_sd15(), *realigning(), interaction_layout_pixelworld())
    out = {}
    for flow in (*pixelworld, *large, *trainers, *others):
        out[ROOT / "workflows" / f"{flow.name}.json"] = json.dumps(flow.ui(), indent=2, ensure_ascii=False) + "\n"
        out[ROOT / "workflows/api" / f"{flow.name}.json"] = json.dumps(flow.api(), indent=2, ensure_ascii=False) + "\n"
    return out


def main() -> int:
    """Write or check; 0 when all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a file differs")
    check = parser.parse_args().check
    stale = []
    for path, text in files().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    sys.stdout.write("".join(f"{'differs' if check else 'wrote'} {path}\n" for path in stale))
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
