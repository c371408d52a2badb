"""A chat model behind an OpenAI-compatible address: standard library only, and nothing of its key in what people see.

Address, model and key come from the environment alone, so that no workflow can carry them. Redirects are not followed:
the key goes to the address that was named, and nowhere else.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from .verdicts_judge import JudgeError
from .verdicts_reply import SCHEMA, Messages

_log = logging.getLogger(__name__)

BASE_URL, MODEL, KEY = "INTERPLAY_LLM_BASE_URL", "INTERPLAY_LLM_MODEL", "INTERPLAY_LLM_API_KEY"
TIMEOUT, RETRIES = 60.0, 2
LARGEST = 4 << 20  # bytes of an answer
LONGEST_WAIT = 30.0  # seconds between two tries, whatever the server asks for
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
UNSUPPORTED = frozenset({400, 404, 415, 422, 501})
HIDDEN = "[hidden]"
SHORTEST = 8  # characters of a key that is a secret
_KEYLIKE = re.compile(r"(?i)(?:bearer\s+|\bsk-)[\w.~+/*-]{6,}=*")

Check = Callable[[], None]
"""Called often while waiting; raises to give up."""


@dataclass(frozen=True)
class Endpoint:
    """base: such as http://127.0.0.1:11434/v1; key: "" where none is needed; timeout: seconds for one answer; retries:
    further tries after a failure that may pass; backoff: seconds before the first of them, doubled each time.
    """

    base: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = TIMEOUT
    retries: int = RETRIES
    backoff: float = 0.5

    def __post_init__(self) -> None:
        parts = _split(self.base)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise JudgeError(f"{BASE_URL} is no http address; set it to one such as http://127.0.0.1:11434/v1.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise JudgeError(f"{BASE_URL} holds a user, a query or a fragment; set the key in {KEY} instead.")
        if self.key and not re.fullmatch(r"[\x21-\x7e]+", self.key):
            raise JudgeError(f"{KEY} holds spaces or letters that no key has; set it again.")
        if not self.model:
            raise JudgeError(f"No model is named; set {MODEL} to one that the server has.")

    @property
    def url(self) -> str:
        """Where questions go."""
        return f"{self.base.rstrip('/')}/chat/completions"

    def hide(self, text: str) -> str:
        """The text without the key, where a server echoes it; keys such as "none" are no secrets."""
        if len(self.key) < SHORTEST:
            return text
        for form in (self.key, urllib.parse.quote(self.key, safe=""), json.dumps(self.key)[1:-1]):
            text = text.replace(form, HIDDEN)
        return text


def endpoint_from_environment(
    environment: Mapping[str, str] | None = None, timeout: float = TIMEOUT, retries: int = RETRIES
) -> Endpoint:
    """The endpoint that ``INTERPLAY_LLM_BASE_URL``, ``…_MODEL`` and ``…_API_KEY`` name.

    Raises:
        JudgeError: address or model is missing or malformed; the message holds neither address nor key.
    """
    given = os.environ if environment is None else environment
    base, model, key = (given.get(name, "").strip() for name in (BASE_URL, MODEL, KEY))
    if not base:
        raise JudgeError(f"No endpoint is named; set {BASE_URL} and {MODEL} (and {KEY}) before ComfyUI starts.")
    return Endpoint(base, model, key, timeout, retries)


def chat(
    endpoint: Endpoint, check: Check = lambda: None, schema: Mapping[str, Any] = SCHEMA, name: str = "verdicts"
) -> Callable[[Messages], str]:
    """A function that asks the endpoint. check: see ``Check``; schema, name: of the JSON that it shall answer with.

    Structured output is asked for as a JSON schema, then as a JSON object, then not at all, as far as the server knows
    it. Raises ``JudgeError`` when all tries failed.
    """
    state, forms = {"form": 0}, _forms(schema, name)

    def ask(messages: Messages) -> str:
        while True:
            try:
                return endpoint.hide(_content(_tried(endpoint, _body(endpoint, messages, forms[state["form"]]), check)))
            except _Unsupported as error:
                state["form"] += 1
                if state["form"] >= len(forms):
                    state["form"] = 0
                    raise JudgeError(str(error)) from None

    return ask


# --- requests ---------------------------------------------------------------------------------------------------------


def _forms(schema: Mapping[str, Any], name: str) -> tuple[dict[str, Any], ...]:
    """Ways to ask for JSON, the strictest first."""
    strict = {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}
    return (
        {"temperature": 0, "seed": 0, "response_format": strict},
        {"temperature": 0, "seed": 0, "response_format": {"type": "json_object"}},
        {"temperature": 0, "seed": 0},
        {},  # some models take no temperature
    )


class _Unsupported(Exception):
    """The server does not know a field of the request."""


class _Passing(Exception):
    """A failure that may be over at the next try; wait: seconds that the server asks for."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Never: a key must not follow."""


def _split(url: str) -> urllib.parse.SplitResult | None:
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return None if re.search(r"[\s\x00-\x1f\x7f]", url) else parts


def _body(endpoint: Endpoint, messages: Messages, form: Mapping[str, Any]) -> bytes:
    return json.dumps({"model": endpoint.model, "messages": messages, "stream": False, **form}).encode()


