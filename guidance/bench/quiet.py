"""Silence: other libraries' bars and notes would tear ours, and guidance that rests is a result here, not a fault."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

HOSTS = logging.getLogger(f"{__package__.split('.')[0]}.guidance.hosts")


def silence() -> None:
    """Switch them off for the rest of this process (a worker's)."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    HOSTS.setLevel(logging.ERROR)


@contextmanager
def quiet() -> Iterator[None]:
    """The same for a while; all is as before after it."""
    import diffusers.utils.logging
    import transformers.utils.logging

    levels = [(library, library.get_verbosity()) for library in (diffusers.utils.logging, transformers.utils.logging)]
    before = HOSTS.level
    try:
        silence()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        HOSTS.setLevel(before)
        for library, level in levels:
            library.set_verbosity(level)
            library.enable_progress_bar()
