"""Questions that come as JSON instead of by rule."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from interplay.errors import InterplayError
from interplay.guidance.grounding.llm_http import Endpoint, chat
from interplay.guidance.rewards.answers import questions_of, read
from interplay.guidance.rewards.questions_json import SCHEMA, asker, read_questions
from interplay.guidance.rewards.questions_llm import llm_asker

PROMPT = "a red robot carrying a blue box"
TIFA = {"question": "Is there a robot?", "choices": ["yes", "no"], "answer": "yes", "element_type": "animal/human"}
SWAPPED = {"question": "Is the box carrying the robot?", "answer": "No", "type": "swapped"}


def test_none_means_by_rule():
    assert asker(None)(PROMPT) == asker("  ")(PROMPT) == questions_of(PROMPT)


def test_a_list_is_asked_of_every_prompt_and_types_are_those_of_tifa():
    asked = asker(json.dumps([TIFA, SWAPPED, TIFA]))(PROMPT)
    assert [(q.text, q.kind, q.choices, q.answer) for q in asked] == [
        ("Is there a robot?", "object", ("yes", "no"), "yes"),
        ("Is the box carrying the robot?", "swapped", ("yes", "no"), "no"),
    ]
    reading = read(asked, ["yes", "yes"])
    assert reading.value == 1.0 and reading.parts["swapped"] == 0.0 and reading.parts["all"] == 0.5


def test_an_answer_with_talk_around_it_is_read():
    text = f'<think>[no]</think>Here they are:\n```json\n{{"questions": [{json.dumps(TIFA)},]}}\n```'
    assert [q.text for q in asker(text)(PROMPT)] == ["Is there a robot?"]


def test_lists_by_prompt():
    ask = asker(json.dumps({PROMPT: [TIFA], "a cat": [SWAPPED]}))
    assert ask("a cat")[0].kind == "swapped"
    with pytest.raises(InterplayError, match="none for the prompt 'a dog'"):
        ask("a dog")


def test_what_cannot_be_asked_is_left_out_or_said():
    wrong = {"question": "What color?", "choices": ["red", "blue"], "answer": "green", "type": "color"}
    assert len(read_questions([wrong, TIFA, {"question": "?"}, "talk"])) == 1
    for text, said in (("no json", "no JSON"), ('"a"', "no JSON"), ("[1]", "can be asked"), ("{]", "no JSON")):
        with pytest.raises(InterplayError, match=said):
            asker(text)
    with pytest.raises(InterplayError, match="no list"):
        asker('{"questions": "a"}')


def test_a_language_model_is_asked_once_a_prompt_and_once_more_when_its_reply_is_no_use():
    heard: list[list[dict[str, str]]] = []
    replies = iter(["sorry", json.dumps({"questions": [TIFA]})])

    def ask(messages):
        heard.append([dict(message) for message in messages])
        return next(replies)

    of = llm_asker(ask)
    assert of(PROMPT) == of(PROMPT) and of(PROMPT)[0].text == "Is there a robot?"
    assert len(heard) == 2 and PROMPT in heard[0][1]["content"] and "no JSON" in heard[1][3]["content"]
    with pytest.raises(InterplayError, match="cannot be used"):
        llm_asker(lambda messages: "sorry")(PROMPT)


def test_the_endpoint_is_asked_for_the_schema_of_questions():
    """Against a real server on this machine that speaks the protocol."""
    seen: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            said = {"choices": [{"message": {"content": json.dumps({"questions": [TIFA, SWAPPED]})}}]}
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "tiny", timeout=20)
        asked = llm_asker(chat(endpoint, schema=SCHEMA, name="questions"))(PROMPT)
    finally:
        server.shutdown()
        server.server_close()
    assert [q.kind for q in asked] == ["object", "swapped"]
    assert seen[0]["response_format"]["json_schema"]["schema"] == SCHEMA
