"""PixelWorld's caption model against ground truth: exact captions, and whether it tells near misses.

    python benchmarks/captions.py --n 200 --pictures itm_work/pictures --out captions.json

Rendered scenes of each kind (plain, and with sizes and stripes) and the same after the autoencoder; with --pictures
drawn ones, too, as far as the world's exact detector can read them. An exact caption says the same as the scene, in any
order of things that stand apart. Near misses exchange the parties, exchange adjectives, or change one word; the shares
are those of pictures whose own caption scores above the near miss: by the caption reward, by the cosine of picture and
text (itc), and by the likelihood of the text as a caption. --weights FOLDER takes another model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("interplay") is None:
    spec = importlib.util.spec_from_file_location(
        "interplay", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["interplay"] = package
    spec.loader.exec_module(package)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.bench.stats import wilson  # noqa: E402
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld  # noqa: E402
from interplay.guidance.pixelworld.caption import CaptionModel, load_caption_model  # noqa: E402
from interplay.guidance.pixelworld.caption_data import decoded, meaning, near_miss, told  # noqa: E402
from interplay.guidance.pixelworld.data import pictures  # noqa: E402
from interplay.guidance.pixelworld.detect import detect  # noqa: E402
from interplay.guidance.pixelworld.world import KINDS, Scene, caption, sample_scene  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

MISSES = {"one": ("word",), "two": ("adjectives", "word")}


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """A share with its 95 % interval (Wilson)."""
    return {"share": sum(hits) / len(hits), "interval": wilson(sum(hits), len(hits)), "n": len(hits)}


def exact(said: str, scene: Scene) -> bool:
    """Whether a caption says what the scene is."""
    try:
        return meaning(said) == meaning(caption(scene))
    except InterplayError:  # it names no thing
        return False


@torch.no_grad()
def figures(model: CaptionModel, images: Tensor, scenes: Sequence[Scene], kind: str) -> dict[str, Any]:
    """Exact captions, and near misses told by each score."""
    said, own = model.captions(images), [caption(scene) for scene in scenes]
    out: dict[str, Any] = {"exact": share([exact(s, scene) for s, scene in zip(said, scenes, strict=True)])}
    vectors = model.embed(said)
    for change in MISSES.get(kind, ("roles", "adjectives", "word")):
        wrong = [caption(near_miss(scene, Random(f"{change} {i}"), change)) for i, scene in enumerate(scenes)]
        gaps = {
            "caption": (vectors * (model.embed(own) - model.embed(wrong))).sum(-1),
            "itc": model.match(images, own) - model.match(images, wrong),
            "likelihood": model.log_likelihood(images, own) - model.log_likelihood(images, wrong),
        }
        out[change] = {name: share((gap > 0).tolist()) for name, gap in gaps.items()}
    return out


def drawn(model: CaptionModel, folder: Path) -> dict[str, Any]:
    """Exact captions of drawn pictures that the detector can read."""
    found = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]
    read = [(image, scene) for image in found if (scene := told(detect(image))) is not None]
    batch = torch.from_numpy(np.stack([image for image, _ in read]).astype(np.float32) / 255).permute(0, 3, 1, 2)
    said = model.captions(batch)
    hits = [exact(s, scene) for s, (_, scene) in zip(said, read, strict=True)]
    return {"pictures": len(found), "readable": len(read), "exact": share(hits)}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="scenes of each kind (200)")
    parser.add_argument("--pictures", type=Path, help="folder of drawn PixelWorld pictures")
    parser.add_argument("--weights", type=Path, help="folder of another caption model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, pipeline = load_caption_model(args.weights), load_pixelworld()
    result: dict[str, Any] = {}
    for kind in KINDS:
        for adorned in (False, True):
            rng = Random(f"captions {kind} {adorned} {args.seed}")
            scenes = [sample_scene(rng, kind, seen=False, adorned=adorned) for _ in range(args.n)]
            name = f"{kind}, adorned" if adorned else kind
            result[name] = figures(model, (torch.from_numpy(pictures(scenes)) + 1) / 2, scenes, kind)
            through = decoded(pipeline, scenes, torch.Generator().manual_seed(args.seed)).float() / 255
            hits = [exact(s, scene) for s, scene in zip(model.captions(through), scenes, strict=True)]
            result[name]["exact, decoded"] = share(hits)
    if args.pictures:
        result["drawn"] = drawn(model, args.pictures)
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
