"""Guidance inside diffusers pipelines."""
