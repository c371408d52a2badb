"""What the losses see of a hypergraph: words with token positions, vertices as lists of words, edges as action words
and their parties. Pure Python; no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenWord:
    """A word and its positions on the cross-attention axis (77 * chunk + offset), one for each of its pieces."""

    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class VertexTokens:
    """A noun group: indices into ``TokenGraph.words``, the head being one of them."""

    words: tuple[int, ...]
    head: int
    environment: bool = False
    label: str = ""


@dataclass(frozen=True)
class EdgeTokens:
    """An action: indices of its words (no particles, no prepositions) and of its parties in ``TokenGraph.vertices``."""

    words: tuple[int, ...]
    parties: tuple[int, ...]
    label: str = ""
    kind: str = "action"


@dataclass(frozen=True)
class TokenGraph:
    """The hypergraph in token positions of one text encoder. ``length`` is the length of the cross-attention axis."""

    words: tuple[TokenWord, ...]
    vertices: tuple[VertexTokens, ...]
    edges: tuple[EdgeTokens, ...]
    length: int
    prompt: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def positions(self) -> tuple[int, ...]:
        """The distinct token positions of all words, ascending."""
        return tuple(sorted({p for word in self.words for p in word.positions}))
