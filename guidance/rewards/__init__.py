"""Scores of a picture against its prompt, and why.

``scorer`` is the interface, ``questions`` makes questions from the hypergraph by rule, ``answers`` scores the answers;
each other module builds one kind of scorer from a local folder. Nothing here downloads unless it is told to.
"""

from __future__ import annotations

from .scorer import Reading, Scorer

__all__ = ["Reading", "Scorer"]
