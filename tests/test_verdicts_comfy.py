"""Judge Tags as a node: every judge, the ladder, memory management, cancelling, and a server that keeps secrets."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import comfyui_path

pytestmark = pytest.mark.comfy

PROMPT, TAGS = "a red book and a yellow pen", "book, pen, table, banana"
KEY = "s3cret-key-0123456789abcdef"
SAID = (
    '{"objects": [{"tag": "book", "verdict": "certain", "phrase": "red book"}, {"tag": "pen", "verdict": "possible",'
    ' "phrase": "yellow pen"}, {"tag": "table", "verdict": "unlikely"}, {"tag": "banana", "verdict": "unlikely"}]}'
)
NAMES = ("INTERPLAY_LLM_BASE_URL", "INTERPLAY_LLM_MODEL", "INTERPLAY_LLM_API_KEY")


@pytest.fixture
def endpoint(monkeypatch):
    """A server in this process; ``answers`` are (status, text) in turn, the last for ever."""
    answers: list[tuple[int, str]] = [(200, SAID)]
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(dict(self.headers))
            status, text = answers[min(len(asked), len(answers)) - 1]
            body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    values = (f"http://127.0.0.1:{http.server_address[1]}/v1", "toy", KEY)
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("no_proxy", "*")
    yield answers, asked
    http.shutdown()
    http.server_close()


@pytest.fixture
def models(tmp_path, monkeypatch):
    """models/interplay in a folder of the test's own."""
    import folder_paths
    from interplay.guidance.hosts.comfyui import scores

    monkeypatch.setattr(scores, "_open", type(scores._open)())
    monkeypatch.setitem(folder_paths.folder_names_and_paths, scores.FOLDER, ([str(tmp_path)], set()))
    return tmp_path


def run(judge: str = "rules", prompt: str = PROMPT, tags: Any = TAGS, **inputs: Any) -> tuple[Any, ...]:
    from interplay.nodes.verdicts import JudgeTags

    given = {name: [value] for name, value in inputs.items()}
    return tuple(JudgeTags.execute([prompt], tags if isinstance(tags, list) else [tags], [judge], **given).args)


def scores_of(verdicts: str) -> dict[str, float]:
    return {item["tag"]: item["score"] for item in json.loads(verdicts)["verdicts"]}


def test_rules_by_default():
    verdicts, phrases, status, raw = run()
    assert scores_of(verdicts) == {"book": 2, "pen": 2, "table": 0.5, "banana": 0}
    assert (phrases, status, raw) == ("red book, yellow pen", "rules", "")


def test_rules_ask_nobody(endpoint):
    run()
    run(pasted=SAID, judge="endpoint")
    assert endpoint[1] == []


def test_pasted_json_is_the_judge():
    verdicts, _, status, raw = run(pasted=SAID)
    assert scores_of(verdicts)["pen"] == 0.5 and (status, raw) == ("pasted", SAID)


def test_the_endpoint_is_asked(endpoint):
    verdicts, _, status, raw = run("endpoint")
    assert scores_of(verdicts) == {"book": 2, "pen": 0.5, "table": 0, "banana": 0}
    assert (status, raw) == ("llm", SAID)
    assert endpoint[1][0]["Authorization"] == f"Bearer {KEY}"


def test_a_failing_endpoint_does_not_stop_the_workflow_and_is_asked_again_next_time(endpoint):
    from interplay.errors import InterplayError
    from interplay.nodes.verdicts import JudgeTags

    endpoint[0][:] = [(500, "")]
    inputs = {"prompt": PROMPT, "tags": TAGS, "judge": "endpoint", "pasted": ""}
    before = JudgeTags.fingerprint_inputs(**inputs)
    verdicts, _, status, _ = run("endpoint", retries=0)
    assert status.startswith("rules: The endpoint answered 500") and scores_of(verdicts) == scores_of(run()[0])
    assert JudgeTags.fingerprint_inputs(**inputs) != before
    assert JudgeTags.fingerprint_inputs(**{**inputs, "judge": "rules"}) == 0
    with pytest.raises(InterplayError, match="answered 500"):
        run("endpoint", retries=0, strict=True)


def test_a_batch_is_judged_picture_by_picture_and_asked_no_more_than_needed(endpoint):
    from interplay.guidance.grounding.objects_text import read_verdicts

    endpoint[0][:] = [(200, SAID), (200, '{"cat": "certain"}')]
    verdicts, phrases, status, raw = run("endpoint", tags=[TAGS, "cat", TAGS])
    assert len(endpoint[1]) == 2
    assert [set(p) for p in read_verdicts(verdicts, 3)] == [set(TAGS.split(", ")), {"cat"}, set(TAGS.split(", "))]
    assert read_verdicts(verdicts, 3)[0]["pen"] == (0.5, "yellow pen")
    assert (phrases, status) == ("red book, yellow pen", "llm")
    assert raw.startswith("--- picture 1 ---") and raw.count(SAID) == 2
    whole = json.dumps({"pictures": [{"tags": [{"name": "book"}]}, {"tags": []}, {"tags": ["pen"]}]})
    assert [list(p) for p in read_verdicts(run(tags=whole)[0], 3)] == [["book"], [], ["pen"]]


