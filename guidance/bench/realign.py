"""``interplay bench realign``: the protocol of RealignDiff (arXiv 2305.19599, section IV).

One picture a prompt from seed 42, 50 steps, 512x512; CLIP score and TIFA-style questions; its Tables I to IV beside
ours. The data sets' prompts are not shipped: name them with NAME=FILE ("MS-COCO=captions.txt"). FID is not measured.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InterplayError
from .protocol_command import add_arguments as shared_arguments
from .protocol_command import check, chosen_sets
from .protocol_data import paper_prompts
from .protocol_models import PIXELWORLD

if TYPE_CHECKING:
    from .methods import Batch, Drawn, Method

logger = logging.getLogger(__name__)

SEEDS = (42,)
STAGES = ("coarse", "fine", "coarse + fine", "DenseDiffusion")
METHODS = ("plain", *STAGES)
SETS = ("realign", PIXELWORLD)
DATA_SETS = ("MS-COCO", "ABC-6K", "CC-500", "ViLG-300")
PIXELWORLD_PROMPTS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    from ..rewards import command as rewards

    shared_arguments(parser, METHODS, SETS, "42")
    parser.add_argument("--coarse", type=Path, metavar="FOLDER", help="U-Net that the coarse stage has trained")
    rewards.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run, write the page and the table, and print the averages."""
    from ..rewards import command as rewards
    from . import methods, protocol_report, protocol_run
    from .protocol_models import device, find_model

    check(args)
    model = find_model(args.model, args.device, args.weights)
    default = (PIXELWORLD,) if model.weights == PIXELWORLD else ("realign",)
    configured = methods.read_config(args.config) if args.config else {}
    names = args.methods or (["plain", *configured] if configured else list(METHODS))
    found = [_method(name, configured, bool(args.methods), args.coarse, model.weights) for name in dict.fromkeys(names)]
    plan = protocol_run.Plan(
        bench="realign",
        model=model,
        methods=tuple(method for method in found if method),
        sets=chosen_sets(args.sets, prompt_sets(), default, args.limit),
        seeds=tuple(args.seeds or SEEDS),
        steps=args.steps or model.steps,
        cfg=args.cfg or model.cfg,
        size=args.size,
        scorers=rewards.scorers(args, model.weights == PIXELWORLD, device(args.device)),
    )
    protocol_run.execute(args.out, plan)
    print(protocol_report.text(protocol_report.write(args.out)))
    return 0


def prompt_sets() -> dict[str, list[str]]:
    """Every set by name. "realign": the prompts printed in the paper; "pixelworld": pairs of things with colours."""
    from ..pixelworld.world import PROMPT_SETS

    return {"realign": paper_prompts("realign"), PIXELWORLD: PROMPT_SETS["two objects"](PIXELWORLD_PROMPTS, SEEDS[0])}


def _method(name: str, configured: Mapping[str, Any], asked: bool, coarse: Path | None, weights: str) -> Method | None:
    """A method by name; None for a stage that was not asked for by name and cannot be had."""
    from . import methods

    if name not in STAGES or name in configured:
        return methods.named(name, configured)
    try:
        return _stage(name, coarse, weights)
    except InterplayError as error:
        if asked:
            raise
        logger.warning("'%s' is left out: %s", name, error)
        return None


def _stage(name: str, coarse: Path | None, weights: str) -> Method:
    """A stage of RealignDiff.

    Raises:
        InterplayError: what it needs is not there.
    """
    from . import methods

    base = methods.plain(name, {}) if name == "coarse" else _fine(name, weights)
    if not name.startswith("coarse"):
        return base
    if coarse is None:
        raise InterplayError("The coarse stage needs the U-Net that it trained; name its folder with --coarse FOLDER.")
    return _with_unet(base, coarse)


def _fine(name: str, weights: str) -> Method:
    """The picture looked at and drawn again from the same noise, with attention re-weighted."""
    from . import methods

    if weights != PIXELWORLD:
        raise InterplayError(
            "The fine stage needs to see what is in a photograph, which is done in ComfyUI ('RAM Grounded-SAM "
            "Reweight'); here it runs on PixelWorld, whose detector is exact: leave --model out."
        )
    preset = name if name == "DenseDiffusion" else "RealignDiff (recommended)"
    return methods.make(name, {"kind": "again", "preset": preset, "keep": "second"})


def _with_unet(method: Method, folder: Path) -> Method:
    """The method on another U-Net of the same shape, which is loaded once and put back after every picture."""
    if not (folder / "config.json").is_file():
        raise InterplayError(f"There is no U-Net in {folder} (no config.json); give the folder that training wrote.")
    loaded: dict[str, Any] = {}

    def draw(pipeline: Any, batch: Batch) -> list[Drawn]:
        own = pipeline.unet
        if not loaded:
            loaded["unet"] = type(own).from_pretrained(str(folder), local_files_only=True).to(own.device, own.dtype)
        loaded["unet"].eval()
        pipeline.unet = loaded["unet"]
        try:
            return method.draw(pipeline, batch)
        finally:
            pipeline.unet = own

    settings = {**method.settings, "unet": str(folder)}
    return replace(method, draw=draw, settings=settings)
