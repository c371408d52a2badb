"""Guidance inside ComfyUI."""