def _tried(endpoint: Endpoint, body: bytes, check: Check) -> dict[str, Any]:
    """The answer, after as many tries as it takes and is allowed."""
    for number in range(endpoint.retries + 1):
        try:
            return _within(endpoint, body, check)
        except _Passing as error:
            if number == endpoint.retries:
                tries = "" if number == 0 else f" ({number + 1} tries)"
                raise JudgeError(f"{error}{tries}.") from None
            wait = min(endpoint.backoff * 2**number if error.wait is None else error.wait, LONGEST_WAIT)
            _log.info("%s; trying again in %.1f s.", error, wait)
            _sleep(wait, check)
    raise AssertionError  # the loop returns or raises


def _sleep(seconds: float, check: Check) -> None:
    never = threading.Event()
    while seconds > 0:
        check()
        never.wait(min(seconds, 0.1))
        seconds -= 0.1


def _within(endpoint: Endpoint, body: bytes, check: Check) -> dict[str, Any]:
    """One try in a thread of its own, so that the whole of it has a time limit and can be cancelled."""
    box: list[dict[str, Any] | Exception] = []
    done = threading.Event()

    def work() -> None:
        try:
            box.append(_once(endpoint, body))
        except Exception as error:  # handed to the thread that waits, which raises it
            box.append(error)
        done.set()

    threading.Thread(target=work, daemon=True, name="interplay-judge").start()
    left = endpoint.timeout
    while not done.wait(min(0.05, max(left, 0.001))):
        check()
        left -= 0.05
        if left <= 0:
            raise _Passing(f"The endpoint did not answer within {endpoint.timeout:g} s")
    found = box[0]
    if isinstance(found, Exception):
        raise found
    return found


def _once(endpoint: Endpoint, body: bytes) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "Interplay"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    request = urllib.request.Request(endpoint.url, body, headers, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=endpoint.timeout) as answer:
            text = answer.read(LARGEST + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(endpoint, error) from None
    except TimeoutError:
        raise _Passing(f"The endpoint did not answer within {endpoint.timeout:g} s") from None
    except (OSError, HTTPException, ValueError) as error:
        cause = getattr(error, "reason", None) or error
        raise _Passing(f"The endpoint cannot be reached ({_short(endpoint, _cause(cause))})") from None
    return _json(text)


def _cause(error: Any) -> str:
    """The kind of a failure, and the system's own words for it."""
    words = getattr(error, "strerror", None)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _json(text: bytes) -> dict[str, Any]:
    if len(text) > LARGEST:
        raise _Passing(f"The endpoint's answer is longer than {LARGEST >> 20} MiB")
    try:
        found = json.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise _Passing("The endpoint's answer is no JSON, or cut off") from None
    if not isinstance(found, dict):
        raise _Passing("The endpoint's answer is no JSON object")
    return found


def _refused(endpoint: Endpoint, error: urllib.error.HTTPError) -> Exception:
    """What a status other than 200 means. What the server says is quoted only where it cannot be about the key."""
    code = error.code
    if 300 <= code < 400:
        return JudgeError(f"The endpoint answered {code} and points elsewhere; set {BASE_URL} to where it really is.")
    if code in (401, 403, 407):
        return JudgeError(f"The endpoint answered {code}: it does not take the key; set {KEY} to one that it takes.")
    told = f"The endpoint answered {code}{_said(endpoint, error)}"
    if code in AGAIN:
        return _Passing(told, _asked_wait(error.headers.get("Retry-After", "")))
    if code in UNSUPPORTED:
        return _Unsupported(f"{told}.")
    return JudgeError(f"{told}.")


def _said(endpoint: Endpoint, error: urllib.error.HTTPError) -> str:
    try:
        found = json.loads(error.read(20_000).decode("utf-8", "replace"))
        inner = found.get("error", found)
        words = inner if isinstance(inner, str) else inner.get("message", "")
    except (ValueError, AttributeError, OSError, HTTPException, RecursionError):
        return ""  # a page of HTML, or nothing: the code says enough
    return f": {_short(endpoint, words)}" if isinstance(words, str) and words.strip() else ""


def _short(endpoint: Endpoint, words: str) -> str:
    return " ".join(_KEYLIKE.sub(HIDDEN, endpoint.hide(words)).split())[:200].rstrip(".")


def _asked_wait(value: str) -> float | None:
    """Seconds of a Retry-After header; None for a date or nonsense."""
    return min(float(value), LONGEST_WAIT) if re.fullmatch(r"\d+(\.\d+)?", value.strip()) else None


# --- answers ----------------------------------------------------------------------------------------------------------


def _content(answer: Mapping[str, Any]) -> str:
    """The text of an answer, "" where a model said nothing; that falls down the ladder like any other bad reply."""
    if "error" in answer and not answer.get("choices"):
        raise JudgeError("The endpoint answered with an error instead of a reply; see its own log.")
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        return first["text"] if isinstance(first, dict) and isinstance(first.get("text"), str) else ""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    if isinstance(content, dict):
        content = json.dumps(content)
    for other in ("reasoning_content", "reasoning"):
        content = content or message.get(other)
    return content if isinstance(content, str) else ""
