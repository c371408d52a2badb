"""The one exception that Interplay raises for a user's mistake."""

from __future__ import annotations


class InterplayError(ValueError):
    """A mistake that a person can mend.

    The message is one sentence that says what is wrong, with what, and what to do. Commands print it and exit with 2;
    ComfyUI shows it on the node.
    """
