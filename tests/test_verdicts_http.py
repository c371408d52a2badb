"""A judge behind an OpenAI-compatible address, against a real server on this machine that fails in every way."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from interplay.guidance.grounding import llm_http
from interplay.guidance.grounding.llm_http import BASE_URL, KEY, MODEL, Endpoint, chat, endpoint_from_environment
from interplay.guidance.grounding.verdicts_judge import JudgeError, judge_with

CORPUS = json.loads((Path(__file__).parent / "data" / "broken_replies.json").read_text(encoding="utf-8"))
PROMPT, TAGS, RIGHT = CORPUS["prompt"], CORPUS["tags"], CORPUS["right"]
REPLIES = {entry["name"]: entry for entry in CORPUS["replies"]}
CLEAN = REPLIES["clean"]["text"]
SECRET = 'k3y-do/not+show"me"=='  # with letters that JSON and addresses write otherwise

Answer = Callable[[BaseHTTPRequestHandler, dict], None]


class Server:
    """Answers requests in turn by functions; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((dict(self.headers), {**body, "path": self.path}))
                answer = outer.answers[min(len(outer.asked), len(outer.answers)) - 1]
                answer(self, body)

            do_GET = do_POST

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def endpoint(self, **changes: Any) -> Endpoint:
        return Endpoint(**{"base": self.base, "model": "toy", "timeout": 5.0, "backoff": 0.01, **changes})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def send(status: int, body: Any, headers: dict[str, str] | None = None) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(handler: BaseHTTPRequestHandler, asked: dict) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def say(text: Any) -> Answer:
    return send(200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})


def judged(server: Server, *answers: Answer, check: Callable[[], None] = lambda: None, **changes: Any) -> Any:
    server.answers = list(answers)
    return judge_with(chat(server.endpoint(**changes), check), PROMPT, TAGS)


def by_rule(found: Any) -> bool:
    """Whether every verdict came, right, out of the rules."""
    return {i.tag: [i.score, i.phrase] for i in found.items} == RIGHT and found.status.startswith("rules: ")


# --- replies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(REPLIES))
def test_every_broken_reply_over_the_wire(server, name):
    entry = REPLIES[name]
    texts = [REPLIES[n]["text"] * REPLIES[n].get("repeat", 1) for n in (name, entry.get("second", name))]
    found = judged(server, *map(say, texts))
    assert {i.tag: [i.score, i.phrase] for i in found.items} == RIGHT
    assert found.status.startswith(tuple(entry.get("status_any", (entry["status"],)))), found.status


def test_what_is_asked(server):
    found = judged(server, say(CLEAN), key=SECRET)
    headers, body = server.asked[0]
    assert found.status == "llm"
    assert body["path"] == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert (body["model"], body["temperature"], body["stream"]) == ("toy", 0, False)
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["objects", "missing"]
    assert [m["role"] for m in body["messages"]] == ["system", "user"]


def test_without_a_key_none_is_sent(server):
    judged(server, say(CLEAN))
    assert "Authorization" not in server.asked[0][0]


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": CLEAN[:40]}, {"type": "text", "text": CLEAN[40:]}]},
        {"content": json.loads(CLEAN)},
        {"content": None, "reasoning_content": f"hm, {CLEAN}"},
    ],
)
def test_content_in_other_forms(server, message):
    found = judged(server, send(200, {"choices": [{"message": message}]}))
    assert [i.score for i in found.items] == [2, 2, 0.5, 0] and found.status == "llm"


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"choices": [None]}, {"choices": [{"message": {"content": None}}]}, {"choices": "x"},
             {"choices": [{"message": "x"}]}, {"choices": [{"message": {"content": 7}}]}],
)  # fmt: skip
def test_answers_without_content(server, body):
    assert by_rule(judged(server, send(200, body)))


def test_structured_output_is_given_up_step_by_step(server):
    refuse = send(400, {"error": {"message": "response_format is not supported"}})
    found = judged(server, refuse, refuse, say("no"), say(CLEAN))
    forms = [body.get("response_format", {}).get("type") for _, body in server.asked]
    assert forms == ["json_schema", "json_object", None, None]  # and it is remembered when asked again
    assert found.status == "retry"


