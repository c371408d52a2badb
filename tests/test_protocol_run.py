"""The protocols of SHYI and RealignDiff, run on random weights and on PixelWorld: rows, resume, scores, tables."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
import torch
from PIL import Image

pytest.importorskip("diffusers")

from interplay.cli import main
from interplay.errors import InterplayError
from interplay.guidance.bench import protocol_models, protocol_report, protocol_run, results
from interplay.guidance.bench.protocol_command import chosen_sets
from interplay.guidance.bench.results import Row
from interplay.guidance.hosts.diffusers import models
from interplay.guidance.pixelworld.detect import judge
from interplay.guidance.rewards import Reading, Scorer, clip, pixelworld
from interplay.guidance.rewards.answers import questions_of

RANDOM = ("--model", "random-tiny", "--steps", "4", "--limit", "2", "--seeds", "7", "--device", "cpu")
METHODS = ("--methods", "plain", "SHY")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two of the fourteen prompts, drawn plainly and with SHY on random weights, not scored."""
    out = tmp_path_factory.mktemp("bench") / "shyi"
    assert main(["bench", "shyi", "--out", str(out), *RANDOM, *METHODS]) == 0
    return out


def test_every_row_says_which_model_made_it(folder):
    rows = results.read_results(folder)
    assert [(r.prompt, r.method) for r in rows] == [
        (prompt, method)
        for prompt in ("Robot painting canvas in studio", "Cat chasing mouse under tree")
        for method in ("plain", "SHY")
    ]
    for row in rows:
        assert (row.extra["model"], row.extra["weights"], row.seed) == ("random-tiny", "random", 7)
        assert row.presence is row.all_right is None  # PixelWorld's judge has no say here
        with Image.open(folder / row.file) as image:
            assert image.size == (128, 128)
    plain, guided = rows[:2]
    assert plain.unet_passes == 10  # five calls of PNDM's four steps, two rows each
    assert guided.unet_passes > plain.unet_passes
    settings = results.read_settings(folder)
    assert settings["model"]["weights"] == "random" and settings["methods"] == ["plain", "SHY"]


