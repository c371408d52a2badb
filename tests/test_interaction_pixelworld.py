"""PixelWorld's interactions in diffusers: exact boxes, rows and their tokens, boxes found on the way, training."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.bench import interaction as bench
from interplay.guidance.bench import methods
from interplay.guidance.interaction.layout import Layout, from_hypergraph
from interplay.guidance.interaction.network import InteractionNet, Schedule
from interplay.guidance.interaction.prototypes import by_rule
from interplay.guidance.losses import TERMS, MapBundle
from interplay.guidance.pixelworld import fusers, world
from interplay.guidance.pixelworld.render import render
from interplay.guidance.presets import layout_only, preset, with_layout
from interplay.parsing import parse

pytest.importorskip("diffusers")
PROMPTS = ("a red robot carrying a blue box in the forest", "a green cat chasing a yellow ball in the snow")


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return load_pixelworld()


@pytest.fixture(scope="module")
def net() -> InteractionNet:
    from interplay.guidance.pixelworld.train_fusers import new_network

    torch.manual_seed(0)
    made = new_network()
    for name, parameter in made.named_parameters():
        if "alpha" in name:
            parameter.data.fill_(2.0)
    return made.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def file(net: InteractionNet, pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from interplay.guidance.pixelworld.train_fusers import export

    path = tmp_path_factory.mktemp("fusers") / "random.safetensors"
    export(net.state_dict(), pipeline.unet.state_dict(), path)
    return path


def batch(*numbers: int, steps: int = 6) -> methods.Batch:
    return methods.Batch(tuple(PROMPTS[i] for i in numbers), tuple(3 + i for i in numbers), steps=steps)


def images(drawn: list[methods.Drawn]) -> np.ndarray:
    return np.stack([picture.image for picture in drawn]).astype(int)


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_boxes_of_a_scene_are_where_its_pixels_are(seed: int) -> None:
    scene = world.sample_scene(Random(seed), "action")
    layout = fusers.scene_layout(scene)
    assert layout is not None
    for thing, mask in zip(layout.things, render(scene)[1].objects, strict=True):
        assert thing.box is not None
        x1, y1, x2, y2 = (v * 32 for v in thing.box)
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert x1 <= columns[0] <= x1 + 2 and x2 - 2 <= columns[-1] + 1 <= x2
        assert y1 <= rows[0] <= y1 + 4 and y2 - 4 <= rows[-1] + 1 <= y2


def test_the_world_s_rules_arrange_as_its_scenes_do() -> None:
    for prompt in world.PROMPT_SETS["actions held out"](24, 3):
        ruled, own = by_rule(from_hypergraph(parse(prompt)), fusers.world_rules()), fusers.world_layout(prompt)
        assert [t.name for t in ruled.things] == [t.name for t in own.things]
        shifts = [np.subtract(a.box, b.box) for a, b in zip(ruled.things, own.things, strict=True)]
        assert np.allclose(shifts[0], shifts[1]) and np.allclose(shifts[0][[1, 3]], 0.0), prompt
    with pytest.raises(InterplayError, match="no action between two"):
        fusers.world_layout("a red robot in the forest")


# --- rows and their tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", [None, {"preset": "SHY", "start": 0.0, "wake": (), "off_switch": False}])
def test_pictures_of_a_batch_see_their_own_boxes(pipeline: Any, file: Path, guide: Any) -> None:
    """As if each had been drawn alone; with guidance, whose passes hold a part of the rows."""
    settings = {"layout": "world", "file": str(file), **({"guide": guide} if guide else {})}
    method = bench.interaction("boxes", settings)
    both = images(method.draw(pipeline, batch(0, 1)))
    alone = np.concatenate([images(method.draw(pipeline, batch(i))) for i in (0, 1)])
    assert np.abs(both - alone).max() <= 3
    assert np.abs(both - images(methods.plain("plain", {}).draw(pipeline, batch(0, 1)))).max() > 10


def test_the_unconditional_row_sees_null_tokens(pipeline: Any, net: InteractionNet) -> None:
    from interplay.guidance.hosts.diffusers.interaction_layout import grounded, grounding

    layout = fusers.world_layout(PROMPTS[0])
    seen: list[torch.Tensor] = []
    with grounded(pipeline, net, PROMPTS[:1], [layout], Schedule(beta=0.5)) as state:
        spy = pipeline.unet.register_forward_hook(
            lambda *_: seen.append(state.fusing.scale * state.fusing.tokens.clone())
        )
        methods.call(pipeline, batch(0, steps=4))
        spy.remove()
    wanted = torch.cat([net.position_net.null_tokens(), net.position_net(grounding(pipeline, net, [layout]))])
    assert [float(s.abs().max()) > 0 for s in seen] == [True, True, False, False]
    assert torch.allclose(seen[0], wanted) and torch.allclose(seen[1], wanted)
    after = images([methods.Drawn(image) for image in methods.call(pipeline, batch(0))])
    assert (after == images(methods.plain("p", {}).draw(pipeline, batch(0)))).all()


def test_boxes_found_on_the_way_are_those_of_the_plain_steps_maps(pipeline: Any, net: InteractionNet) -> None:
    from interplay.guidance.hosts.diffusers.guidance import pipeline_graph
    from interplay.guidance.hosts.diffusers.interaction_layout import Look, grounded
    from interplay.guidance.hosts.diffusers.maps import watched
    from interplay.guidance.interaction.layout_maps import from_maps

    named = [from_hypergraph(parse(prompt)) for prompt in PROMPTS]
    with grounded(pipeline, net, PROMPTS, named, look=Look(from_maps, 0.2, 0.5)) as state:
        methods.call(pipeline, batch(0, 1, steps=10))
    for i, prompt in enumerate(PROMPTS):
        with watched(pipeline, prompt, (0.2, 0.45)) as watch:
            methods.call(pipeline, batch(i, steps=10))
        wanted = from_maps(named[i], watch.maps[0], pipeline_graph(pipeline, prompt))
        assert state.layouts[i] is not None
        for ours, theirs in zip(state.layouts[i].things, wanted.things, strict=True):
            assert ours.box == pytest.approx(theirs.box, abs=1 / 8)


# --- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in bench.KNOWN if name != "fusers off"])
def test_methods_survive_the_way_to_a_worker(name: str, pipeline: Any, file: Path) -> None:
    """Made again of their settings they draw the same pictures, other than plain ones."""
    first = bench.interaction(name, {**bench.KNOWN[name], "file": str(file)})
    again = methods.make(name, json.loads(json.dumps(first.settings)))
    drawn = images(first.draw(pipeline, batch(0, 1)))
    assert (drawn == images(again.draw(pipeline, batch(0, 1)))).all()
    assert np.abs(drawn - images(methods.plain("p", {}).draw(pipeline, batch(0, 1)))).max() > 10
    assert methods.named(name, {}).name == name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layout": "somewhere"}, "no layout called"),
        ({"boxes": 1}, "no setting 'boxes'"),
        ({"fusers": False}, "neither fusers nor a guide"),
        ({"guide": {"preset": "nothing"}}, "cannot be made"),
    ],
)
def test_wrong_settings_are_said(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InterplayError, match=said):
        bench.interaction("mine", settings)


# --- the term --------------------------------------------------------------------------------------------------------


def test_the_layout_term_is_absent_without_a_layout_and_moves_maps_into_boxes(pipeline: Any) -> None:
    from interplay.guidance.hosts.diffusers.guidance import pipeline_graph

    graph = pipeline_graph(pipeline, PROMPTS[0])
    maps = torch.rand(1, len(graph.words), 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert TERMS["B"](MapBundle(maps, maps), graph, preset("SHY")) is None
    config = with_layout(layout_only(), fusers.world_layout(PROMPTS[0]).text())
    term = TERMS["B"](MapBundle(maps, maps), graph, config)
    assert term is not None and config.terms == ("B",)
    (gradient,) = torch.autograd.grad(term.loss.sum(), maps)
    head = graph.vertices[0].head
    box = fusers.world_layout(PROMPTS[0]).things[0].box
    assert box is not None
    x1, y1, x2, y2 = (round(v * 16) for v in box)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[y1:y2, x1:x2] = True
    assert (gradient[0, head][inside] < 0).all() and (gradient[0, head][~inside] > 0).all()
    with pytest.raises(InterplayError, match="not of the form"):
        with_layout(layout_only(), "robot carries box")


# --- training --------------------------------------------------------------------------------------------------------


def kept_outside(q: torch.Tensor, k: torch.Tensor, layout: Layout) -> float:
    """Minus the mean log of what cells of the first picture, as far as they lie in no box, keep from its tokens."""
    side, logs, weights = round((q.shape[1] - 12) ** 0.5), 0.0, 0.0
    for cell in range(side * side):
        x, y, free = cell % side, cell // side, 1.0
        for box in layout.boxes(layout.interactions[0]):
            width = max(0.0, min(box[2] * side, x + 1) - max(box[0] * side, x))
            free -= width * max(0.0, min(box[3] * side, y + 1) - max(box[1] * side, y))
        scale, split = (q.shape[-1] / 4) ** 0.5, k[0].unflatten(-1, (4, -1))
        heads = [torch.softmax(q[0, cell].view(4, -1)[h] @ split[:, h].T / scale, -1) for h in range(4)]
        seen = float(torch.stack(heads).mean(0)[[side * side, side * side + 4, side * side + 8]].sum())
        logs -= np.log(1 - seen + 1e-5) * max(0.0, free)
        weights += max(0.0, free)
    return logs / weights


def test_the_attention_loss_is_what_cells_in_a_box_do_not_give_to_its_token(pipeline: Any, net: InteractionNet) -> None:
    from interplay.guidance.hosts.diffusers.interaction import Fusing, fused
    from interplay.guidance.pixelworld.train_fusers import Phrases, Watch, grounding

    layouts: list[Layout | None] = [fusers.world_layout(PROMPTS[0]), None]
    given = grounding(layouts, Phrases(pipeline))
    watch = Watch(net)
    with torch.no_grad(), fused(pipeline.unet, net, Fusing(net.position_net(given))):
        pipeline.unet(torch.randn(2, 4, 16, 16), torch.tensor([500, 500]), torch.randn(2, 77, 64))
    total = 0.0
    for q, k in zip(watch.queries, watch.keys, strict=True):
        side, logs, weights = round((q.shape[1] - 12) ** 0.5), 0.0, 0.0
        assert layouts[0] is not None
        for role, box in enumerate(np.array(layouts[0].boxes(layouts[0].interactions[0]))[[0, 2, 1]]):
            for cell in range(side * side):
                x, y = cell % side, cell // side
                width = max(0.0, min(box[2] * side, x + 1) - max(box[0] * side, x))
                height = max(0.0, min(box[3] * side, y + 1) - max(box[1] * side, y))
                heads = [
                    torch.softmax(q[0, cell, h] @ k[0, :, h].T / q.shape[-1] ** 0.5, -1)
                    for q, k in [(q.unflatten(-1, (4, -1)), k.unflatten(-1, (4, -1)))]
                    for h in range(4)
                ] if width * height > 0 else []  # fmt: skip
                if heads:
                    seen = float(torch.stack(heads).mean(0)[side * side + 4 * role])
                    logs -= np.log(seen + 1e-5) * width * height
                    weights += width * height
        total += logs / max(1.0, weights) + kept_outside(q, k, layouts[0])
    found = float(watch.loss(given))
    assert found == pytest.approx(total / 7, rel=1e-3)


def test_training_resumes_and_writes_what_loads(tmp_path: Path) -> None:
    from interplay.guidance.interaction.files import load_parts
    from interplay.guidance.pixelworld import train_fusers as training

    settings = training.Settings(tmp_path, minutes=0.02, batch=2)
    path = training.train(settings)
    parts = load_parts(path)
    assert parts.widths == fusers.WIDTHS and (parts.heads, parts.slots, parts.width) == (4, 4, 64)
    state = torch.load(tmp_path / "fusers.pt", weights_only=True)
    training.train(replace(settings, minutes=0.05))
    later = torch.load(tmp_path / "fusers.pt", weights_only=True)
    assert later["step"] > state["step"] and later["spent"] >= 3.0
