"""Scores on PixelWorld against ground truth: do they know right pictures from wrong ones, and swapped captions?

    python benchmarks/itm.py --prompts 64 --images 8 --scenes 60 --models DIR --out itm.json

Draws ``--images`` pictures of each prompt with the stock pipeline, scores them with the same model (DiffusionITM) and
with PixelWorld's caption model, and judges them by the world's exact detector; goes on where it stopped. Prints JSON:
the area under the ROC curve for all-right pictures, all-right shares of the picture each score chooses against a random
pick (with 95 % bootstrap intervals over prompts), and how often true scenes fit their caption better than swapped ones.
--models DIR adds CLIP score, ITM, ITC, VQAScore, TIFA and the caption reward by the small models of the published
classes that ``python -m interplay.guidance.rewards.small_models_train --out DIR`` teaches. --weights FOLDER takes other
PixelWorld weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from functools import cache
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
from interplay.guidance.bench.stats import bootstrap_interval, paired_difference, wilson  # noqa: E402
from interplay.guidance.hosts.diffusers.itm import score_pictures  # noqa: E402
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld  # noqa: E402
from interplay.guidance.pixelworld.detect import judge  # noqa: E402
from interplay.guidance.pixelworld.render import enlarge, render  # noqa: E402
from interplay.guidance.pixelworld.world import PROMPT_SETS, caption, sample_scene  # noqa: E402
from interplay.guidance.rewards import Scorer, clip, matching, vqa  # noqa: E402
from interplay.guidance.rewards import caption as captioning  # noqa: E402
from interplay.guidance.rewards.itm_settings import itm_preset  # noqa: E402
from interplay.guidance.rewards.pixelworld import pixelworld_scorer  # noqa: E402
from interplay.guidance.rewards.pixelworld_caption import caption_scorer, match_scorer  # noqa: E402
from interplay.guidance.rewards.swaps import swapped_captions  # noqa: E402
from interplay.parsing import parse  # noqa: E402
from PIL import Image  # noqa: E402

NAMES = ("score", "margin", "p", "score+margin", "score+p")  # of DiffusionITM; +: each brought to the same spread
SWAPPED = ("caption", "itc", "itc_likelihood", "tifa_all")
FURTHER = ("caption", "itc", "itc_likelihood", "tifa", "tifa_edges", "tifa_all")
OF_MODELS = {
    "clip": ("clip", "clip_hessel", "clip_torchmetrics"),
    "blip-itm": ("itm", "itm_itc"),
    "blip2-itm": ("itm", "itm_itc"),
    "blip2-caption": ("caption", "caption_above"),
    "blip-vqa": ("vqascore", "vqascore_ratio"),
    "blip-vqa tifa": ("tifa", "tifa_edges", "tifa_all"),
}


def auc(right: list[float], wrong: list[float]) -> float | None:
    """Probability that a right picture scores above a wrong one; ties count half."""
    if not right or not wrong:
        return None
    gaps = np.subtract.outer(right, wrong)
    return float((gaps > 0).mean() + (gaps == 0).mean() / 2)


def choose(pipeline: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Best of ``--images`` by each score, and how well the scores tell all-right pictures; goes on where it stopped."""
    folder = args.work
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number, prompt in enumerate(PROMPT_SETS[args.set](args.prompts, args.seed)):
        place = folder / f"{number:03d}.json"
        row = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
        images = draw(pipeline, args, number, prompt)
        if not row:
            row = {"prompt": prompt, "right": [float(judge(prompt, np.asarray(image)).all_right) for image in images]}
            print(
                f"{number + 1}/{args.prompts} right {np.mean(row['right']):.2f} {prompt}", file=sys.stderr, flush=True
            )
        if not args.no_own and "score" not in row:
            row |= own_figures(pipeline, args, prompt, images)
        if not args.own_only and "caption" not in row:
            row |= further_figures(images, prompt)
        if args.models and not set(row) >= set(model_columns(args.models)):
            row |= model_figures(args.models, images, [prompt] * len(images))
        if {"p", "caption"} <= set(row):
            row["p+caption"] = (_standard(np.array(row["p"])) + _standard(np.array(row["caption"]))).tolist()
        place.write_text(json.dumps(row), encoding="utf-8")
    return summary(args.work)