def test_temperature_is_given_up_last(server):
    refuse = send(400, {"error": {"message": "temperature is not supported"}})
    assert judged(server, refuse, refuse, refuse, say(CLEAN)).status == "llm"
    assert [("temperature" in body) for _, body in server.asked] == [True, True, True, False]


def test_a_request_that_is_refused_in_every_form(server):
    found = judged(server, send(400, {"error": {"message": "no such model: toy"}}))
    assert by_rule(found) and "400: no such model: toy" in found.status
    assert len(server.asked) == 4


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again(server, status):
    busy = send(status, {"error": {"message": "busy"}}, {"Retry-After": "0.01"})
    assert judged(server, busy, busy, say(CLEAN)).status == "llm"
    assert len(server.asked) == 3


def test_tries_end(server):
    found = judged(server, send(500, b"<html>oops</html>"), retries=1)
    assert by_rule(found) and found.status == "rules: The endpoint answered 500 (2 tries)."
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_tried_again(server, status):
    found = judged(server, send(status, {"error": {"message": f"Incorrect API key: {SECRET}"}}), key=SECRET)
    assert by_rule(found) and str(status) in found.status and KEY in found.status
    assert len(server.asked) == 1


def test_the_pause_that_a_server_asks_for_is_kept_and_limited(server, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(llm_http, "_sleep", lambda seconds, check: waited.append(seconds))
    busy = [send(429, {}, {"Retry-After": value}) for value in ("3", "100000", "Wed, 21 Oct 2026 07:28:00 GMT", "-1")]
    assert judged(server, *busy, say(CLEAN), retries=4, backoff=0.5).status == "llm"
    assert waited == [3, llm_http.LONGEST_WAIT, 2.0, 4.0]  # 0.5 s doubled each time where the header says nothing


def test_a_server_that_never_answers(server):
    stop = threading.Event()
    found = judged(server, lambda handler, body: stop.wait(20) and None, timeout=0.3, retries=0)
    stop.set()
    assert by_rule(found) and "did not answer within 0.3 s" in found.status


def test_a_server_that_drips(server):
    """Each byte comes in time, the whole does not."""
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler, body: dict) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    found = judged(server, drip, timeout=0.5, retries=0)
    stop.set()
    assert by_rule(found) and "did not answer within 0.5 s" in found.status


def test_a_body_that_breaks_off(server):
    def cut(handler: BaseHTTPRequestHandler, body: dict) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "5000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [{"message"')
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    assert judged(server, cut, say(CLEAN)).status == "llm"
    server.asked.clear()
    assert by_rule(judged(server, cut, retries=0))


@pytest.mark.parametrize(
    "body", [b"", b"<html>502</html>", b'{"choices": [', b"[1, 2]", b"\xff\xfe\x00", b"[" * 100_000]
)
def test_bodies_that_are_no_answer(server, body):
    assert judged(server, send(200, body), say(CLEAN)).status == "llm"


def test_a_connection_that_is_closed_at_once(server):
    def hang_up(handler: BaseHTTPRequestHandler, body: dict) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    assert by_rule(judged(server, hang_up, retries=0))


def test_an_answer_too_long_to_read(server, monkeypatch):
    monkeypatch.setattr(llm_http, "LARGEST", 1000)
    assert by_rule(judged(server, say(CLEAN + " " * 2000), retries=0))


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = judge_with(chat(Endpoint(f"http://127.0.0.1:{port}/v1", "toy", retries=0)), PROMPT, TAGS)
    assert by_rule(found) and "cannot be reached" in found.status


def test_waiting_can_be_cancelled(server):
    class Cancelled(Exception):
        pass

    stop, begun = threading.Event(), time.monotonic()

    def check() -> None:
        if server.asked:
            raise Cancelled

    with pytest.raises(Cancelled):
        judged(server, lambda handler, body: stop.wait(20) and None, check=check, timeout=15)
    stop.set()
    assert time.monotonic() - begun < 10


# --- secrets ----------------------------------------------------------------------------------------------------------


