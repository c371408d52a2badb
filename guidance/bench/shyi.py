"""``interplay bench shyi``: the protocol of SHY and SHYI (arXiv 2501.09055), and Attend-and-Excite's prompts.

Fourteen prompts × seeds 4913-4915 × {plain, CONFORM, SHY, SHYI}, CLIP score and TIFA-style questions as far as scorers
are given. SHYI is SHY on InteractDiffusion's U-Net without boxes.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InterplayError
from .protocol_command import add_arguments as shared_arguments
from .protocol_command import check, chosen_sets
from .protocol_data import AE_SETS, attend_and_excite, paper_prompts
from .protocol_models import PIXELWORLD

if TYPE_CHECKING:
    from .methods import Batch, Drawn, Method

logger = logging.getLogger(__name__)

SEEDS = (4913, 4914, 4915)
SHYI = ("SHYI (paper)", "SHYI", "SHYI (null tokens)")
METHODS = ("plain", "CONFORM (paper)", "SHY (paper)", "CONFORM", "SHY", *SHYI)
SETS = ("shyi", "shyi-figures", *AE_SETS, PIXELWORLD)
FOURTEEN = 14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    from ..rewards import command as rewards

    shared_arguments(parser, METHODS, SETS, "4913 4914 4915")
    parser.add_argument("--interact", type=Path, metavar="PATH", help="InteractDiffusion's U-Net, for SHYI")
    rewards.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run, write the page and the table, and print the averages."""
    from ..rewards import command as rewards
    from . import methods, protocol_report, protocol_run
    from .protocol_models import device, find_model

    check(args)
    model = find_model(args.model, args.device, args.weights)
    default = (PIXELWORLD,) if model.weights == PIXELWORLD else ("shyi",)
    sets = chosen_sets(args.sets, prompt_sets(), default, args.limit)
    configured = methods.read_config(args.config) if args.config else {}
    names = args.methods or (["plain", *configured] if configured else list(METHODS))
    found = [_method(name, configured, bool(args.methods), args.interact) for name in dict.fromkeys(names)]
    plan = protocol_run.Plan(
        bench="shyi",
        model=model,
        methods=tuple(method for method in found if method),
        sets=sets,
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
    """Every set by name. "pixelworld": fourteen prompts of the papers' form, in the words that PixelWorld knows."""
    from ..pixelworld.world import PROMPT_SETS

    return {
        "shyi": paper_prompts("shyi"),
        "shyi-figures": paper_prompts("shyi-figures"),
        **{name: list(prompts) for name, prompts in attend_and_excite().items()},
        PIXELWORLD: PROMPT_SETS["actions"](FOURTEEN, SEEDS[0]),
    }


def _method(name: str, configured: Mapping[str, Any], asked: bool, interact: Path | None) -> Method | None:
    """A method by name; None for one of SHYI's when nobody asked for it and its U-Net is not there."""
    from . import methods

    if name not in SHYI or name in configured:
        return methods.named(name, configured)
    try:
        return _shyi(name, interact)
    except InterplayError as error:
        if asked or interact is not None:
            raise InterplayError(f"'{name}' cannot be drawn: {error}") from error
        logger.warning("'%s' is left out: %s", name, error)
        return None


def _shyi(name: str, path: Path | None) -> Method:
    """SHY on InteractDiffusion's U-Net without boxes: as the paper has it, its base alone (the fusers never run), or
    with the trained fusers on null tokens.

    Raises:
        InterplayError: no file was given, or it is none.
    """
    from . import methods

    if path is None:
        raise InterplayError(
            "it needs InteractDiffusion's U-Net (interactdiffusion/diffusers-v1-2 of huggingface.co, 3.9 GB), whose "
            "folder or file is named with --interact PATH."
        )
    if not path.exists():
        raise InterplayError(f"There is no InteractDiffusion U-Net at {path}; name its folder or file with --interact.")
    shy = methods.guidance(name, {"preset": "SHY (paper)" if "(paper)" in name else "SHY"})
    null, loaded = "null tokens" in name, dict[str, Any]()

    def draw(pipeline: Any, batch: Batch) -> list[Drawn]:
        from ..hosts.diffusers.interaction import base_unet, interaction_net, on_null_tokens

        own = pipeline.unet
        if not loaded:
            loaded["unet"] = base_unet(own, path)
            loaded["net"] = interaction_net(own, path) if null else None
        pipeline.unet = loaded["unet"]
        try:
            with on_null_tokens(pipeline.unet, loaded["net"]) if null else nullcontext():
                return shy.draw(pipeline, batch)
        finally:
            pipeline.unet = own

    return replace(shy, draw=draw, settings={**shy.settings, "unet": path.name, "fusers": "null" if null else "off"})
