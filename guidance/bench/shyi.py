"""``interplay bench shyi``: the protocol of SHY and SHYI (arXiv 2501.09055), and Attend-and-Excite's prompts.

Fourteen prompts × seeds 4913-4915 × {plain, CONFORM, SHY, SHYI}, CLIP score and TIFA-style questions as far as scorers
are given. SHYI is SHY on InteractDiffusion's U-Net without boxes.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InterplayError
from .protocol_command import add_arguments as shared_arguments
from .protocol_command import check, chosen_sets
from .protocol_data import AE_SETS, attend_and_excite, paper_prompts
from .protocol_models import PIXELWORLD

if TYPE_CHECKING:
    from .methods import Method

logger = logging.getLogger(__name__)

SEEDS = (4913, 4914, 4915)
METHODS = ("plain", "CONFORM (paper)", "SHY (paper)", "CONFORM", "SHY", "SHYI")
SETS = ("shyi", "shyi-figures", *AE_SETS, PIXELWORLD)
FOURTEEN = 14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    from ..rewards import command as rewards

    shared_arguments(parser, METHODS, SETS, "4913 4914 4915")
    parser.add_argument("--interact", type=Path, metavar="FILE", help="InteractDiffusion's U-Net, for SHYI")
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
    """A method by name; None for SHYI when it was not asked for by name and cannot be had."""
    from . import methods

    if name != "SHYI" or name in configured:
        return methods.named(name, configured)
    try:
        return _shyi(interact)
    except InterplayError as error:
        if asked:
            raise
        logger.warning("SHYI is left out: %s", error)
        return None


def _shyi(file: Path | None) -> Method:
    """SHY on InteractDiffusion's U-Net without boxes.

    Raises:
        InterplayError: no file was given, or it cannot be loaded here.
    """
    if file is None:
        raise InterplayError(
            "It needs InteractDiffusion's U-Net (interactdiffusion/diffusers-v1-2 of huggingface.co, 3.9 GB); "
            "put its file in a folder and name it with --interact FILE."
        )
    raise InterplayError(f"This version cannot draw with InteractDiffusion's U-Net yet, so {file} is of no use here.")
