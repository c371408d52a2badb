"""``interplay train negatives-lora``: a LoRA by contrast with negatives, on PixelWorld or a diffusers pipeline."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InterplayError
from .refl_options import PIXELWORLD, add_settings, device_of, guarded, open_pipeline, settings_of, teller

PRESETS: dict[str, dict[str, Any]] = {
    "full-size": {},
    PIXELWORLD: {
        "steps": 900,
        "batch": 10,
        "rate": 4e-3,
        "fade": 0.4,
        "calibrate": 160,
        "k": 0.25,
        "eta": 0.7,
        "low": 0.05,
        "high": 0.99,
        "lean": 0.65,
        "min_snr": 5.0,
        "snr_power": 0.5,
        "contrast_from": 0.55,
        "contrast_until": 0.6,
        "contrast_space": "clean",
        "clip_norm": 0.02,
        "anchor_every": 2,
        "watch_every": 2,
        "look_first": False,
        "stray": 1.3,
        "ghosts": 0.5,
        "validate_every": 100,
        "save_every": 40,
        "ema": 0.95,
    },
}
EVALUATION = "evaluation.json"
DIFFUSERS = "lora_diffusers.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    from .contrast import ContrastSettings
    from .lora import TARGETS

    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the run and its LoRA")
    add("--resume", action="store_true", help="go on with the run in DIR")
    add("--model", default=PIXELWORLD, help="folder of a diffusers pipeline (SD1.x, SD2.x, SDXL), or 'pixelworld'")
    add("--data", type=Path, metavar="PATH", help="captions.jsonl, imagefolder, kohya folders or a NegCLIP .tsv; "
        "PixelWorld draws its own")  # fmt: skip
    add("--cache", type=Path, metavar="DIR", help="where latents are kept (DIR/cache of --out)")
    add("--scenes", type=int, default=1024, help="PixelWorld: scenes to train on (1024)")
    add("--device", default="auto", help="cpu, cuda, or auto")
    add("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"),
        help="of the frozen model; the LoRA is float32")  # fmt: skip
    add("--rank", type=int, default=8, help="of the LoRA (8)")
    add("--alpha", type=float, help="of the LoRA (its rank)")
    add("--targets", choices=tuple(TARGETS), help="layers with a LoRA (attn; PixelWorld attn2)")
    add("--diffusers", action="store_true", help="also write lora_diffusers.safetensors, for diffusers' own reader")
    add("--sample", action="append", default=[], metavar="PROMPT", help="draw this at every validation")
    add("--check", type=int, default=0, metavar="N", help="also draw N captions that are not trained on at every "
        "validation, and let the model without the LoRA read them, PixelWorld's exact detector on PixelWorld "
        "(0: none)")  # fmt: skip
    add("--evaluate", type=int, default=0, metavar="N", help="PixelWorld: at the end, measure with N prompts and pairs "
        "of held-out combinations and write evaluation.json (0: not)")  # fmt: skip
    add_settings(parser, ContrastSettings, PRESETS)


def run(args: argparse.Namespace) -> int:
    """Train or go on. Returns 0, or 3 where the tripwire stopped the run."""
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from ..hosts.diffusers.training import PipelineLearner
    from .contrast import ContrastSettings
    from .lora import save
    from .train_negatives import Job, Tripped, train

    settings = settings_of(args, ContrastSettings, PRESETS, PIXELWORLD if args.model == PIXELWORLD else "full-size")
    args.size = None
    pipeline = open_pipeline(args)
    targets = args.targets or ("attn2" if args.model == PIXELWORLD else "attn")
    model = PipelineLearner(pipeline, args.rank, args.alpha, targets, settings.seed)
    job = Job(
        model,
        model.lora,
        material(args, pipeline, settings.seed),
        prompts=args.sample,
        check=_check(args, pipeline) if args.check and args.model == PIXELWORLD else None,
        checked=args.check,
        base="sdxl_base_v1-0" if model.xl else "sd_v2" if model.kind == "v" else "sd_v1",
        report=teller("step", 10),
    )
    try:
        outcome = train(job, settings, args.out, args.resume)
    except Tripped:
        _evaluate(args, model)
        raise
    if args.diffusers:
        save(model.lora, outcome.file.with_name(DIFFUSERS), "diffusers", job.base)
    _evaluate(args, model)
    print(f"{outcome.file} holds the LoRA of step {outcome.kept} of {outcome.steps}; it ended because: {outcome.why}.")
    return 0


def material(args: argparse.Namespace, pipeline: Any, seed: int) -> Any:
    """Records and latents; records without negatives get those that the rules make."""
    from .contrast import Material

    if args.data is None and args.model != PIXELWORLD:
        raise InterplayError("Name the training data with --data PATH, such as a captions.jsonl.")
    if args.data is None:
        from .pixelworld import ground

        if args.scenes < 2:
            raise InterplayError(f"--scenes is {args.scenes}; a LoRA needs some hundred pictures.")
        made = ground(pipeline.vae, args.scenes, seed)
        return Material(made.records, made.latents.to(device_of(args.device)))
    from ..hosts.diffusers.itm import encode
    from .latents import encoded, network_hash
    from .negatives import negatives
    from .records import read_records

    records = [
        r if r.negatives else replace(r, negatives=tuple(n.text for n in negatives(r.caption)))
        for r in read_records(args.data)
    ]
    key = f"{network_hash(pipeline.vae)}_{pipeline.unet.config.sample_size}"
    folder = args.cache or args.out / "cache"
    return Material(records, encoded(records, lambda images: encode(pipeline, images), key, folder))


def _check(args: argparse.Namespace, pipeline: Any) -> Any:
    from ..pixelworld.world import PROMPT_SETS
    from .pixelworld import verdicts

    prompts = PROMPT_SETS["actions"](args.check, 4300)  # a seed of its own: neither the benchmark's nor the trainers'

    def share() -> float:
        found = verdicts(pipeline, prompts, 4300, steps=15)
        return sum(v.all_right for v in found) / len(found)

    return share


def _evaluate(args: argparse.Namespace, model: Any) -> None:
    if not args.evaluate or args.model != PIXELWORLD:
        return
    from .pixelworld import drawn_right, told_apart

    figures = {
        "told apart, held out": told_apart(model, args.evaluate),
        **drawn_right(model.pipeline, n=args.evaluate, steps=15),
    }
    (args.out / EVALUATION).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for name, found in figures.items():
        chosen = {k: v["value"] for k, v in found.items() if k in ("text", "image", "group", "all_right", "quality")}
        print(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in chosen.items()))
