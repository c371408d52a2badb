"""Prompt to hypergraph to token positions; no torch and no ComfyUI here."""

from __future__ import annotations

from functools import lru_cache

from ..errors import InterplayError
from .hypergraph import Hypergraph
from .textform import apply_text, format_text, is_whole

__all__ = ["Hypergraph", "apply_text", "available_parsers", "format_text", "parse", "parse_with_text"]

_REMEMBERED = 256


def available_parsers() -> tuple[str, ...]:
    """Names that ``parse`` takes: "auto", "rules", and every spaCy pipeline that is installed."""
    from .spacy_backend import installed_pipelines

    return ("auto", "rules", *installed_pipelines())


def parse(prompt: str, parser: str = "auto") -> Hypergraph:
    """Read a prompt as a hypergraph.

    Args:
        prompt: any text, as people write prompts; offsets in the result count its characters.
        parser: "auto" (the same as "rules"), "rules", or the name of an installed spaCy pipeline.

    Results are remembered; the tables load with the first call.

    Raises:
        InterplayError: no such parser; the message names those there are.
    """
    return _parse(prompt, "rules" if parser == "auto" else parser)


def parse_with_text(prompt: str, override: str = "", parser: str = "auto") -> Hypergraph:
    """``parse``, changed by what a person wrote (see ``textform``); a whole graph bypasses the parser."""
    if is_whole(override):
        return apply_text(Hypergraph(prompt), override)
    return apply_text(parse(prompt, parser), override)


@lru_cache(maxsize=_REMEMBERED)
def _parse(prompt: str, parser: str) -> Hypergraph:
    if parser == "rules":
        try:
            from .rules import parse_rules

            return parse_rules(prompt)
        except ModuleNotFoundError as error:
            raise InterplayError(
                f"The parser needs {error.name}, which is not installed; run pip install spacy lemminflect "
                "in the Python that runs Interplay."
            ) from error
    if parser not in available_parsers():
        raise InterplayError(
            f"There is no parser '{parser}'; use one of {', '.join(available_parsers())}, "
            "or install a spaCy pipeline of that name."
        )
    from .spacy_backend import parse_spacy

    return parse_spacy(prompt, parser)
