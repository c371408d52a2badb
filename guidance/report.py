"""Attention maps in words: which action lies on which thing, and which action the model does not see."""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import EdgeTokens, TokenGraph
from .maps import above_mean, gaussian_blur, scaled_kernel

FAINT = 0.25  # a verb whose peak is below this share of the nouns' median peak is hardly attended to


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """(..., H, W) maps -> (...) in [0, 1]: how much of two maps' attention above its mean falls on the same cells.

    Plain cosines of attention maps are near 1 for any two words, since most of a map is even ground.
    """
    raised = [above_mean(m) for m in (first, second)]
    a, b = (m / m.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(m.dtype).tiny) for m in raised)
    return torch.minimum(a, b).sum((-2, -1))


def _smoothed(maps: Tensor) -> Tensor:
    """(B, J, H, W) or (J, H, W) -> (J, H, W): mean over images, narrow blur."""
    mean = maps.detach().float().cpu()
    mean = mean.mean(0) if mean.ndim == 4 else mean
    return gaussian_blur(mean[None], *scaled_kernel(3, 0.5, *mean.shape[-2:]))[0]


def _name(graph: TokenGraph, edge: EdgeTokens) -> str:
    return edge.label or " ".join(graph.words[w].text for w in edge.words)


def _figure(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def overlap_lines(maps: Tensor, graph: TokenGraph) -> list[str]:
    """One line per action, e.g. "'plays' overlaps dog .62, cat .55, forest .08": parties first, in their order.

    maps: (B, J, H, W) or (J, H, W) word maps; a batch is averaged.
    """
    smooth = _smoothed(maps)
    lines = []
    for edge in graph.edges:
        if not edge.words:
            continue
        action = smooth[list(edge.words)].mean(0)
        order = [*edge.parties, *(v for v in range(len(graph.vertices)) if v not in edge.parties)]
        parts = []
        for v in order:
            vertex = graph.vertices[v]
            value = float(overlap(action, smooth[list(vertex.words)].mean(0)))
            parts.append(f"{graph.words[vertex.head].text} {_figure(value)}")
        lines.append(f"'{_name(graph, edge)}' overlaps {', '.join(parts)}")
    return lines


def faint_actions(maps: Tensor, graph: TokenGraph) -> list[str]:
    """Names of the actions whose attention peaks below a quarter of what the nouns' peaks are (their median)."""
    mean = maps.detach().float().cpu()
    peaks = (mean.mean(0) if mean.ndim == 4 else mean).amax((-2, -1))
    heads = [vertex.head for vertex in graph.vertices]
    if not heads:
        return []
    usual = float(peaks[heads].median())
    return [_name(graph, e) for e in graph.edges if e.words and float(peaks[list(e.words)].max()) < FAINT * usual]


def summary(maps: Tensor, graph: TokenGraph) -> str:
    """One or two sentences for people: the overlaps, and a word about actions that the model hardly attends to."""
    lines = overlap_lines(maps, graph)
    text = "; ".join(lines) + "." if lines else "The prompt has no action to show."
    faint = faint_actions(maps, graph)
    if faint:
        names = ", ".join(f"'{name}'" for name in faint)
        text += f" The model hardly attends to {names}: guidance cannot make it read a word as an action."
    return text
