"""Prompt to hypergraph to token positions; no torch and no ComfyUI here."""