def test_random_weights_are_said_over_everything(folder, capsys):
    assert main(["bench", "shyi", "--out", str(folder), *RANDOM, *METHODS]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("*** RANDOM WEIGHTS: random-tiny was never trained")
    markdown = (folder / "table.md").read_text()
    assert "RANDOM WEIGHTS" in markdown.splitlines()[2]
    page = (folder / "report.html").read_text()
    assert page.index('class="warning"') < page.index("<h1>") < page.index("<table>")
    assert "<script" not in page and "http" not in re.sub(r"arXiv \S+", "", page).split("<body>")[1]


def test_published_numbers_are_labelled_and_ours_are_never_made_up(folder):
    made = protocol_report.report(folder)
    averages = next(t for t in made.tables if t.title == "shyi: averages")
    whose, methods = averages.head.index("whose"), averages.head.index("method")
    for i, cells in enumerate(averages.cells):
        assert (i in averages.theirs) == cells[whose].startswith("published: ")
        if i not in averages.theirs:
            assert cells[whose] == "this run: random-tiny" and cells[methods] in ("plain", "SHY")
            assert set(cells[3:]) == {protocol_report.EMPTY}  # nothing was scored
    assert {averages.cells[i][methods] for i in averages.theirs} == {"CONFORM", "SHYI"}
    other = [t for t in made.tables if t.title.endswith("(not run here)")]
    assert other and all(len(t.theirs) == len(t.cells) for t in other)


def test_a_run_goes_on_where_it_was_ended(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    lines = (copy / "results.csv").read_text().splitlines(keepends=True)
    (copy / "results.csv").write_text("".join(lines[:2]) + lines[2][:25])  # killed while it wrote
    gone = copy / results.read_results(folder)[1].file
    before = gone.read_bytes()
    gone.unlink()
    assert main(["bench", "shyi", "--out", str(copy), *RANDOM, *METHODS]) == 0

    def told(rows: list[Row]) -> list[Row]:
        return [dataclasses.replace(row, seconds=None) for row in rows]

    assert told(results.read_results(copy)) == told(results.read_results(folder))
    assert gone.read_bytes() == before


def test_other_settings_are_refused(folder, capsys):
    changed = [*RANDOM[:3], "3", *RANDOM[4:]]
    assert main(["bench", "shyi", "--out", str(folder), *changed, *METHODS]) == 2
    assert "steps" in capsys.readouterr().err


def test_scores_given_later_are_read_from_the_pictures(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    model = tiny.clip(tmp_path / "clip")
    more = ("--methods", "plain", "SHY", "CONFORM")
    assert main(["bench", "shyi", "--out", str(copy), *RANDOM, *more, "--clip", str(model)]) == 0
    scorer, rows = clip.clip_scorer(str(model)), results.read_results(copy)
    assert len(rows) == 6 and rows[:4] == [dataclasses.replace(r, extra=rows[i].extra) for i, r in enumerate(rows[:4])]
    for row in rows:
        with Image.open(copy / row.file) as image:
            reading = scorer.score([image], [row.prompt])[0]
        assert row.value("clip") == pytest.approx(reading.value, abs=1e-5)
        assert row.value("clip_hessel") == pytest.approx(reading.parts["hessel"], abs=1e-5)
    averages = next(t for t in protocol_report.report(copy).tables if t.title == "shyi: averages")
    line = next(cells for cells in averages.cells if cells[:2] == ("CONFORM", "this run: random-tiny"))
    mean = np.mean([row.value("clip") for row in rows if row.method == "CONFORM"])
    assert line[averages.head.index("CLIP (cosine)")].startswith(f"{mean:.3f} [")


def test_pixelworld_is_judged_and_said_to_be_pixelworld(tmp_path, capsys):
    out = tmp_path / "pw"
    shown = ["--limit", "1", "--seeds", "3", "--steps", "3", "--methods", "plain"]
    assert main(["bench", "realign", "--out", str(out), *shown]) == 0
    assert capsys.readouterr().out.startswith("*** PIXELWORLD: made by the small model")
    (row,) = results.read_results(out)
    assert row.extra["weights"] == "pixelworld"
    image = Image.open(out / row.file)
    verdict = judge(row.prompt, np.asarray(image))
    assert (row.presence, row.all_right) == (verdict.presence, verdict.all_right)
    asked = questions_of(row.prompt)
    found = pixelworld.answers(image, asked)
    right = [a == q.answer for a, q in zip(found, asked, strict=True)]
    assert row.value("tifa_all") == pytest.approx(sum(right) / len(right), abs=1e-5)
    assert "cannot be compared with the published numbers" in (out / "report.html").read_text()


# --- tables from rows that are known ----------------------------------------------------------------------------------


@pytest.fixture
def known(tmp_path) -> Path:
    """A bench directory whose scores are written by hand."""
    out = tmp_path / "known"
    settings = {
        "bench": "realign",
        "interplay": "0",
        "model": {"name": "my-sd15", "sha256": "ab" * 32, "weights": "folder"},
        "settings": {"steps": 50, "cfg": 7.5, "sampler": "x", "size": None},
        "methods": ["plain", "SHY"],
        "sets": ["MS-COCO"],
        "method_settings": {},
    }
    results.write_settings(out, settings)
    for i, (clip_, tifa) in enumerate([(0.25, 1.0), (0.35, 0.5)]):
        for method, more in (("plain", 0.0), ("SHY", 0.1)):
            extra = {"file": "", "model": "my-sd15", "clip": str(clip_ + more), "tifa": str(tifa), "tifa_said": "a | b"}
            results.append_row(out, Row(method, "MS-COCO", f"prompt <{i}>", 42, extra=extra))
    return out


def test_our_lines_stand_under_theirs_in_the_papers_form(known):
    made = protocol_report.report(known)
    assert made.warning == ""
    table = next(t for t in made.tables if t.title == "MS-COCO: Table I")
    assert table.head[3:6] == ("FID", "CLIP (cosine)", "TIFA-style")
    ours = [cells for i, cells in enumerate(table.cells) if i not in table.theirs]
    assert [c[:3] for c in ours] == [("plain", "this run: my-sd15", "2"), ("SHY", "this run: my-sd15", "2")]
    assert [c[3] for c in ours] == ["–", "–"] and any("FID is not measured" in note for note in table.notes)
    assert ours[0][4].startswith("0.300 [0.250, 0.350]") and ours[1][4].startswith("0.400 [")
    assert ours[0][5].startswith("0.750 [")
    theirs = {cells[0]: cells for i, cells in enumerate(table.cells) if i in table.theirs}
    assert theirs["RealignDiff"][3:6] == ("6.962", "0.377", "0.890") and len(theirs) == 9
    assert theirs["RealignDiff"][1] == "published: RealignDiff (arXiv 2305.19599), Table I"


def test_methods_are_held_against_plain_sampling_pair_by_pair(known):
    table = next(t for t in protocol_report.report(known).tables if t.title == "MS-COCO: less plain sampling")
    assert table.head == ("method", "pairs", "TIFA-style", "CLIP (cosine)")
    assert table.cells == (("SHY", "2", "0.000 [0.000, 0.000]", "+0.100 [+0.100, +0.100]"),)


def test_each_picture_has_its_line_and_the_page_escapes_it(known):
    made = protocol_report.write(known)
    table = next(t for t in made.tables if t.title == "MS-COCO: each picture")
    assert table.head == ("prompt", "seed", "plain", "SHY")
    assert table.cells[0] == (
        "prompt <0>",
        "42",
        "TIFA-style 1.000, CLIP (cosine) 0.250",
        "TIFA-style 1.000, CLIP (cosine) 0.350",
    )
    page = (known / "report.html").read_text()
    assert "prompt &lt;0&gt;" in page and "prompt <0>" not in page
    assert page.count('<tr class="theirs">') == sum(len(t.theirs) for t in made.tables)
    lines = (known / "table.md").read_text().splitlines()
    start = lines.index("## MS-COCO: Table I") + 2
    assert len({line.count("|") for line in lines[start : start + 13]}) == 1


def test_black_pictures_are_not_scored_but_told(known):
    scorer = Scorer("clip", "", (), lambda images, prompts: [Reading(0.9) for _ in images])
    row = Row("plain", "MS-COCO", "a cat", 1, extra={"blank": "1"})
    assert protocol_run.scored(row, np.zeros((8, 8, 3), np.uint8), [scorer]) == row
    assert protocol_run.scored(row, np.ones((8, 8, 3), np.uint8), [scorer]).value("clip") == 0.9
    rows = [dataclasses.replace(r, extra={**r.extra, "blank": "1"}) for r in results.read_results(known)]
    (known / "results.csv").unlink()
    for row in rows:
        results.append_row(known, row)
    table = next(t for t in protocol_report.report(known).tables if t.title == "MS-COCO: Table I")
    assert any(note.startswith("4 pictures are black") for note in table.notes)


def test_the_report_can_be_made_anew(known, capsys):
    assert main(["bench", "report", str(known)]) == 0
    assert "published: RealignDiff (arXiv 2305.19599), Table I" in capsys.readouterr().out
    assert (known / "report.html").is_file()


def test_the_gallery_begins_where_methods_differ(known):
    for i, method, value in ((0, "plain", 0.1), (0, "SHY", 0.2), (1, "plain", 0.1), (1, "SHY", 0.9)):
        results.append_row(known, Row(method, "x", f"new {i}", 1, extra={"clip": str(value), "model": "m"}))
    page = protocol_report.page(known, protocol_report.report(known))
    gallery = page[page.index("<h2>Pictures</h2>") :]
    assert gallery.index("new 1") < gallery.index("prompt &lt;0&gt;")  # differ by .8, and by .1


# --- models and doors -------------------------------------------------------------------------------------------------


def test_random_models_are_the_same_every_time_and_have_sd15s_layers():
    before = torch.random.get_rng_state()
    one, two = (models.random_pipeline("random-tiny") for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(one.unet.parameters(), two.unet.parameters(), strict=True):
        assert torch.equal(a, b)
    attention = [n for n, _ in one.unet.named_modules() if n.endswith("attn2")]
    assert len(attention) == 16  # as many cross-attentions as Stable Diffusion 1.x


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shyi", "--model", "nowhere"], "There is no model 'nowhere'; give the folder of a diffusers pipeline"),
        (["shyi", "--sets", "none"], "There is no prompt set 'none'"),
        (["shyi", "--limit", "0"], "--limit is 0"),
        (["shyi", "--size", "100"], "--size is 100"),
        (["shyi", "--seeds", "1", "1"], "named twice"),
        (["shyi", "--methods", "nothing"], "There is no method 'nothing'"),
        (["shyi", "--clip", "nowhere"], "There is no model for the CLIP score in nowhere"),
        (["shyi", "--methods", "SHYI"], "InteractDiffusion"),
        (["shyi", "--model", "random-tiny", "--device", "gpu9"], "The device 'gpu9' cannot be used"),
        (["realign", "--methods", "coarse"], "--coarse FOLDER"),
    ],
)
def test_mistakes_get_one_sentence_and_write_nothing(tmp_path, capsys, arguments, said):
    out = tmp_path / "out"
    assert main(["bench", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not out.exists()


def test_a_folder_without_a_pipeline_says_what_to_put_there(tmp_path):
    with pytest.raises(InterplayError, match=r"no model_index\.json.*stable-diffusion-v1-5"):
        models.open_folder(tmp_path, torch.float32, "cpu")


def test_a_pipeline_of_a_folder_draws_as_the_one_that_was_saved(tmp_path):
    models.random_pipeline("random-tiny").save_pretrained(tmp_path / "sd")
    model = protocol_models.find_model(str(tmp_path / "sd"), "cpu")
    assert model.banner == "" and model.name == "sd" and (model.steps, model.cfg) == (50, 7.5)
    again = protocol_models.find_model(str(tmp_path / "sd"), "cpu")
    assert model.sha256 == again.sha256
    options = {"num_inference_steps": 2, "output_type": "np"}
    images = [
        pipeline("a cat", generator=torch.Generator().manual_seed(1), **options).images
        for pipeline in (model.load(), models.random_pipeline("random-tiny"))
    ]
    assert np.array_equal(*images)
    weights = next((tmp_path / "sd" / "unet").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert protocol_models.find_model(str(tmp_path / "sd"), "cpu").sha256 != model.sha256


def test_the_coarse_stage_is_the_model_on_its_own_unet(tmp_path):
    """With the very U-Net the picture is plain sampling's; with another it is not."""
    models.random_pipeline("random-tiny").unet.save_pretrained(tmp_path / "same")
    models.random_pipeline("random-tiny", seed=1).unet.save_pretrained(tmp_path / "other")
    out = {}
    for name in ("same", "other"):
        folder = tmp_path / f"run-{name}"
        shown = [*RANDOM, "--limit", "1", "--methods", "plain", "coarse", "--coarse", str(tmp_path / name)]
        assert main(["bench", "realign", "--out", str(folder), *shown]) == 0
        out[name] = [(folder / row.file).read_bytes() for row in results.read_results(folder)]
    assert out["same"][0] == out["same"][1] == out["other"][0] != out["other"][1]


def test_sets_are_named_or_read_from_files(tmp_path):
    path = tmp_path / "coco.txt"
    path.write_text("a cat\na dog\na bird\n")
    known = {"a": ["1", "2"]}
    assert chosen_sets(None, known, ("a",), 1) == {"a": ["1"]}
    assert chosen_sets([f"MS-COCO={path}", "a"], known, (), 2) == {"MS-COCO": ["a cat", "a dog"], "a": ["1", "2"]}


def test_shyi_is_left_out_with_a_sentence_where_it_cannot_be_had(tmp_path, caplog):
    from interplay.guidance.bench import shyi

    assert shyi._method("SHYI", {}, asked=False, interact=None) is None
    assert "'SHYI' is left out: it needs InteractDiffusion's U-Net" in caplog.text
    with pytest.raises(InterplayError, match="--interact PATH"):
        shyi._method("SHYI", {}, asked=True, interact=None)
    with pytest.raises(InterplayError, match="There is no InteractDiffusion U-Net at"):
        shyi._method("SHYI", {}, asked=False, interact=tmp_path / "none")


def test_bench_json_is_plain_json(folder):
    assert json.loads((folder / "bench.json").read_text())["bench"] == "shyi"
