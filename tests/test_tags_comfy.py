"""Tag Image as a node: every kind of tagger, batches, the host's memory management, and a server."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import comfyui_path

pytestmark = pytest.mark.comfy
torch = pytest.importorskip("torch")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/rams and models/interplay in a folder of the test's own."""
    import folder_paths
    from interplay.guidance.hosts.comfyui import perception_tags, scores

    monkeypatch.setattr(scores, "_open", type(scores._open)())
    for name in (perception_tags.RAMS, scores.FOLDER):
        (tmp_path / name).mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(tmp_path / name)], set()))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    return tmp_path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Files of small size count as published ones."""
    import ram_worlds
    from interplay.guidance.grounding import ram_files

    for kind, shape in ram_worlds.WHOLE.items():
        monkeypatch.setitem(ram_files.SHAPES, kind, shape)
    return ram_worlds.WHOLE


def run(image: Any, tagger: str = "PixelWorld", **inputs: Any) -> tuple[list[str], dict[str, Any], list[str]]:
    from interplay.nodes.tags import TagImage

    given = {"threshold": 0.0, "keep": "all", "leave_out": "", "caption": True, **inputs}
    with torch.inference_mode():  # as nodes are run
        tags, text, captions = TagImage.execute(image, tagger, **given).args
    return tags, json.loads(text), captions


def pictures(count: int = 3, seed: int = 0) -> Any:
    return torch.rand(count, 40, 56, 3, generator=torch.Generator().manual_seed(seed))


def pixelworld(count: int = 2) -> tuple[Any, list[Any]]:
    from interplay.guidance.pixelworld.render import render
    from interplay.guidance.pixelworld.world import sample_scene

    scenes = [sample_scene(random.Random(seed), "two") for seed in range(count)]
    art = [torch.from_numpy(np.array(render(scene)[0], dtype=np.float32) / 255) for scene in scenes]
    return torch.stack([a.repeat_interleave(128 // len(a), 0).repeat_interleave(128 // len(a), 1) for a in art]), scenes


def held() -> list[str]:
    import comfy.model_management

    loaded = [getattr(entry.model, "model", None) for entry in comfy.model_management.current_loaded_models]
    return [type(model.inner).__name__ for model in loaded if hasattr(model, "inner")]


# --- PixelWorld -------------------------------------------------------------------------------------------------------


def test_a_batch_of_pixelworld_is_tagged_picture_by_picture() -> None:
    image, scenes = pixelworld(3)
    tags, told, captions = run(image)
    assert told["tagger"] == "PixelWorld" and len(tags) == len(told["pictures"]) == len(captions) == 3
    for scene, text, picture, caption in zip(scenes, tags, told["pictures"], captions, strict=True):
        names = {*(thing.object for thing in scene.things), scene.environment}
        assert set(text.split(", ")) == names == {tag["name"] for tag in picture["tags"]}
        assert picture["caption"] == caption and caption.endswith(f"in the {scene.environment}")
    things = [thing.object for thing in scenes[0].things]
    assert set(run(image, keep="things")[0][0].split(", ")) == set(things)
    assert things[0] not in run(image, leave_out=f"x, {things[0].upper()}")[0][0]
    assert run(image, caption=False)[2] == [""] * 3
    assert run(image, threshold=1.0)[0] == [""] * 3
    alpha = torch.cat([image, torch.rand(3, 128, 128, 1)], -1)
    assert run(alpha)[0] == tags


def test_tags_go_on_to_the_next_nodes() -> None:
    """What Judge Tags and Ground Objects read of it."""
    from interplay.guidance.grounding.objects_text import read_tags
    from interplay.guidance.grounding.tags import from_json
    from interplay.nodes.verdicts import JudgeTags

    image, scenes = pixelworld(2)
    tags, told, _ = run(image)
    assert [set(names) for names in read_tags(json.dumps(told), 2)] == [set(text.split(", ")) for text in tags]
    assert [picture.text() for picture in from_json(json.dumps(told))] == tags
    prompt = f"a {scenes[0].things[0].object} and a zebra"
    judged = json.loads(JudgeTags.execute([prompt], tags[:1], ["rules"]).args[0])
    verdicts = {item["tag"]: item["score"] for item in judged["verdicts"]}
    assert set(verdicts) == set(tags[0].split(", ")) and verdicts[scenes[0].things[0].object] == 2


# --- RAM and its kin --------------------------------------------------------------------------------------------------


def pillows(image: Any) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(art) for art in (image * 255).round().to(torch.uint8).numpy()]


def spread(model: Any, image: Any) -> Any:
    """The model with such a last layer that the first picture's scores lie on both sides of the thresholds."""
    from interplay.guidance.grounding import ram

    logits = model(ram.prepare(pillows(image[:1]), 64))
    mean, times = logits.mean(), 2.0 / logits.std()
    weight, bias = (model.fc.W, model.fc.b) if hasattr(model.fc, "W") else (model.fc.weight, model.fc.bias)
    weight.mul_(times)
    bias.sub_(mean).mul_(times)
    return model


