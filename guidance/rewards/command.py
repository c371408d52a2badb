"""The options that name scorers' models, and the scorers that they give."""

from __future__ import annotations

import argparse

from .scorer import Scorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option for each scorer."""


def scorers(args: argparse.Namespace, pixelworld: bool = False) -> tuple[Scorer, ...]:
    """The scorers that were asked for. pixelworld: its exact detector answers the questions where no model does."""
    made: list[Scorer] = []
    if pixelworld:
        from .pixelworld import pixelworld_scorer

        made.append(pixelworld_scorer())
    return tuple(made)