def draw(pipeline: Any, args: argparse.Namespace, number: int, prompt: str) -> list[Image.Image]:
    """The pictures of a prompt, kept for further scores; those that are there are not drawn again."""
    places = [args.work / "pictures" / f"{number:03d}_{i}.png" for i in range(args.images)]
    if all(place.is_file() for place in places):
        return [Image.open(place).convert("RGB") for place in places]
    noise = torch.randn(args.images, 4, 16, 16, generator=torch.Generator().manual_seed(args.seed * 1000 + number))
    images: list[Image.Image] = pipeline(
        [prompt] * args.images, latents=noise, num_inference_steps=args.steps, guidance_scale=args.cfg
    ).images
    for image, place in zip(images, places, strict=True):
        image.save(place)
    return images


def own_figures(pipeline: Any, args: argparse.Namespace, prompt: str, images: list[Image.Image]) -> dict[str, Any]:
    """The model's own scores of one prompt's pictures, by name."""
    settings = itm_preset(args.preset, prune=False, stop=0.0, heat=False, normalise="on")
    texts = [prompt, *(s.text for s in swapped_captions(parse(prompt)))]
    found = score_pictures(pipeline, images, texts, settings)
    score = found.values()[:, 0].numpy()
    margins = np.array([m.mean if (m := found.margin(i)) else 0.0 for i in range(len(images))])
    p = np.array([found.match(i) for i in range(len(images))])
    mixes = [_standard(score) + _standard(other) for other in (margins, p)]
    return {name: v.tolist() for name, v in zip(NAMES, (score, margins, p, *mixes), strict=True)}


def further_figures(images: list[Image.Image], prompt: str) -> dict[str, list[float]]:
    """Scores by PixelWorld's caption model, and TIFA's by the exact detector."""
    out: dict[str, list[float]] = {}
    for scorer in (caption_scorer(), match_scorer(), pixelworld_scorer()):
        found = [scorer.cells(reading) for reading in scorer.score(images, [prompt] * len(images))]
        out |= {name: [float(cell[name] or 0.0) for cell in found] for name in FURTHER if name in scorer.columns}
    return out


@cache
def models(folder: Path) -> dict[str, Scorer]:
    """The scorers of OF_MODELS whose folders are there, opened as any published model's folder is."""
    place = {name: str(folder / name.split()[0]) for name in OF_MODELS}
    makers = {
        "clip": lambda: clip.clip_scorer(place["clip"]),
        "blip-itm": lambda: matching.itm_scorer(place["blip-itm"]),
        "blip2-itm": lambda: matching.itm_scorer(place["blip2-itm"]),
        "blip2-caption": lambda: captioning.caption_scorer(place["blip2-caption"], place["blip2-itm"]),
        "blip-vqa": lambda: matching.vqascore_scorer(place["blip-vqa"]),
        "blip-vqa tifa": lambda: vqa.tifa_scorer(place["blip-vqa"]),
    }
    return {name: make() for name, make in makers.items() if Path(place[name], "config.json").is_file()}


def model_columns(folder: Path) -> list[str]:
    """What ``model_figures`` gives, such as "clip: clip_hessel"."""
    return [f"{name.split()[0]}: {column}" for name in models(folder) for column in OF_MODELS[name]]


def model_figures(folder: Path, images: list[Image.Image], prompts: list[str]) -> dict[str, list[float]]:
    """Scores by the small models of the published classes."""
    out: dict[str, list[float]] = {}
    for name, scorer in models(folder).items():
        found = [scorer.cells(reading) for reading in scorer.score(images, prompts)]
        out |= {f"{name.split()[0]}: {c}": [float(cell[c] or 0.0) for cell in found] for c in OF_MODELS[name]}
    return out