@pytest.mark.parametrize("tagger, kind", [("RAM", "ram"), ("RAM++", "ram_plus"), ("Tag2Text", "tag2text")])
def test_published_files_tag_by_the_published_thresholds(tagger: str, kind: str, models: Path, small: Any) -> None:
    import ram_worlds
    from interplay.guidance.grounding import ram
    from interplay.guidance.grounding.tags import tag_list
    from interplay.guidance.hosts.comfyui.perception_tags import RAM_FILES

    image = (pictures(5) * 255).round() / 255
    model = spread(ram_worlds.model(small[kind]), image)
    path = models / "rams" / f"{RAM_FILES[tagger][0]}.pth"
    ram_worlds.write(path, ram_worlds.published(model))
    tags, told, captions = run(image, tagger)
    classes = tag_list("tag2text" if kind == "tag2text" else "ram")
    model.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
    scores = torch.sigmoid(model(ram.prepare(pillows(image), 64)))
    counts = list[int]()
    for row, text, picture in zip(scores.tolist(), tags, told["pictures"], strict=True):
        never = ("quarter", "back", "two", "three", "four", "five", "one") if kind == "tag2text" else ()
        classified = [c for c in zip(classes.names, row, classes.thresholds, strict=True) if c[0] not in never]
        sure = {name.lower() for name, score, limit in classified if score > limit + 1e-3}
        maybe = {name.lower() for name, score, limit in classified if abs(score - limit) <= 1e-3}
        found = {tag["name"]: tag["score"] for tag in picture["tags"]}
        assert sure <= set(found) <= sure | maybe
        counts.append(len(sure))
        best = {name.lower(): score for name, score, _ in sorted(classified, key=lambda c: c[1])}
        assert all(score == pytest.approx(best[name], abs=2e-3) for name, score in found.items())
        assert text == ", ".join(tag["name"] for tag in picture["tags"])
    assert 100 < counts[0] < 3000
    assert all(captions) == (kind == "tag2text") and any(captions) == (kind == "tag2text")
    assert path.with_name(path.stem + ".fp16.safetensors").is_file()
    assert type(model).__name__ in held()
    higher = run(image, tagger, threshold=0.95, caption=False)[1]["pictures"]
    assert all(tag["score"] >= 0.95 for picture in higher for tag in picture["tags"])
    path.unlink()  # the conversion is enough
    assert run(image, tagger)[0] == tags


def test_a_missing_model_is_one_sentence_that_says_what_goes_where(models: Path) -> None:
    from interplay.errors import InterplayError

    for tagger, name, folder in (
        ("RAM", "ram_swin_large_14m.pth", "rams"),
        ("RAM++", "ram_plus_swin_large_14m.pth", "rams"),
        ("Tag2Text", "tag2text_swin_14m.pth", "rams"),
        ("Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", "interplay"),
        ("gone.pth", "gone.pth", "rams"),
    ):
        with pytest.raises(InterplayError) as error:
            run(pictures(1), tagger)
        said = str(error.value)
        assert name in said and str(models / folder) in said and said.count(". ") == 0 and said.endswith(".")


def test_a_file_under_another_name_is_offered_and_told_by_its_content(models: Path, small: Any) -> None:
    import ram_worlds
    from interplay.errors import InterplayError
    from interplay.guidance.hosts.comfyui.perception_tags import taggers

    path = models / "rams" / "my_tagger.pth"
    ram_worlds.write(path, ram_worlds.published(ram_worlds.model(small["ram"])))
    assert taggers()[:4] == ["PixelWorld", "RAM++", "RAM", "Tag2Text"]
    assert "my_tagger.pth" in taggers()
    assert run(pictures(1), "my_tagger.pth")[1]["tagger"] == "my_tagger.pth"
    assert "my_tagger.fp16.safetensors" not in taggers()  # the same one again
    (models / "rams" / "other.pth").write_bytes(b"nothing")
    with pytest.raises(InterplayError, match=r"'other.pth' cannot be read"):
        run(pictures(1), "other.pth")


# --- models of transformers -------------------------------------------------------------------------------------------


