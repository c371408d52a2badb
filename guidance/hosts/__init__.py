"""Hosts: everything that knows ComfyUI or diffusers; nothing else in the pack imports either."""
