"""The loop's eyes: taggers and judges of every kind inside the one node, on pictures that are drawn already."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_tags_comfy import models, pictures, small, spread  # noqa: E402, F401
from test_verdicts_comfy import endpoint  # noqa: E402, F401

pytestmark = pytest.mark.comfy
PROMPT = "a red robot chasing a blue cat in the forest"
SAID = (
    '{"objects": [{"tag": "robot", "verdict": "possible", "phrase": "red robot"},'
    ' {"tag": "crown", "verdict": "unlikely"}]}'
)
SEEN = "robot, crown"


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """Inputs of the node: a robot chases a crown where the prompt has a cat, encoded as if it had been drawn."""
    from interplay.guidance.hosts.comfyui.conditioning import encode
    from interplay.guidance.hosts.comfyui.itm import encode_text
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld
    from interplay.guidance.pixelworld import world
    from interplay.guidance.pixelworld.render import enlarge, render
    from interplay.parsing import parse

    torch.set_num_threads(1)
    things = world.Thing("robot", "red"), world.Thing("crown", "green")
    art = enlarge(render(world.Scene(things[0], "forest", "chasing", things[1], x=1))[0])
    with torch.inference_mode():
        model, clip, vae = load_pixelworld()
        picture = torch.from_numpy(np.asarray(art, dtype=np.float32) / 255)[None]
        drawn = {"samples": vae.encode(picture)}
        conds = {"positive": encode(clip, PROMPT, parse(PROMPT)), "negative": encode_text(clip, "")}
    return {
        "model": model, "clip": clip, "vae": vae, **conds, "latent_image": {"samples": torch.zeros(1, 4, 16, 16)},
        "seed": 3, "steps": 20, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        "rounds": 0, "tagger": "PixelWorld (exact)", "judge": "rules", "detector": "PixelWorld (exact)",
        "segmenter": "boxes as masks", "threshold": 0.3, "preset": "RealignDiff (recommended)", "strength": 1.0,
        "growth": 1.5, "presence": 0.0, "score": "auto", "drawn": drawn,
    }  # fmt: skip


def run(given: dict[str, Any], **changes: Any) -> dict[str, Any]:
    from interplay.nodes.realign import RAMGroundedSAMReweight as Node

    names = [output.id for output in Node.define_schema().outputs]
    with torch.inference_mode():
        return dict(zip(names, Node.execute(**{**given, **changes}).args, strict=True))


def verdicts(out: dict[str, Any]) -> dict[str, float | None]:
    return {item.label: item.verdict for item in out["objects"].pictures[0].objects}


def test_rules_judge_and_say_so(given: Any) -> None:
    out = run(given)
    assert verdicts(out) == {"robot": 2.0, "crown": 0.0} and out["objects"].pictures[0].missing == ("blue cat",)
    assert out["objects"].pictures[0].acts == ((0, "chasing", 1),)
    assert (out["status"], out["raw"]) == ("picture 0, drawing 0: rules", "")
    nobody = run(given, judge="nobody")
    assert verdicts(nobody) == {"robot": 2.0, "crown": None} and nobody["status"] == ""


def test_the_endpoint_judges_inside_the_loop(given: Any, endpoint: Any) -> None:  # noqa: F811
    endpoint[0][:] = [(200, SAID)]
    out = run(given, judge="endpoint")
    assert verdicts(out) == {"robot": 0.5, "crown": 0.0} and len(endpoint[1]) == 1
    assert out["status"] == "picture 0, drawing 0: llm" and SAID in out["raw"]
    assert json.loads(out["report"])["pictures"][0]["tries"][0]["judge"] == "llm"


def test_a_failing_endpoint_leaves_it_to_the_rules_and_is_asked_again(given: Any, endpoint: Any) -> None:  # noqa: F811
    from interplay.errors import InterplayError
    from interplay.nodes.realign import RAMGroundedSAMReweight as Node

    endpoint[0][:] = [(400, "")]
    before = Node.fingerprint_inputs(judge="endpoint", pasted="")
    out = run(given, judge="endpoint")
    assert verdicts(out) == {"robot": 2.0, "crown": 0.0}
    assert out["status"].startswith("picture 0, drawing 0: rules: The endpoint answered 400")
    assert Node.fingerprint_inputs(judge="endpoint", pasted="") != before
    assert Node.fingerprint_inputs(judge="rules") == Node.fingerprint_inputs(judge="endpoint", pasted=SAID) == 0
    with pytest.raises(InterplayError, match="answered 400"):
        run(given, judge="endpoint", strict=True)


def test_pasted_json_judges_in_place_of_every_judge(given: Any, endpoint: Any) -> None:  # noqa: F811
    for judge in ("rules", "nobody", "endpoint"):
        out = run(given, judge=judge, pasted=SAID)
        assert verdicts(out) == {"robot": 0.5, "crown": 0.0} and out["status"].endswith(": pasted")
    assert endpoint[1] == []


def test_a_chat_model_judges_inside_the_loop(given: Any, models: Any) -> None:  # noqa: F811
    import chat_models
    import comfy.model_management
    from interplay.guidance.grounding.verdicts_reply import messages_for
    from interplay.guidance.hosts.comfyui.realign_stages import judges

    end = messages_for(PROMPT, SEEN.split(", "))[-1]["content"]
    chat_models.learned_chat(models / "interplay" / "toy-chat", '{"robot":"certain","crown":"possible"}', end)
    assert judges()[:3] == ["rules", "nobody", "endpoint"] and judges()[-1] == "toy-chat"
    out = run(given, judge="toy-chat")
    assert verdicts(out) == {"robot": 2.0, "crown": 0.5} and out["status"].endswith(": llm")
    comfy.model_management.unload_all_models()


def test_every_tagger_can_name_things_in_the_loop(given: Any, models: Any, small: Any) -> None:  # noqa: F811
    import ram_worlds
    from interplay.errors import InterplayError
    from interplay.guidance.hosts.comfyui import perception_tags
    from interplay.guidance.hosts.comfyui.realign_stages import tagger_by, taggers

    assert taggers()[:2] == ["things of the prompt", "PixelWorld (exact)"] and "RAM++" in taggers()
    with pytest.raises(InterplayError, match=r"The tagger RAM is missing; put ram_swin_large_14m.pth"):
        tagger_by("RAM")  # said before anything is drawn
    with pytest.raises(InterplayError, match=r"The tagger Florence-2-base is missing; put the files of"):
        tagger_by("Florence-2-base")
    with pytest.raises(InterplayError, match="no tagger called 'taste'"):
        tagger_by("taste")
    image = pictures(2)
    model = spread(ram_worlds.model(small["ram"]), image)
    ram_worlds.write(models / "rams" / "ram_swin_large_14m.pth", ram_worlds.published(model))
    with torch.inference_mode():
        seen = perception_tags.tag(image, "RAM", perception_tags.Wish(keep="things"))
        every = perception_tags.tag(image, "RAM")
        assert tagger_by("RAM")(image) == [tuple(tag.name for tag in picture.tags) for picture in seen]
    assert 0 < len(seen[0].tags) < len(every[0].tags)  # no colours, actions and places


def test_rounds_go_on_until_nothing_is_wrong_and_another_noise_joins_where_regions_cannot_help(given: Any) -> None:
    from interplay.guidance.pixelworld.detect import judge

    out = run(given, rounds=4, noise="as needed")
    (told,) = json.loads(out["report"])["pictures"]
    tries = told["tries"]
    assert [t["noise"] for t in tries][:2] == [0, 1]  # the cat has no region
    marks = [t["score"] for t in tries]
    assert told["after"] == max(marks) and told["kept"] == int(np.argmax(marks))
    assert out["score_after"][0] > out["score_before"][0]
    assert judge(PROMPT, out["image"][0].numpy()).all_right == (tries[-1]["wrong"] == [])
    assert len(tries) == 5 or tries[-1]["wrong"] == []


def test_another_noise_is_plain_sampling_from_another_seed(given: Any) -> None:
    import comfy.sample
    from interplay.guidance.hosts.comfyui.realign import NOISE_STEP, Drawing

    names = ("model", "vae", "positive", "negative", "latent_image", "seed")
    drawing = Drawing(*(given[name] for name in names), 2, 5.0, "euler", "normal")
    latent = {"samples": torch.zeros(2, 4, 16, 16)}
    with torch.inference_mode():
        made = drawing.draw(drawing.model, drawing.positive, latent, 2)
        seed = (3 + 2 * NOISE_STEP) % 2**64
        noise = comfy.sample.prepare_noise(latent["samples"], seed)
        parts = drawing.positive, drawing.negative, latent["samples"]
        plain = comfy.sample.sample(drawing.model, noise, 2, 5.0, "euler", "normal", *parts, seed=seed)
    assert torch.equal(made, plain)
