"""Which picture was made by which method: carried by the page and its answers, but not for the eye.

A rater who looks into the page's source must not meet a method's name beside a picture. The key is therefore packed and
masked. That is blinding, not secrecy: whoever has this package can open it, so that answers can be counted alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from ...errors import InterplayError


def seal(key: Mapping[str, Any]) -> str:
    """A key as text that says nothing to a reader; the same key gives the same text."""
    packed = zlib.compress(json.dumps(key, sort_keys=True, ensure_ascii=False).encode(), 9)
    return base64.b64encode(_mask(packed)).decode()


def unseal(text: str) -> dict[str, Any]:
    """What :func:`seal` was given.

    Raises:
        InterplayError: the text is damaged.
    """
    try:
        found = json.loads(zlib.decompress(_mask(base64.b64decode(text, validate=True))))
    except (binascii.Error, zlib.error, ValueError, TypeError):
        raise InterplayError("The key of this study is damaged; ask for the file as the page saved it.") from None
    return dict(found)


def _mask(content: bytes) -> bytes:
    blocks = (hashlib.sha256(b"interplay study %d" % n).digest() for n in range(len(content) // 32 + 1))
    return bytes(a ^ b for a, b in zip(content, b"".join(blocks), strict=False))
