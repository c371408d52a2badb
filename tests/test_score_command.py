"""``interplay score``: evaluations on folders laid out as their makers do, and tables of scores."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
from interplay.cli import main
from interplay.errors import InterplayError
from interplay.guidance.rewards.evaluate import Item, retrieval, score_item, tally, winoground
from interplay.guidance.rewards.evaluate_folders import read_items
from interplay.guidance.rewards.score import evaluate, score_rows, write_table
from interplay.guidance.rewards.scorer import Reading, Scorer
from PIL import Image

SHADES = {"black": 0, "dark": 60, "grey": 128, "pale": 200, "white": 255}


def shade_scorer() -> Scorer:
    """Knows shades: the score is how near the picture's mean is to the shade that the text names last."""

    def measure(images, texts):
        wanted = [SHADES[text.split()[-1]] for text in texts]
        return [
            Reading(-abs(float(np.asarray(i).mean()) - w), {"mean": float(np.asarray(i).mean())})
            for i, w in zip(images, wanted, strict=True)
        ]

    return Scorer("shade", "nothing", ("mean",), measure)


def paint(path: Path, shade: str, size: tuple[int, int] = (8, 8)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (SHADES[shade],) * 3).save(path)
    return path.name


def test_winoground_needs_every_comparison_and_ties_lose():
    assert winoground([[2, 1], [1, 2]]) == {"text": True, "image": True, "group": True}
    assert winoground([[5, 6], [1, 7]]) == {"text": True, "image": False, "group": False}  # picture 1 wins under both
    assert winoground([[5, 1], [6, 7]]) == {"text": False, "image": True, "group": False}
    assert winoground([[1, 1], [1, 1]]) == {"text": False, "image": False, "group": False}


def test_retrieval_counts_ranks_and_ties_lose():
    assert retrieval([0.1, 0.9, 0.3], 1) and not retrieval([0.1, 0.9, 0.3], 2)
    assert retrieval([0.1, 0.9, 0.3], 2, depth=2) and not retrieval([0.5, 0.5], 0)
    assert not retrieval([math.nan, 0.0], 0) and not retrieval([1.0, math.nan], 0)


def test_chance_levels_are_what_guessing_gets():
    rng = np.random.default_rng(0)
    items = [Item((Path("a"), Path("b")), ("x", "y"))] * 6000
    guesses = {r.metric: r for r in tally("winoground", items, rng.random((6000, 2, 2)).tolist())}
    for result in guesses.values():
        assert result.share == pytest.approx(result.chance, abs=0.02) and result.low < result.share < result.high
    sets = [Item((Path("a"),) * 10, ("x",), 3)] * 4000
    for result in tally("imagecode", sets, rng.random((4000, 1, 10)).tolist()):
        assert result.share == pytest.approx(result.chance, abs=0.025)
    options = [Item((Path("a"),), ("r", "w", "v", "u", "t"))] * 4000
    (accuracy,) = tally("aro", options, rng.random((4000, 5, 1)).tolist())
    assert accuracy.chance == pytest.approx(0.2) and accuracy.share == pytest.approx(0.2, abs=0.025)


def test_intervals_are_those_of_wilson_for_the_published_size():
    """400 items at 33 %: 4.6 points to either side (facts of the data set's size)."""
    items = [Item((Path("a"), Path("b")), ("x", "y"))] * 400
    tables = [[[2, 1], [1, 2]]] * 132 + [[[1, 1], [1, 1]]] * 268
    text = tally("winoground", items, tables)[0]
    assert text.share == 0.33 and (text.high - text.low) / 2 == pytest.approx(0.046, abs=0.001)


