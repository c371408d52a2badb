"""The hypergraph's ride in CONDITIONING: one more key in each cond's dictionary, which ComfyUI hands on untouched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....errors import InterplayError
from ....parsing.hypergraph import Hypergraph
from ....parsing.tokens import TokenTable, align_comfyui
from ...graph import TokenGraph, token_graph

KEY = "interplay"


@dataclass(frozen=True)
class PromptGraph:
    """A prompt's hypergraph and where its words stand on the cross-attention axis, for each text encoder.

    length: tokens of the conditioning that it was made with.
    """

    graph: Hypergraph
    tables: tuple[tuple[str, TokenTable], ...]
    length: int

    @property
    def prompt(self) -> str:
        """The raw prompt."""
        return self.graph.prompt

    def table(self) -> TokenTable:
        """The table that counts for the U-Net. SDXL joins two encoders feature by feature: they share one axis."""
        return self.tables[0][1]

    def token_graph(self, relations: bool = False) -> TokenGraph:
        """What the losses see."""
        return token_graph(self.graph, self.table(), relations=relations)


def encode(clip: Any, prompt: str, graph: Hypergraph) -> list[list[Any]]:
    """CONDITIONING of ``prompt`` that carries its hypergraph. InterplayError when ``graph`` is of another prompt."""
    if clip is None:
        raise InterplayError("There is no CLIP: the checkpoint has no text encoder, so load one with 'Load CLIP'.")
    if graph.prompt != prompt:
        raise InterplayError(
            f"The hypergraph belongs to another prompt ('{graph.prompt[:60]}'): parse this prompt again."
        )
    tokens = clip.tokenize(prompt)
    tables = align_comfyui(prompt, clip.tokenizer, tokens)
    if not tables:
        raise InterplayError(
            f"The text encoder {type(clip.tokenizer).__name__} is not of SD1.x, SD2.x or SDXL: guidance works with those."
        )
    return attach(clip.encode_from_tokens_scheduled(tokens), graph, tables)


def attach(conditioning: list[list[Any]], graph: Hypergraph, tables: Mapping[str, TokenTable]) -> list[list[Any]]:
    """A copy of ``conditioning`` whose conds carry the hypergraph; the tensors are shared."""
    out = []
    for tensor, extra in conditioning:
        carried = PromptGraph(graph, tuple(tables.items()), int(tensor.shape[1]))
        out.append([tensor, {**extra, KEY: carried}])
    return out


def find_graph(conditioning: list[list[Any]]) -> list[PromptGraph]:
    """The hypergraphs that a CONDITIONING carries. InterplayError when there is none."""
    found = [cond[1][KEY] for cond in conditioning if KEY in cond[1]]
    if not found:
        raise InterplayError(NO_GRAPH)
    return found


NO_GRAPH = (
    "The positive conditioning carries no hypergraph: make it with 'Prompt to Hypergraph' in place of 'CLIP Text "
    "Encode'."
)
