"""``interplay train pixelworld``: train PixelWorld by one command. Each stage resumes where it stopped.

Stages: the autoencoder's decoder, U-Net with text encoder, export as a pipeline folder ``OUT/weights``. This module
is light; what needs torch is imported by :func:`run`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InterplayError

SETTINGS = "settings.json"
_KEPT = ("minutes", "decoder_minutes", "batch", "rate", "attention", "seed", "channels", "processes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("model", choices=["pixelworld"], help="what to train")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints, curve and weights"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR, with its own settings")
    parser.add_argument("--minutes", type=float, default=80, help="wall-clock time of the U-Net stage (80)")
    parser.add_argument("--decoder-minutes", type=float, default=10, help="wall-clock time of the decoder stage (10)")
    parser.add_argument("--batch", type=int, default=12, help="samples a step in each process (12)")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate (0.001)")
    parser.add_argument("--attention", type=float, default=0.03, help="weight of the attention loss (0.03)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--channels", type=int, nargs=2, default=[64, 128], metavar="N", help="channels of the U-Net's levels (64 128)"
    )
    parser.add_argument("--processes", type=int, default=2, help="processes of one thread each (2)")
    parser.add_argument("--no-compile", action="store_true", help="run without torch.compile (needs no C++ compiler)")


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The run's settings: new ones, written down; or, when resuming, the ones written down then."""
    file, wanted = args.out / SETTINGS, {name: getattr(args, name) for name in _KEPT}
    for name in ("minutes", "decoder_minutes", "batch", "rate", "processes"):
        if not wanted[name] > 0:
            raise InterplayError(f"--{name.replace('_', '-')} is {wanted[name]}; it has to be above zero.")
    if args.resume:
        if not file.is_file():
            raise InterplayError(f"There is no run to resume in {args.out}; leave out --resume to start one.")
        return json.loads(file.read_text(encoding="utf-8"))
    if file.exists():
        raise InterplayError(
            f"There is a run in {args.out} already; add --resume to go on with it or choose another folder."
        )
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InterplayError(f"The folder {args.out} can't be written ({error.strerror}); choose another.") from None
    return wanted


def run(args: argparse.Namespace) -> int:
    """Run or resume all stages."""
    kept = _settings(args)
    import torch

    from .train_autoencoder import train_decoder
    from .train_unet import Settings, train_unet, worker

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    train_decoder(args.out / "autoencoder.pt", kept.pop("decoder_minutes"), seed=kept["seed"])
    kept["channels"] = tuple(kept.get("channels", (64, 128)))
    settings = Settings(out=args.out, compile=not args.no_compile, **kept)
    if settings.processes > 1:
        (settings.out / "meeting").unlink(missing_ok=True)
        torch.multiprocessing.spawn(worker, (settings,), nprocs=settings.processes)
    else:
        train_unet(settings)
    print(export_run(args.out))
    return 0


def export_run(out: Path) -> Path:
    """Write the moving average of a run's weights, finished or not, to ``OUT/weights``; returns that folder.

    Raises:
        InterplayError: a stage has not saved anything yet.
    """
    import torch

    from .export import export
    from .train_unet import VOCABULARY, Lexicon

    for name in ("autoencoder.pt", "unet.pt"):
        if not (out / name).is_file():
            raise InterplayError(f"There is no {name} in {out} yet; let `interplay train pixelworld` run longer.")
    vae = torch.load(out / "autoencoder.pt", weights_only=True)["model"]
    ema = torch.load(out / "unet.pt", weights_only=True)["ema"]
    unet, text = ({key[2:]: value for key, value in ema.items() if key.startswith(part)} for part in ("0.", "1."))
    export(out / "weights", unet, text, vae, Lexicon().rows, VOCABULARY.parent)
    return out / "weights"


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m interplay.guidance.pixelworld.train pixelworld --out DIR``."""
    parser = argparse.ArgumentParser(prog="interplay train", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except InterplayError as error:
        sys.stderr.write(f"interplay: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