def test_a_chat_model_that_sees_tags_under_the_hosts_memory_management(models: Path) -> None:
    import tags_models
    from interplay.errors import InterplayError
    from interplay.guidance.hosts.comfyui.perception_tags import taggers

    tags_models.vlm(models / "interplay" / "toy-vlm")
    (models / "interplay" / "words").mkdir()
    (models / "interplay" / "words" / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    assert "toy-vlm" in taggers() and "words" not in taggers()
    image = torch.stack([torch.zeros(16, 16, 3), torch.ones(16, 16, 3), torch.zeros(16, 16, 3)])
    tags, told, captions = run(image, "toy-vlm")
    assert [set(text.split(", ")) for text in tags] == [{"cat", "black box"}, {"dog"}, {"cat", "black box"}]
    assert captions == ["A cat.", "", "A cat."]
    assert all(0.8 < tag["score"] <= 1 for picture in told["pictures"] for tag in picture["tags"])
    assert "LlavaForConditionalGeneration" in held()
    with pytest.raises(InterplayError, match="words does not see pictures"):
        run(image, "words")


def test_florence_tags_under_the_hosts_memory_management(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import objects_models
    from interplay.guidance.grounding import tags_florence
    from interplay.guidance.grounding.detectors_florence import Florence2
    from interplay.guidance.grounding.detectors_loading import to_pillow
    from interplay.guidance.hosts.comfyui.perception_tags import taggers

    monkeypatch.setattr(tags_florence, "LONGEST", 40)  # random weights seldom end by themselves
    folder = objects_models.florence(models / "interplay" / "Florence-2-base", seed=3)
    objects_models.florence(models / "interplay" / "my-florence")
    assert "Florence-2-base" in taggers() and "my-florence" in taggers()
    image = pictures(2)
    _, told, captions = run(image, "Florence-2-base")
    alone = Florence2.open(folder, torch.float32)
    for picture, found, caption in zip(image, told["pictures"], captions, strict=True):
        expected = tags_florence.look(alone, to_pillow(picture), "cpu")
        assert caption == found["caption"] == expected.caption != ""
        assert [tag["name"] for tag in found["tags"]] == list(expected.names())
    assert "Florence2ForConditionalGeneration" in held()


def test_the_cancel_button_ends_it() -> None:
    import comfy.model_management

    comfy.model_management.interrupt_current_processing(True)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(pixelworld(1)[0])
    finally:
        comfy.model_management.interrupt_current_processing(False)


# --- a server ---------------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_a_real_server_tags_what_it_drew(tmp_path: Path) -> None:
    from comfy_server import ComfyServer, api_workflow, nodes_of
    from interplay.guidance.pixelworld.detect import detect

    prompt = copy.deepcopy(api_workflow("realign_pixelworld"))
    (drawn,) = (n for n in nodes_of(prompt, "PreviewImage"))
    image = prompt[drawn]["inputs"]["images"]
    needed, names = {drawn}, [image[0]]
    while names:
        name = names.pop()
        needed.add(name)
        names += [v[0] for v in prompt[name]["inputs"].values() if isinstance(v, list) and v[0] not in needed]
    prompt = {name: node for name, node in prompt.items() if name in needed}
    inputs = {"image": image, "tagger": "PixelWorld", "threshold": 0, "keep": "all", "leave_out": "", "caption": True}
    prompt["tag"] = {"class_type": "Interplay_TagImage", "inputs": inputs}
    prompt["judge"] = {
        "class_type": "Interplay_JudgeTags",
        "inputs": {"prompt": "a red robot and a blue box in the forest", "tags": ["tag", 0], "judge": "rules"},
    }
    for name, source in (("shown", ["tag", 1]), ("judged", ["judge", 0])):
        prompt[name] = {"class_type": "PreviewAny", "inputs": {"source": source}}
    with ComfyServer(comfyui_path(), tmp_path / "base") as server:
        entry = server.run(prompt)
        assert entry["status"]["status_str"] == "success", entry["status"]
        (picture,) = server.pictures(entry, drawn)
        inputs["tagger"] = "RAM++"
        error = server.error(prompt)
    seen = detect(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)
    names = {*(item.object for item in seen.objects), seen.environment}
    (told,) = json.loads(entry["outputs"]["shown"]["text"][0])["pictures"]
    assert {tag["name"] for tag in told["tags"]} == names and "robot" in names
    judged = json.loads(entry["outputs"]["judged"]["text"][0])
    assert {item["tag"] for item in judged["verdicts"]} == names
    assert error["node_type"] == "Interplay_TagImage"
    assert "put ram_plus_swin_large_14m.pth (3 GB) of huggingface.co/" in error["exception_message"]