def forms(secret: str) -> list[str]:
    """A secret as it may be written."""
    import urllib.parse

    encoded = base64.b64encode(secret.encode()).decode()
    return [secret, json.dumps(secret)[1:-1], urllib.parse.quote(secret, safe=""), encoded]


@pytest.mark.parametrize(
    "answer",
    [
        say(f"your key is {SECRET}"),
        say(CLEAN.replace("red book", f"red book {SECRET}")),
        send(400, {"error": {"message": f"bad key {SECRET}"}}),
        send(401, {"error": {"message": f"bad key {SECRET}"}}),
        send(418, {"error": f"Authorization: Bearer {SECRET}"}),
        send(429, {"error": {"message": f"key {SECRET} has no quota"}}, {"Retry-After": "0"}),
        send(500, SECRET.encode()),
        send(200, {"error": {"message": SECRET}}),
        send(302, b"", {"Location": f"http://127.0.0.1:9/{SECRET}"}),
    ],
)
def test_a_server_that_echoes_the_key_shows_it_to_nobody(server, answer, caplog):
    caplog.set_level(logging.DEBUG)
    found = judged(server, answer, key=SECRET, retries=1)
    shown = "\n".join([found.to_json(), found.raw, found.status, found.table(), caplog.text])
    try:
        judge_with(chat(server.endpoint(key=SECRET, retries=0)), PROMPT, TAGS, strict=True)
    except Exception:
        shown += traceback.format_exc()
    assert server.asked[0][0]["Authorization"] == f"Bearer {SECRET}"
    for form in forms(SECRET):
        assert form not in shown


def test_the_key_does_not_follow_a_redirect(server):
    other = Server()
    try:
        other.answers = [say(CLEAN)]
        for status in (301, 302, 303, 307, 308):
            found = judged(server, send(status, b"", {"Location": f"{other.base}/chat/completions"}), key=SECRET)
            assert by_rule(found) and "points elsewhere" in found.status
        assert other.asked == []
    finally:
        other.http.shutdown()
        other.http.server_close()


def test_a_key_is_not_part_of_what_an_endpoint_shows():
    assert SECRET not in repr(Endpoint("http://127.0.0.1/v1", "toy", SECRET))


@pytest.mark.parametrize(
    "given",
    [
        {BASE_URL: f"http://user:{SECRET}@127.0.0.1/v1", MODEL: "toy"},
        {BASE_URL: f"http://127.0.0.1/v1?key={SECRET}", MODEL: "toy"},
        {BASE_URL: f"http://127.0.0.1:{SECRET}/v1", MODEL: "toy"},
        {BASE_URL: f"file:///{SECRET}", MODEL: "toy"},
        {BASE_URL: f"{SECRET}", MODEL: "toy"},
        {BASE_URL: "http://127.0.0.1/v1", MODEL: "toy", KEY: f"{SECRET}\r\nX-Other: 1"},
        {BASE_URL: "http://127.0.0.1/v1", MODEL: "toy", KEY: f"{SECRET}ü"},
        {BASE_URL: "http://127.0.0.1/v1", KEY: SECRET},
        {MODEL: "toy", KEY: SECRET},
        {BASE_URL: "http://", MODEL: "toy", KEY: SECRET},
        {BASE_URL: "http://[::1", MODEL: "toy", KEY: SECRET},
    ],
)
def test_a_wrong_environment_is_named_and_not_quoted(given):
    with pytest.raises(JudgeError) as caught:
        endpoint_from_environment(given)
    shown = "".join(traceback.format_exception(caught.value))
    assert "INTERPLAY_LLM_" in str(caught.value)
    assert not any(form in shown for form in forms(SECRET))


def test_the_environment_names_the_endpoint():
    given = {BASE_URL: " http://127.0.0.1:11434/v1/ ", MODEL: "toy", KEY: f" {SECRET}\n"}
    found = endpoint_from_environment(given, timeout=7, retries=1)
    assert (found.url, found.model, found.key) == ("http://127.0.0.1:11434/v1/chat/completions", "toy", SECRET)
    assert (found.timeout, found.retries) == (7, 1)
