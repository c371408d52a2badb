"""The command: what it prints, what it answers to mistakes, and what it imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from corpus import PAPER, gold
from interplay import cli
from interplay.errors import InterplayError
from interplay.guidance import doctor
from interplay.parsing import available_parsers, format_text, parse, parse_with_text
from interplay.parsing.hypergraph import Hypergraph

PROMPT = "A white dog plays with a ginger cat in a forest"
TEXT = "dog: white\ncat: ginger\n@forest\nplays with(dog, cat; @forest)\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_parse_prints_the_text_form(run: Any) -> None:
    assert run("parse", PROMPT) == (0, TEXT, "")


def test_parse_json_is_one_object_of_the_corpus_schema(run: Any) -> None:
    status, out, err = run("parse", "--json", PROMPT)
    assert (status, err, out.count("\n")) == (0, "", 1)
    wanted = next(line for line in gold() if line["prompt"] == PROMPT)
    said = json.loads(out)
    assert {key: said[key] for key in said if key in wanted} == {key: wanted[key] for key in said if key in wanted}
    assert {"prompt", "vertices", "hyperedges", "not_content"} <= said.keys()


def test_parse_jsonl_gives_a_line_for_each_prompt(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    prompts = [*PAPER[:3], "", "zwei\nZeilen 猫", PAPER[0]]
    file.write_text(
        "\ufeff" + "\n\n".join(json.dumps({"id": 1, "prompt": p}) for p in prompts) + "\n", encoding="utf-8"
    )
    status, out, err = run("parse", "--jsonl", str(file))
    assert (status, err) == (0, "")
    graphs = [Hypergraph.from_json(line) for line in out.split("\n")[:-1]]
    assert [g.prompt for g in graphs] == prompts
    assert graphs[0] == graphs[-1] == parse(PAPER[0])


def test_the_text_override_edits_or_replaces(run: Any) -> None:
    assert run("parse", PROMPT, "--text", "-forest")[1] == "dog: white\ncat: ginger\nplays with(dog, cat)\n"
    assert run("parse", PROMPT, "--text", "@forest")[1] == "@forest\n"
    status, out, _ = run("parse", PROMPT, "--text", "@forest", "--hif")
    assert status == 0 and [n["attrs"]["head"] for n in json.loads(out)["nodes"]] == ["forest"]


def test_an_empty_prompt_is_said_to_name_nothing(run: Any) -> None:
    status, out, err = run("parse", "")
    assert (status, out) == (0, "")
    assert "names no thing" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("parse",), "either a prompt or --jsonl"),
        (("parse", "a dog", "--jsonl", "x"), "either a prompt or --jsonl"),
        (("parse", "a dog", "--json", "--hif"), "not allowed with"),
        (("parse", "a dog", "--loud"), "unrecognized arguments: --loud"),
        (("parse", "a dog", "--parser", "klingon"), "no parser 'klingon'; use one of auto, rules"),
        (("parse", "a white dog", "--text", "dgo"), "did you mean 'dog'"),
        (("parse", "a dog", "--text", "{"), "not valid JSON"),
        (("parse", "--jsonl", "/no/such/file"), "cannot be read (no such file or directory)"),
        (("parse", "--jsonl", "."), "cannot be read"),
        (("prase", "a dog"), "no command 'prase'; use one of demo, parse"),
        (("--loud",), "unrecognized arguments"),
    ],
)
def test_a_mistake_gets_one_sentence_and_a_2(run: Any, arguments: tuple[str, ...], complaint: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert complaint.lower() in err.lower()
    assert err.count("\n") == 1 and err.startswith("interplay: ")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"prompt": "a dog"}\n{"prompt": ', "Line 2 of {file} is not JSON"),
        (b'{"prompt": "a dog"}\n\n{"text": "a cat"}', "Line 3 of {file} has no text 'prompt'"),
        (b'["a dog"]', "Line 1 of {file} has no text 'prompt'"),
        (b'{"prompt": "caf\xe9"}', "{file} is not UTF-8 text (byte 15)"),
    ],
)
def test_a_bad_line_is_named(run: Any, tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    status, _, err = run("parse", "--jsonl", str(file))
    assert status == 2
    assert complaint.format(file=file) in err
    assert err.count("\n") == 1


def test_interrupting_is_no_traceback(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from interplay.parsing import command

    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    assert run("parse", "a dog") == (130, "", "interplay: interrupted.\n")


def test_what_a_command_needs_is_named_when_it_is_missing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "demo", ("no_such_library.demo", ""))
    status, _, err = run("demo")
    assert status == 2
    assert "'interplay demo' needs no_such_library" in err


def test_help_and_version_name_the_commands(run: Any) -> None:
    status, out, _ = run()
    assert status == 0 and all(name in out for name in cli.COMMANDS)
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code == 0


def in_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    import os

    start = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest; "
    command = [sys.executable, "-c", start + code, *arguments]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, check=False)


def test_any_prompt_can_be_printed_whatever_the_locale() -> None:
    code = r"from interplay.cli import main; sys.exit(main(['parse', '--json', '\u732b caf\xe9 \udc80 \U0001f431']))"
    done = in_python(code, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("utf-8"))["prompt"] == "猫 café \udc80 🐱"


def test_nothing_heavy_loads_before_it_is_needed() -> None:
    code = (
        "import interplay.cli, interplay.parsing, interplay.parsing.textform, interplay.guidance.graph; "
        "print(sorted({'torch', 'spacy', 'lemminflect', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = in_python(code.replace("import conftest; ", ""))
    loaded = done.stdout.decode().strip()
    # A ComfyUI beside the tests brings torch in through conftest; the parser's own needs must not come.
    assert "spacy" not in loaded and "lemminflect" not in loaded, (loaded, done.stderr)


def test_parse_remembers_and_auto_means_rules() -> None:
    assert parse(PROMPT) is parse(PROMPT, "rules")
    assert available_parsers()[:2] == ("auto", "rules")
    with pytest.raises(InterplayError, match="no parser"):
        parse(PROMPT, "en_core_web_xl")


def test_a_whole_override_needs_no_parser() -> None:
    graph = parse_with_text(PROMPT, TEXT, "no such parser")
    assert format_text(graph) + "\n" == TEXT
    with pytest.raises(InterplayError, match="no parser"):
        parse_with_text(PROMPT, "-dog", "no such parser")


def test_doctor_reports_and_advises(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "ComfyUI"
    (fake / "comfy").mkdir(parents=True)
    (fake / "comfy" / "sd.py").touch()
    (fake / "comfyui_version.py").write_text('__version__ = "0.3.9"\n')
    monkeypatch.setenv("COMFYUI_PATH", str(fake))
    status, out, err = run("doctor")
    assert (status, err) == (0, "")
    lines = out.split("\n")
    assert any(line.startswith("spaCy") and "missing" not in line for line in lines)
    assert any(line.startswith("parsers") and "rules" in line for line in lines)
    at = next(i for i, line in enumerate(lines) if line.startswith("ComfyUI"))
    assert "0.3.9 in" in lines[at] and "0.3.64 or newer" in lines[at + 1]


def test_doctor_finds_what_is_missing_or_broken(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec

    def without_diffusers(name: str, *rest: Any) -> Any:
        return None if name == "diffusers" else real(name, *rest)

    def broken() -> tuple[str, ...]:
        raise OSError("data file is damaged")

    monkeypatch.setattr(importlib.util, "find_spec", without_diffusers)
    monkeypatch.setattr("interplay.parsing.available_parsers", broken)
    monkeypatch.setenv("COMFYUI_PATH", "/nowhere")
    status, out, _ = run("doctor")
    assert status == 0
    found = {f.name: f for f in doctor.findings()}
    assert found["diffusers"].state == "missing" and "interplay[demo]" in found["diffusers"].advice
    assert "data file is damaged" in found["parsers"].state and found["parsers"].advice
    assert found["ComfyUI"].state == "not found" and "/nowhere" in found["ComfyUI"].advice
    assert all(f.advice.endswith(".") for f in found.values() if f.advice)
    assert "-> " in out