def test_winoground_folder(tmp_path):
    rows = []
    for i, (a, b) in enumerate((("black", "white"), ("dark", "pale"), ("grey", "grey"))):
        for j, shade in enumerate((a, b)):
            paint(tmp_path / "images" / f"ex_{i}_img_{j}.png", shade)
        texts = {"caption_0": f"a {a}", "caption_1": f"a {b}"}
        pictures = {f"image_{j}": f"ex_{i}_img_{j}" for j in (0, 1)}
        rows.append({"id": i, **pictures, **texts, "collapsed_tag": "ab"[i % 2]})
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = evaluate(shade_scorer(), "winoground", tmp_path)
    whole = {r.metric: r.share for r in found if not r.kind}
    assert whole == {"text": pytest.approx(2 / 3), "image": pytest.approx(2 / 3), "group": pytest.approx(2 / 3)}
    assert [(r.kind, r.count) for r in found if r.metric == "text"] == [("", 3), ("a", 2), ("b", 1)]


def test_imagecode_folder_counts_pictures_by_number_not_by_name(tmp_path):
    shades = ["black", "dark", "grey", "pale", "white"]
    for i in range(10):
        paint(tmp_path / "image-sets" / "open-images-1" / f"img{i}.jpg", shades[i % 5])
        paint(tmp_path / "image-sets" / "video-1" / f"img{i + 1}.jpg", "grey")
    for i in (3, 4, 5, 6, 7, 8, 9):
        paint(tmp_path / "image-sets" / "open-images-1" / f"img{i}.jpg", "black")
    data = {"open-images-1": {"2": "a grey", "1": "a dark"}, "video-1": {"9": "a grey"}}
    (tmp_path / "valid_data.json").write_text(json.dumps(data))
    items = read_items("imagecode", tmp_path)
    assert [p.name for p in items[2].pictures][-2:] == ["img9.jpg", "img10.jpg"] and items[2].answer == 9
    found = {(r.metric, r.kind): r for r in evaluate(shade_scorer(), "imagecode", tmp_path)}
    assert found["R@1", "static"].share == 1.0 and found["R@1", "video"].share == 0.0
    assert found["R@1", ""].chance == pytest.approx(0.1) and found["R@5", ""].chance == pytest.approx(0.5)


def test_aro_folder_with_boxes_and_options(tmp_path):
    canvas = Image.new("RGB", (20, 10), (0, 0, 0))
    canvas.paste((255, 255, 255), (10, 0, 20, 10))
    (tmp_path / "images").mkdir()
    canvas.save(tmp_path / "images" / "1.png")
    box = {"bbox_x": 10, "bbox_y": 0, "bbox_w": 10, "bbox_h": 10}
    relation = [{"image_path": "1.png", "true_caption": "a white", "false_caption": "a grey", **box}]
    order = [{"image": "1.png", "caption_options": ["a grey", "a white", "a black", "a pale", "a dark"]}]
    (tmp_path / "visual_genome_relation.json").write_text(json.dumps(relation))
    (tmp_path / "coco_order.json").write_text(json.dumps(order))
    found = {r.kind: r for r in evaluate(shade_scorer(), "aro", tmp_path)}
    assert found["visual_genome_relation"].share == 1.0 and found["visual_genome_relation"].chance == 0.5
    assert found["coco_order"].share == 1.0 and found["coco_order"].chance == 0.2
    assert found[""].chance == pytest.approx(0.35)


def test_scores_of_an_item_stand_text_by_picture():
    pictures = [Image.new("RGB", (4, 4), (SHADES[s],) * 3) for s in ("black", "white")]
    table = score_item(shade_scorer(), Item((Path("a"), Path("b")), ("a black", "a pale")), pictures)
    assert table == [[0.0, -255.0], [-200.0, -55.0]]


