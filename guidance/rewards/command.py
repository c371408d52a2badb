"""The options that name scorers' models, and the scorers that they give."""

from __future__ import annotations

import argparse

from ...errors import InterplayError
from .scorer import Scorer

MODES = ("short", "photo", "detailed")  # of captions
PIXELWORLD = "pixelworld"  # in a folder's place: what the pack itself has for PixelWorld's pictures
OPTIONS = {
    "clip": "CLIP score: folder of a CLIPModel",
    "tifa": "answers to the questions: folder of a BLIP, ViLT or chat model, or 'pixelworld'",
    "captioner": "caption reward: folder of the captioner (BLIP-2, BLIP, Florence-2 or a chat model), or 'pixelworld'",
    "caption-encoder": "caption reward: folder of the encoder (BLIP-2, CLIP or a sentence encoder), or 'pixelworld'",
    "itm": "ITM and ITC: folder of a BLIP-2 or BLIP retrieval model, or 'pixelworld' (ITC)",
    "vqascore": "VQAScore: folder of a BLIP, ViLT or chat model",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option for each scorer."""
    group = parser.add_argument_group("scores (local folders; nothing is downloaded unless --download is given)")
    for name, about in OPTIONS.items():
        group.add_argument(f"--{name}", metavar="FOLDER", help=about)
    group.add_argument(
        "--caption-mode", choices=MODES, default="short", help="short; photo: after 'a photo of'; detailed"
    )
    group.add_argument("--beams", type=int, default=1, help="of the captioner's search (default: 1, greedy)")
    group.add_argument("--download", action="store_true", help="take repositories of huggingface.co for folders")


def scorers(args: argparse.Namespace, pixelworld: bool = False, device: str = "cpu") -> tuple[Scorer, ...]:
    """The scorers that were asked for. pixelworld: its exact detector answers the questions where no model does.

    Raises:
        InterplayError: a model is missing or cannot be used.
    """
    made: list[Scorer] = []
    if args.clip:
        from .clip import clip_scorer

        made.append(clip_scorer(args.clip, device, args.download))
    if args.tifa and args.tifa != PIXELWORLD:
        from .vqa import tifa_scorer

        made.append(tifa_scorer(args.tifa, device, args.download))
    elif args.tifa or pixelworld:
        from .pixelworld import pixelworld_scorer

        made.append(pixelworld_scorer())
    if bool(args.captioner) != bool(args.caption_encoder):
        raise InterplayError("The caption reward needs both --captioner FOLDER and --caption-encoder FOLDER.")
    if args.captioner == PIXELWORLD == args.caption_encoder:
        from .pixelworld_caption import caption_scorer as own_scorer

        made.append(own_scorer())
    elif args.captioner:
        if PIXELWORLD in (args.captioner, args.caption_encoder):
            raise InterplayError("PixelWorld's captioner and caption encoder go together: name 'pixelworld' for both.")
        from .caption import Style, caption_scorer

        style = Style(args.caption_mode, args.beams)
        made.append(caption_scorer(args.captioner, args.caption_encoder, device, args.download, style))
    if args.itm == PIXELWORLD:
        from .pixelworld_caption import match_scorer

        made.append(match_scorer())
    elif args.itm:
        from .matching import itm_scorer

        made.append(itm_scorer(args.itm, device, args.download))
    if args.vqascore:
        from .matching import vqascore_scorer

        made.append(vqascore_scorer(args.vqascore, device, args.download))
    return tuple(made)