def summary(folder: Path) -> dict[str, Any]:
    """The figures of all prompts drawn so far."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("[0-9]*.json"))]
    rows = [{k: v if k == "prompt" else np.array(v) for k, v in row.items()} for row in rows]
    out: dict[str, Any] = {"pictures": sum(len(r["right"]) for r in rows)}
    random_pick = [float(r["right"].mean()) for r in rows]
    any_right = [float(r["right"].max()) for r in rows]
    out["random pick"] = {"all_right": float(np.mean(random_pick)), "interval": bootstrap_interval(random_pick)}
    out["best possible"] = float(np.mean(any_right))
    every = set.intersection(*(set(row) for row in rows))
    for name in [key for key in rows[0] if key in every - {"prompt", "right"}]:
        picked = [float(r["right"][int(r[name].argmax())]) for r in rows]
        gain = paired_difference(picked, random_pick)
        pairs = [(auc(list(r[name][r["right"] > 0]), list(r[name][r["right"] == 0]))) for r in rows]
        within = [v for v in pairs if v is not None]
        pooled = [np.concatenate([r[name][(r["right"] > 0) == side] for r in rows]).tolist() for side in (True, False)]
        out[name] = {
            "all_right": float(np.mean(picked)),
            "over_random": gain[0],
            "interval": gain[1:],
            "auc_within_prompts": float(np.mean(within)) if within else None,
            "auc_within_interval": bootstrap_interval(within),
            "prompts_with_both": len(within),
            "auc_pooled": auc(*pooled),
        }
    return out


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / (values.std() or 1.0)


def separate(pipeline: Any, args: argparse.Namespace) -> dict[str, Any]:
    """True scenes, rendered exactly: how often the caption fits better than each kind of swapped caption, by score."""
    place = args.work / "swapped.json"
    kept: dict[str, dict[str, list[bool]]] = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    found: dict[str, Any] = {}
    if not args.no_own:
        found["own"] = lambda image, texts: {"score": own_values(pipeline, args, image, texts)}
    if not args.own_only:
        found["further"] = further_values
    if args.models:
        found["models"] = lambda image, texts: model_figures(args.models, [image] * len(texts), texts)
    rng = Random(f"itm {args.seed}")
    scenes = [sample_scene(rng, "action", adorned=False) for _ in range(args.scenes)]
    names = {"own": ["score"], "further": list(SWAPPED), "models": model_columns(args.models) if args.models else []}
    for source, values_of in found.items():
        if not scenes or set(kept) >= set(names[source]):
            continue
        wins: dict[str, dict[str, list[bool]]] = {name: {} for name in names[source]}
        for scene in scenes:
            image, text = Image.fromarray(enlarge(render(scene)[0])), caption(scene)
            swaps = swapped_captions(parse(text))
            values = values_of(image, [text, *(s.text for s in swaps)])
            for name in names[source]:
                for swap, value in zip(swaps, values[name][1:], strict=True):
                    wins[name].setdefault(swap.operation, []).append(values[name][0] > value)
        kept |= wins
        place.write_text(json.dumps(kept), encoding="utf-8")
    return {
        name: {
            kind: {"share": float(np.mean(w)), "n": len(w), "interval": wilson(sum(w), len(w))}
            for kind, w in wins.items()
        }
        for name, wins in kept.items()
    }


def own_values(pipeline: Any, args: argparse.Namespace, image: Image.Image, texts: list[str]) -> list[float]:
    """DiffusionITM's score of one picture under each text."""
    settings = itm_preset(args.preset, prune=False, stop=0.0, heat=False, normalise="off")
    values: list[float] = score_pictures(pipeline, [image], texts, settings).values()[0].tolist()
    return values


def further_values(image: Image.Image, texts: list[str]) -> dict[str, list[float]]:
    """The scores of SWAPPED of one picture under each text."""
    found = [further_figures([image], text) for text in texts]
    return {name: [values[name][0] for values in found] for name in SWAPPED}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="folder of PixelWorld weights (default: the pack's own)")
    parser.add_argument("--set", default="actions", choices=list(PROMPT_SETS))
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--scenes", type=int, default=200, help="rendered scenes for the swapped captions")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=Path, metavar="DIR", help="folder of small models, see above")
    parser.add_argument("--own-only", action="store_true", help="no scores but DiffusionITM's")
    parser.add_argument("--no-own", action="store_true", help="no score of DiffusionITM's")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, default=Path("itm_work"), help="folder to go on from when run again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load_pixelworld(folder=args.weights)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("out", "work")}
    result = {"settings": settings, "choice": choose(pipeline, args), "swapped": separate(pipeline, args)}
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