def test_tables_keep_the_order_and_rank_within_a_prompt(tmp_path):
    names = [paint(tmp_path / f"{i}.png", shade) for i, shade in enumerate(("white", "black", "grey", "dark"))]
    prompts = ["a black", "a white", "a black", "a black"]
    rows = [(tmp_path / n, p) for n, p in zip(names, prompts, strict=True)]
    scorer, out = shade_scorer(), tmp_path / "out.csv"
    readings = score_rows(scorer, rows)
    with out.open("w", newline="") as file:
        write_table(file, [scorer], rows, {"shade": readings})
    table = list(csv.DictReader(out.open()))
    assert [row["rank"] for row in table] == ["3", "1", "2", "1"]
    assert [float(row["shade"]) for row in table] == [-255.0, -255.0, -128.0, -60.0]
    assert [row["image"] for row in table] == names and float(table[2]["shade_mean"]) == 128.0


def test_the_command_scores_a_folder_with_pixelworld(tmp_path, capsys):
    pytest.importorskip("diffusers")
    from interplay.guidance.pixelworld.render import enlarge, render
    from interplay.guidance.pixelworld.world import Scene, Thing

    right = Scene(Thing("robot", "red"), "forest", "carrying", Thing("box", "blue"), x=4)
    wrong = Scene(Thing("cat", "green"), "desert", x=4)
    for name, scene in (("right", right), ("wrong", wrong)):
        Image.fromarray(enlarge(render(scene)[0])).save(tmp_path / f"{name}.png")
    prompt = "a red robot carrying a blue box in the forest"
    lines = [{"image": f"{name}.png", "prompt": prompt} for name in ("wrong", "right")]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "scores.csv"
    assert main(["score", str(tmp_path), "--diffusion-itm", "pixelworld", "--levels", "4", "--out", str(out)]) == 0
    wrong_row, right_row = csv.DictReader(out.open())
    assert (right_row["rank"], wrong_row["rank"]) == ("1", "2")
    assert float(right_row["diffusion_itm"]) > float(wrong_row["diffusion_itm"])
    assert float(right_row["diffusion_itm_error"]) > 0 and right_row["diffusion_itm_margin"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--prompt", "a cat"], "Name what to score with"),
        (["--diffusion-itm", "nowhere"], "no diffusers pipeline in nowhere"),
        (["--eval", "winoground", "--prompt", "a cat"], "not allowed with"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, capsys, arguments, complaint):
    pytest.importorskip("diffusers")
    assert main(["score", str(tmp_path), *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_missing_and_broken_data_is_named(tmp_path):
    for task, missing in (("winoground", "examples.jsonl"), ("imagecode", "valid_data.json"), ("aro", ".json")):
        with pytest.raises(InterplayError, match=missing):
            read_items(task, tmp_path)
    (tmp_path / "examples.jsonl").write_text('{"image_0": "x", "image_1": "y"}')
    with pytest.raises(InterplayError, match="picture 'x' is missing"):
        read_items("winoground", tmp_path)
    paint(tmp_path / "x.png", "black"), paint(tmp_path / "y.png", "black")
    with pytest.raises(InterplayError, match="not as expected"):
        read_items("winoground", tmp_path)


def test_captions_and_matches_of_pixelworld_need_no_folder(tmp_path, capsys):
    from random import Random

    from interplay.guidance.pixelworld.render import enlarge, render
    from interplay.guidance.pixelworld.world import caption, sample_scene

    scenes = [sample_scene(Random(i), "action", adorned=False) for i in (1, 2)]
    for i, scene in enumerate(scenes):
        Image.fromarray(enlarge(render(scene)[0])).save(tmp_path / f"{i}.png")
    own = ["--captioner", "pixelworld", "--caption-encoder", "pixelworld", "--itm", "pixelworld"]
    assert main(["score", str(tmp_path), "--prompt", caption(scenes[1]), *own, "--tifa", "pixelworld"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert float(rows[1]["caption"]) > float(rows[0]["caption"]) and float(rows[1]["itc"]) > float(rows[0]["itc"])
    assert float(rows[1]["tifa_all"]) == 1.0 > float(rows[0]["tifa_all"])
    assert main(["score", str(tmp_path), "--prompt", "a cat", *own[:2], "--caption-encoder", str(tmp_path)]) == 2
    assert "name 'pixelworld' for both" in capsys.readouterr().err
