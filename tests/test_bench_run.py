"""Runs of `interplay bench pixelworld` with PixelWorld's own weights, a few steps and a few pictures each."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from interplay import cli
from interplay.errors import InterplayError
from interplay.guidance.bench import methods, runner
from interplay.guidance.bench.counting import Counter, measure_prices
from interplay.guidance.bench.methods import Batch, Drawn, Method
from interplay.guidance.bench.results import read_results, read_settings
from interplay.guidance.bench.runner import Plan, execute
from interplay.guidance.hosts.diffusers.guidance import guided
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
from interplay.guidance.pixelworld import world
from interplay.guidance.pixelworld.detect import judge
from interplay.guidance.presets import PRESETS, preset
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

ALWAYS = {"preset": "SHY", "step": 0.015, "targets": (), "off_switch": False, "end": 0.7}
PROMPTS = world.PROMPT_SETS["actions"](5, 3)


@pytest.fixture(scope="module")
def pipeline():
    return load_pixelworld()


@pytest.fixture(scope="module")
def prices(pipeline):
    return measure_prices(pipeline)


@pytest.fixture(autouse=True)
def one_pipeline(monkeypatch, pipeline, prices):
    """Runs in this process share one pipeline, and draw two pictures at a time."""
    monkeypatch.setattr(runner, "_load", lambda weights: (pipeline, prices))
    monkeypatch.setattr(runner, "BATCH", 2)


def plan(*made: Method, **changes) -> Plan:
    made = made or (methods.known()["plain"], methods.guidance("always", ALWAYS))
    return Plan(**{"methods": made, "sets": ("actions", "one object"), "n": 3, "steps": 3, **changes})


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def without_time(folder: Path) -> list[tuple]:
    return sorted(
        (*row.key, row.all_right, row.quality, row.unet_passes, *row.extra.items()) for row in read_results(folder)
    )


# --- noise ------------------------------------------------------------------------------------------------------------


def test_strength_zero_draws_the_plain_picture(pipeline):
    batch = Batch(tuple(PROMPTS[:2]), (5, 6), steps=4)
    plain = methods.known()["plain"].draw(pipeline, batch)
    for name in ("SHY", "CONFORM"):
        off = methods.guidance("off", {"preset": name, "strength": 0.0}).draw(pipeline, batch)
        assert all(np.array_equal(a.image, b.image) for a, b in zip(plain, off, strict=True))
    on = methods.guidance("on", ALWAYS).draw(pipeline, batch)
    assert not np.array_equal(plain[0].image, on[0].image)
    assert plain[0].image.shape == (128, 128, 3) and plain[0].image.dtype == np.uint8


@pytest.mark.parametrize("name", ["plain", *PRESETS])
def test_every_method_begins_with_the_noise_of_the_seed(pipeline, name):
    """Whatever the method, the batch and the place in it."""
    begun = []

    def look(module, args, kwargs):
        begun.append(args[0].detach().clone())
        raise InterplayError("seen enough")

    handle = pipeline.unet.register_forward_pre_hook(look, with_kwargs=True)
    method = methods.known()[name]
    try:
        for prompts, seeds in ((PROMPTS[:3], (11, 12, 13)), (PROMPTS[1:2], (12,))):
            with pytest.raises(InterplayError, match="seen enough"):
                method.draw(pipeline, Batch(tuple(prompts), seeds, steps=4))
    finally:
        handle.remove()
    own = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(12))
    assert torch.equal(begun[0][1:2], own) and torch.equal(begun[1][:1], own)


# --- going on ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_to_the_same_pictures(tmp_path, monkeypatch):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    execute(straight, plan())
    real, count = runner.append_row, 0

    def interrupted(folder, row):
        nonlocal count
        count += 1
        if count == 4:  # between the two pictures of a batch: one is written, the other is not
            raise KeyboardInterrupt
        real(folder, row)

    monkeypatch.setattr(runner, "append_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(broken, plan())
    assert len(read_results(broken)) == 3 and read_settings(broken)["settings"]["n"] == 3
    monkeypatch.setattr(runner, "append_row", real)
    with (broken / "results.csv").open("r+b") as file:  # and a kill in the middle of the third row
        file.truncate((broken / "results.csv").stat().st_size - 9)
    assert len(read_results(broken)) == 2
    execute(broken, plan())
    assert content(broken) == content(straight) and len(content(straight)) == 12
    assert without_time(broken) == without_time(straight)
    assert not list(broken.rglob("*.part"))


def test_a_finished_run_draws_nothing_and_a_lost_picture_is_drawn_again(tmp_path, monkeypatch):
    small = plan(methods.known()["plain"], sets=("one object",))
    execute(tmp_path, small)
    before, table = content(tmp_path), (tmp_path / "results.csv").read_bytes()
    drawn = []
    real = runner.draw
    monkeypatch.setattr(runner, "draw", lambda *args: drawn.append(args) or real(*args))
    execute(tmp_path, small)
    assert not drawn
    (tmp_path / next(iter(before))).unlink()
    execute(tmp_path, small)
    assert len(drawn) == 1 and content(tmp_path) == before and (tmp_path / "results.csv").read_bytes() == table


def test_methods_may_join_but_settings_may_not_mix(tmp_path):
    plain = methods.known()["plain"]
    execute(tmp_path, plan(plain, n=1, sets=("one object",)))
    before = content(tmp_path)
    execute(tmp_path, plan(methods.guidance("always", ALWAYS), n=1, sets=("one object",)))
    assert read_settings(tmp_path)["methods"] == ["plain", "always"]
    assert content(tmp_path).items() > before.items()
    for other, words in (
        (plan(n=2), "n 1 and cannot take one with 2"),
        (plan(n=1, steps=9), "steps 3 and cannot take one with 9"),
        (plan(n=1, cfg=2.0), "cfg 5.0"),
        (plan(methods.guidance("always", {**ALWAYS, "step": 0.5}), n=1), "the method 'always' at step 0.015"),
    ):
        with pytest.raises(InterplayError, match=words) as caught:
            execute(tmp_path, other)
        assert str(caught.value).count(". ") == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InterplayError, match="not a bench"):
        execute(tmp_path / "other", plan())


@pytest.mark.slow
def test_a_killed_run_of_the_command_goes_on(tmp_path):
    """The command itself, two workers, killed without warning; its workers end with it."""
    options = ["--n", "9", "--steps", "3", "--sets", "one object", "--methods", "plain", "CONFORM"]
    command = [sys.executable, "-m", "interplay", "bench", "pixelworld", *options, "--out"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    subprocess.run([*command, str(straight), "--processes", "1"], check=True, capture_output=True)
    run = subprocess.Popen([*command, str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 300
    while not (broken / "results.csv").is_file() and time.monotonic() < limit:
        time.sleep(0.01)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert 0 < len(read_results(broken)) < 18
    subprocess.run([*command, str(broken)], check=True, capture_output=True)
    assert content(broken) == content(straight)
    assert without_time(broken) == without_time(straight)
    assert not any(Path(f"/proc/{child}/cmdline").is_file() for child in children)


# --- what a row says --------------------------------------------------------------------------------------------------


def test_rows_say_what_the_detector_reads_from_the_files(tmp_path):
    rows = execute(tmp_path, plan(n=2))
    assert len(rows) == 8 and len({row.key for row in rows}) == 8
    for row in rows:
        seen = judge(row.prompt, np.asarray(Image.open(tmp_path / row.file)))
        assert (row.presence, row.binding, row.objects_right) == (seen.presence, seen.binding, seen.objects_right)
        assert (row.action_right, row.all_right, row.mixture) == (seen.action_right, seen.all_right, seen.mixture)
        assert row.quality == pytest.approx(seen.quality, abs=1e-6)
        assert row.value("extra") == seen.extra
        assert row.seconds and row.seconds > 0
    assert {row.action_right for row in rows if row.prompt_set == "one object"} == {None}


def test_the_picture_is_the_one_that_a_user_gets(tmp_path, pipeline):
    row = execute(tmp_path, plan(methods.known()["plain"], n=1, sets=("actions",)))[0]
    generator = torch.Generator().manual_seed(row.seed)
    image = pipeline(row.prompt, generator=generator, num_inference_steps=3, guidance_scale=5.0).images[0]
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(tmp_path / row.file)))


def test_prompts_seeds_and_parts(tmp_path):
    slow = Method("slow", methods.known()["plain"].draw, {}, slow=True)
    made = runner.units(plan(methods.known()["plain"], slow, seeds=2, seed=40, slow_n=1))
    keys = [key for unit in made for key in unit.row_keys()]
    assert len(keys) == len(set(keys)) == 2 * 2 * (3 + 1)
    mine = [(text, seed) for name, group, text, seed in keys if (name, group) == ("plain", "actions")]
    texts = world.PROMPT_SETS["actions"](3, 40)
    assert sorted(mine) == sorted((text, 40 + i + again) for i, text in enumerate(texts) for again in (0, 10_000))


# --- cost -------------------------------------------------------------------------------------------------------------


def test_plain_sampling_costs_two_rows_a_step(tmp_path, prices):
    rows = execute(tmp_path, plan(methods.known()["plain"], n=3, sets=("actions",)))
    assert [row.unet_passes for row in rows] == [6.0] * 3
    assert rows[0].value("flops") == pytest.approx(6 * prices.flops, rel=1e-5)


def test_guidance_passes_are_put_to_the_picture_they_were_made_for(pipeline, prices):
    """Against the guides' own notes; a target between the prompts' losses ends the guidance of only one of them."""

    def sample(target: float):
        one = {"terms": ("C",), "selection": "cycle", "cycle": ("C",), "end": 0.9, "targets": (("C", target),)}
        always = {"early_stop": False, "wake": ()}
        config = preset("SHY", **always, refine_at=(0.0,), refine_iterations=(2,), **one)
        counter = Counter(pipeline, PROMPTS[:2], prices)
        with counter.counting(), guided(pipeline, config, PROMPTS[:2]) as session:
            methods.call(pipeline, Batch(tuple(PROMPTS[:2]), (1, 2), steps=3))
        return counter, session.reports

    _, reports = sample(0.0)
    reached = [report.steps[1].curve["C"][0][0] for report in reports]
    counter, reports = sample(sum(reached) / 2)
    forwards = [report.forwards for report in reports]
    assert counter.forwards == forwards and len(set(forwards)) == 2
    expected = [6 + r.forwards * prices.forward + r.iterations * prices.backward for r in reports]
    assert counter.passes == pytest.approx(expected, rel=1e-6)


class Operations(TorchDispatchMode):
    """Sums the operations of every kernel that is run; FlopCounterMode cannot watch both halves of a gradient."""

    count = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = flop_registry.get(func._overloadpacket)
        self.count += known(*args, **(kwargs or {}), out_val=out) if known else 0
        return out


def test_the_price_of_guidance_is_what_a_counter_of_operations_finds(pipeline, prices):
    """All operations of a guided and of a plain picture, counted from outside."""

    def operations(method: Method) -> tuple[float, float]:
        counter = Counter(pipeline, PROMPTS[:1], prices)
        with Operations() as total, counter.counting():
            method.draw(pipeline, Batch((PROMPTS[0],), (1,), steps=3))
        return total.count, counter.flops[0]

    plain_all, plain_ours = operations(methods.known()["plain"])
    guided_all, guided_ours = operations(methods.guidance("always", ALWAYS))
    assert guided_ours > 1.3 * plain_ours
    assert guided_ours - plain_ours == pytest.approx(guided_all - plain_all, rel=0.01)


# --- methods by name and file -----------------------------------------------------------------------------------------


def test_a_configuration_file_makes_methods(tmp_path):
    path = tmp_path / "methods.json"
    path.write_text(json.dumps({"a": {"step": 0.02, "targets": {"C": 0.2}}, "b": {"kind": "plain", "steps_factor": 2}}))
    made = methods.read_config(path)
    assert list(made) == ["a", "b"]
    assert made["a"].settings["step"] == 0.02 and made["a"].settings["targets"] == (("C", 0.2),)
    assert made["a"].settings["kernel_wide"] == PRESETS["SHY"].kernel_wide
    toml = tmp_path / "methods.toml"
    toml.write_text('[a]\npreset = "CONFORM"\nrefine_at = [0.0]\nrefine_iterations = [2]\n')
    if sys.version_info >= (3, 11):
        assert methods.read_config(toml)["a"].settings["refine_at"] == (0.0,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "methods by name"),
        ('{"a": {"preset": "SHIY"}}', "no guidance preset called 'SHIY'"),
        ('{"a": {"stepp": 1}}', "no guidance setting called 'stepp'"),
        ('{"a": {"step": "far"}}', "'a' cannot be made"),
        ('{"a": {"kind": "plain", "step": 1}}', "no setting 'step'"),
        ('{"a": {"kind": "magic"}}', "kind 'magic'"),
    ],
)
def test_bad_configurations_get_one_sentence(tmp_path, capsys, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content)
    assert cli.main(["bench", "pixelworld", "--out", str(tmp_path / "out"), "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_preset_with_changes_by_name():
    found = methods.named("SHY:step=0.03,terms=(C,),selection='sum',targets=()", {})
    assert found.name == "SHY:step=0.03,terms=(C,),selection='sum',targets=()"
    changed = {"step": 0.03, "terms": ("C",), "selection": "sum", "targets": ()}
    assert {key: found.settings[key] for key in changed} == changed
    with pytest.raises(InterplayError, match="no method 'SHIY'"):
        methods.named("SHIY", {})
    with pytest.raises(InterplayError, match="plain values"):
        methods.named("SHY:step=open('x')", {})


def test_a_method_travels_to_a_worker_as_plain_values(pipeline):
    """What a worker makes of the settings draws the same picture."""
    config = {**ALWAYS, "step": 0.03, "targets": (("C", 0.1),)}
    method = methods.guidance("mine", config)
    batch = Batch((PROMPTS[0],), (1,), steps=3)
    again = methods.make("mine", json.loads(json.dumps(dict(method.settings))))
    assert np.array_equal(method.draw(pipeline, batch)[0].image, again.draw(pipeline, batch)[0].image)


def test_new_kinds_of_methods_hang_in(tmp_path, monkeypatch):
    def first_of_two(name, settings):
        plain = methods.known()["plain"]

        def draw(pipeline, batch):
            once = plain.draw(pipeline, batch)
            plain.draw(pipeline, batch)
            return [Drawn(picture.image, {"moved": "0"}) for picture in once]

        return Method(name, draw, {"kind": "twice", **settings})

    monkeypatch.setitem(methods.KINDS, "twice", first_of_two)
    path = tmp_path / "c.json"
    path.write_text('{"two": {"kind": "twice"}}')
    rows = execute(tmp_path / "out", plan(*methods.read_config(path).values(), n=1, sets=("one object",)))
    assert rows[0].unet_passes == 12.0 and rows[0].extra["moved"] == "0"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_tables_and_writes_the_page(tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--n", "2", "--steps", "3", "--processes", "1", "--sets", "two objects", "--methods", "plain", "CONFORM"]
    assert cli.main(["bench", "pixelworld", "--out", str(out), *options]) == 0
    said = capsys.readouterr()
    assert "| CONFORM − plain |" in said.out and "4 of 4 pictures" in said.err
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["plain", "plain", "CONFORM", "CONFORM"]
    assert (out / "report.html").stat().st_size > 5000
    settings = read_settings(out)
    assert settings["bench"] == "pixelworld" and settings["sets"] == ["two objects"]
    assert len(settings["model"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no benchmark 'nonsense'"),
        (["pixelworld"], "--out"),
        (["pixelworld", "--out", "OUT", "--n", "0"], "--n is 0"),
        (["pixelworld", "--out", "OUT", "--sets", "three objects"], "no prompt set 'three objects'"),
        (["pixelworld", "--out", "OUT", "--methods", "magic"], "no method 'magic'"),
        (["pixelworld", "--out", "OUT", "--weights", "nowhere"], "no PixelWorld weights in nowhere"),
        (["report", "OUT"], "is no bench directory"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    assert cli.main(["bench", *[str(out) if a == "OUT" else a for a in arguments]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()


def test_the_benchmarks_are_listed(capsys):
    assert cli.main(["bench"]) == 0
    listed = capsys.readouterr().out
    assert "pixelworld" in listed and "report" in listed
