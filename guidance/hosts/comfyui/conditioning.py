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
    """A prompt's hypergraph and where its words stand on the cross-attention axis, by text encoder.

    length: tokens of the conditioning that it was made with; relations: relations without a verb count as actions.
    """

    graph: Hypergraph
    tables: Mapping[str, TokenTable]
    length: int
    relations: bool = False

    @property
    def prompt(self) -> str:
        """The raw prompt."""
        return self.graph.prompt

    def table(self) -> TokenTable:
        """The table that counts for the U-Net. SDXL joins two encoders feature by feature: they share one axis."""
        return next(iter(self.tables.values()))

    def token_graph(self) -> TokenGraph:
        """What the losses see."""
        return token_graph(self.graph, self.table(), relations=self.relations)


def encode(clip: Any, prompt: str, graph: Hypergraph, relations: bool = False) -> list[list[Any]]:
    """CONDITIONING of ``prompt`` that carries its hypergraph. InterplayError when ``graph`` is of another prompt."""
    if clip is None:
        raise InterplayError("There is no CLIP: the checkpoint has no text encoder, so load one with 'Load CLIP'.")
    if graph.prompt != prompt:
        raise InterplayError(
            f"The hypergraph belongs to another prompt ('{graph.prompt[:60]}'): parse this prompt again."
        )
    tokens = clip.tokenize(prompt)
    tables = tables_of(clip, prompt, tokens)
    return attach(clip.encode_from_tokens_scheduled(tokens), graph, tables, relations)


def tables_of(clip: Any, prompt: str, tokens: Any) -> dict[str, TokenTable]:
    """Where the prompt's words stand, by text encoder. InterplayError when it is not that of a model we know."""
    tables = align_comfyui(prompt, clip.tokenizer, tokens)
    if not tables:
        raise InterplayError(
            f"The text encoder {type(clip.tokenizer).__name__} is not that of SD1.x, SD2.x or SDXL: load one of those."
        )
    return tables


def attach(
    conditioning: list[list[Any]], graph: Hypergraph, tables: Mapping[str, TokenTable], relations: bool = False
) -> list[list[Any]]:
    """A copy of ``conditioning`` whose conds carry the hypergraph; the tensors are shared."""
    out = []
    for tensor, extra in conditioning:
        carried = PromptGraph(graph, dict(tables), int(tensor.shape[1]), relations)
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