def test_an_endpoint_that_failed_is_not_waited_for_again_in_the_same_run(endpoint):
    endpoint[0][:] = [(500, "")]
    _, _, status, raw = run("endpoint", tags=["book", "pen", "cat"], retries=0)
    assert len(endpoint[1]) == 1 and (status, raw) == ("rules: The endpoint answered 500.", "")


def test_without_an_environment_the_status_says_what_to_set(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    _, _, status, _ = run("endpoint")
    assert status.startswith("rules: No endpoint is named; set INTERPLAY_LLM_BASE_URL")


def test_other_scores():
    verdicts = run(certain=1.5, possible=0.25, unlikely=0.1)[0]
    assert scores_of(verdicts) == {"book": 1.5, "pen": 1.5, "table": 0.25, "banana": 0.1}


def test_the_hypergraph_brings_the_prompt():
    from interplay.errors import InterplayError
    from interplay.parsing import parse

    graph = parse(PROMPT)
    assert run(prompt="", hypergraph=graph) == run()
    assert run(hypergraph=graph) == run()
    with pytest.raises(InterplayError, match="differ"):
        run(prompt="a cat", hypergraph=graph)
    with pytest.raises(InterplayError, match="no prompt"):
        run(prompt=" ")


def test_a_chat_model_runs_under_the_hosts_memory_management(models):
    import chat_models
    import comfy.model_management
    import torch
    from interplay.guidance.grounding.verdicts_reply import messages_for
    from interplay.nodes.verdicts import JudgeTags

    end = messages_for(PROMPT, TAGS.split(", "))[-1]["content"]
    said = '{"book":"certain","pen":"certain","table":"unlikely","banana":"possible"}'
    chat_models.learned_chat(models / "toy-chat", said, end)
    (models / "captioner").mkdir()
    (models / "captioner" / "config.json").write_text('{"model_type": "blip"}', encoding="utf-8")
    schema = next(i for i in JudgeTags.define_schema().inputs if i.id == "judge")
    assert schema.options[:2] == ["rules", "endpoint"] and schema.options[-1] == "toy-chat"
    with torch.inference_mode():  # as nodes are run
        verdicts, _, status, raw = run("toy-chat")
    assert (status, raw) == ("llm", said)
    assert scores_of(verdicts) == {"book": 2, "pen": 2, "table": 0, "banana": 0.5}
    held = [type(m.model.model.inner).__name__ for m in comfy.model_management.current_loaded_models if _holds(m)]
    assert "Qwen2ForCausalLM" in held
    comfy.model_management.unload_all_models()


def _holds(entry: Any) -> bool:
    return hasattr(getattr(entry.model, "model", None), "inner")


def test_a_missing_chat_model_leaves_it_to_the_rules(models):
    _, _, status, _ = run("Qwen3-4B-Instruct-2507")
    assert status.startswith("rules: The chat model is missing; put the files of huggingface.co/Qwen/Qwen3-4B")


def test_the_cancel_button_ends_the_wait(endpoint):
    import comfy.model_management

    endpoint[0][:] = [(503, "")]
    comfy.model_management.interrupt_current_processing(True)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run("endpoint", retries=8)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert endpoint[1] == []


def test_nothing_of_the_endpoint_is_an_input():
    from interplay.nodes.verdicts import JudgeTags

    names = {i.id for i in JudgeTags.define_schema().inputs}
    assert names == {
        "prompt", "tags", "judge", "hypergraph", "pasted", "timeout", "retries", "strict", "certain", "possible",
        "unlikely",
    }  # fmt: skip


def test_importing_the_node_loads_no_tables():
    code = "import conftest, sys, interplay.nodes.verdicts; print([m in sys.modules for m in ('spacy', 'lemminflect')])"
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[False, False]")


@pytest.mark.server
def test_a_real_server_keeps_the_key_to_itself(endpoint, tmp_path):
    """Two runs, one of which fails strictly: pages, history, workflow, pictures and log are without the key."""
    from comfy_server import ComfyServer

    endpoint[0][:] = [(200, SAID), (401, f"bad key {KEY}")]
    with ComfyServer(comfyui_path(), tmp_path / "base") as server:
        inputs = {"prompt": PROMPT, "tags": TAGS, "judge": "endpoint", "retries": 0}
        show = {"class_type": "PreviewAny", "inputs": {"source": ["1", 2]}}
        good = server.run({"1": {"class_type": "Interplay_JudgeTags", "inputs": inputs}, "2": show})
        strict = {"class_type": "Interplay_JudgeTags", "inputs": {**inputs, "tags": "book", "strict": True}}
        bad = server.run({"1": strict, "2": show})
        shown = [json.dumps(good), json.dumps(bad), server.log, server.read("/object_info").decode()]
        shown.append(server.read("/history").decode())
    assert good["status"]["status_str"] == "success" and "status: llm" in json.dumps(good["outputs"]["1"]["text"])
    assert bad["status"]["status_str"] == "error" and "does not take the key" in json.dumps(bad)
    assert [headers["Authorization"] for headers in endpoint[1]] == [f"Bearer {KEY}"] * 2
    assert not any(KEY in text for text in shown)
    for file in (tmp_path / "base").rglob("*"):
        if file.is_file() and "custom_nodes" not in file.parts:
            assert KEY.encode() not in file.read_bytes()
