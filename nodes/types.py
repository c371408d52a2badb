"""The custom types that travel between Interplay's nodes."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "Interplay"

HypergraphType = io.Custom("INTERPLAY_HYPERGRAPH")
"""A ``parsing.hypergraph.Hypergraph``: who there is in a prompt, and who does what to whom."""

ObjectsType = io.Custom("INTERPLAY_OBJECTS")
"""Objects found in a picture: names, boxes, masks."""

InteractionType = io.Custom("INTERPLAY_INTERACTION")
"""A layout: subject, action and object with their boxes."""

InteractDiffusionType = io.Custom("INTERPLAY_INTERACTDIFFUSION")
"""The fusers and the tokenizer of InteractDiffusion, ready for ComfyUI."""

CaptionsType = io.Custom("INTERPLAY_CAPTIONS")
"""Captions with captions that their pictures do not match."""
