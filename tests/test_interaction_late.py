"""Boxes from the attention of the run itself, in ComfyUI; layouts as a loss; PixelWorld's own fusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from interplay.errors import InterplayError

pytestmark = pytest.mark.comfy
PROMPT = "a red robot carrying a blue box in the forest"


@pytest.fixture(autouse=True, scope="module")
def executor() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def world() -> Any:
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld

    return load_pixelworld()


@pytest.fixture(scope="module")
def pair(world: Any) -> Any:
    from interplay.guidance.hosts.comfyui.conditioning import encode
    from interplay.parsing import parse

    return encode(world[1], PROMPT, parse(PROMPT)), world[1].encode_from_tokens_scheduled(world[1].tokenize(""))


@pytest.fixture(scope="module")
def loaded(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Random fusers with open gates on PixelWorld."""
    from interplay.guidance.hosts.comfyui.interaction_loader import load, unet_state
    from interplay.guidance.interaction.build import attention_blocks, state_of
    from interplay.guidance.interaction.network import InteractionNet
    from safetensors.torch import save_file

    blocks = attention_blocks(unet_state(world[0]))
    torch.manual_seed(0)
    net = InteractionNet(tuple(blocks.values()), tokens=64, heads=4, slots=4, hidden=64)
    for key, p in net.named_parameters():
        if "alpha" in key:
            p.data.fill_(0.5)
    file = tmp_path_factory.mktemp("fusers") / "open.safetensors"
    save_file(state_of(net, tuple(blocks)), file, {"heads": "4"})
    return load(file, model=world[0])


def sample(model: Any, positive: Any, negative: Any, batch: int = 1, steps: int = 4) -> torch.Tensor:
    import comfy.sample

    latent = torch.zeros(batch, 4, 16, 16)
    noise = comfy.sample.prepare_noise(latent, 3)
    return comfy.sample.sample(
        model, noise, steps, 3.0, "euler", "normal", positive, negative, latent, seed=3, disable_pbar=True
    )


def late(loaded: Any, world: Any, pair: Any, share: float, found: list[Any], rules: Any = None) -> Any:
    from interplay.guidance.hosts.comfyui.interaction_late import finder, ground_late
    from interplay.guidance.hosts.comfyui.interaction_layout import triplets

    layout, find = finder(triplets("", None, pair[0]), 0.45, rules)
    return ground_late(loaded.model, *pair, loaded.interact, world[1], layout, find, share, on_found=found.append)


def test_a_run_goes_on_with_the_boxes_it_has_found(loaded: Any, world: Any, pair: Any) -> None:
    """The same picture as when the plain steps are sampled first and the rest with these very boxes typed in."""
    import comfy.sample
    from interplay.guidance.hosts.comfyui.interaction import condition
    from interplay.guidance.interaction.network import Schedule

    found: list[Any] = []
    model, positive, negative = late(loaded, world, pair, 0.45, found)
    whole = sample(model, positive, negative)
    (layouts,) = found
    assert len(layouts) == 1 and all(thing.box is not None for thing in layouts[0].things)
    typed = condition(*pair, loaded.interact, world[1], layouts[0], Schedule())
    empty = torch.zeros(1, 4, 16, 16)
    noise = comfy.sample.prepare_noise(empty, 3)
    options: dict[str, Any] = {"seed": 3, "disable_pbar": True}
    begun = comfy.sample.sample(
        loaded.model, noise, 4, 3.0, "euler", "normal", *pair, empty, last_step=2, force_full_denoise=False, **options
    )
    ended = comfy.sample.sample(
        loaded.model, torch.zeros_like(noise), 4, 3.0, "euler", "normal", *typed, begun, start_step=2,
        disable_noise=True, **options,
    )  # fmt: skip
    plain = sample(loaded.model, *pair)
    assert float((whole - plain).abs().max()) > 0.05
    assert float((whole - ended).abs().max()) < 2e-3


def test_every_picture_gets_its_own_boxes_and_every_run_its_own(loaded: Any, world: Any, pair: Any) -> None:
    from interplay.guidance.interaction.prototypes import ORDINARY

    found: list[Any] = []
    model, positive, negative = late(loaded, world, pair, 0.5, found, ORDINARY)
    first = sample(model, positive, negative, batch=2)
    again = sample(model, positive, negative, batch=2)
    assert len(found) == 2 and found[0] == found[1] and torch.equal(first, again)
    boxes = [[thing.box for thing in layout.things] for layout in found[0]]
    assert len(boxes) == 2 and boxes[0] != boxes[1]
    for (x1, y1, _, _), (x2, y2, _, _) in boxes:  # the rule's own arrangement is kept
        assert (x2 - x1, y2 - y1) == pytest.approx((boxes[0][1][0] - boxes[0][0][0], boxes[0][1][1] - boxes[0][0][1]))
    with pytest.raises(InterplayError, match="share of plain steps"):
        late(loaded, world, pair, 1.0, found)


def test_conditioning_alone_changes_nothing_without_its_model(loaded: Any, world: Any, pair: Any) -> None:
    """The conditioning names a place that only a run of the patched model has."""
    _, positive, negative = late(loaded, world, pair, 0.5, [])
    alone, plain = sample(loaded.model, positive, negative), sample(loaded.model, *pair)
    assert float((alone - plain).abs().max()) < 1e-3  # prompt and negative are run apart, which moves the last bits


def test_layout_guidance_draws_the_attention_into_the_boxes(world: Any, pair: Any) -> None:
    from interplay.guidance.hosts.comfyui.guidance import patch_model
    from interplay.guidance.hosts.comfyui.maps import attention_maps
    from interplay.guidance.interaction.layout import from_text
    from interplay.guidance.interaction.layout_terms import graph_layout_loss
    from interplay.guidance.presets import layout_only, with_layout

    text = "red robot | carrying | blue box @ 0.05,0.55,0.4,0.9 ; 0.05,0.15,0.4,0.5"
    guided = patch_model(world[0], with_layout(layout_only(), text))
    losses = []
    for model in (world[0], guided):
        done = sample(model, *pair, steps=8)
        maps = attention_maps(world[0], pair[0], {"samples": done}, percent=0.6)
        losses.append(float(graph_layout_loss(maps.maps, from_text(text), maps.graph)))
    assert losses[1] < 0.8 * losses[0], losses


def test_the_nodes_hand_everything_on(loaded: Any, world: Any, pair: Any) -> None:
    from interplay.guidance.interaction.layout import from_text
    from interplay.nodes.interaction_guided import InteractionFromAttention, LayoutGuidance

    given = (loaded.interact, world[1], 0.5, "by rule (PixelWorld)", 0.45, 1.0, 0.0, 1.0)
    model, positive, negative = InteractionFromAttention.execute(loaded.model, *pair, *given).args
    late_picture = sample(model, positive, negative)
    plain = sample(world[0], *pair)
    assert float((late_picture - plain).abs().max()) > 0.05
    layout = from_text("robot | carrying | box @ 0.05,0.55,0.4,0.9 ; 0.05,0.15,0.4,0.5")
    for preset in ("layout only", "SHY"):
        guided = LayoutGuidance.execute(world[0], layout, preset, 1.0, 1.0, "latent").args[0]
        assert float((sample(guided, *pair) - plain).abs().max()) > 0.05
    off = LayoutGuidance.execute(world[0], layout, "layout only", 0.0, 1.0, "latent").args[0]
    assert torch.equal(sample(off, *pair), plain)


def test_objects_of_a_draft_become_a_layout() -> None:
    from interplay.guidance.grounding.objects import ObjectsBatch, PictureObject, PictureObjects
    from interplay.nodes.interaction import InteractionLayout

    masks = torch.zeros(3, 100, 200)
    found = (
        PictureObject("box", score=0.9, box=(0.6, 0.5, 0.9, 0.9)),
        PictureObject("box", "blue box", score=0.5, box=(0.1, 0.1, 0.3, 0.3)),
        PictureObject("tree", box=(0.0, 0.0, 1.0, 0.2)),
    )
    objects = ObjectsBatch((PictureObjects(found, masks),), 100, 200)
    lines = "red robot | carrying | blue box"
    _, text, _ = InteractionLayout.execute("from objects", lines, 200, 100, 0, 0.3, 0.45, objects=objects).args
    assert text.endswith("; 0.1, 0.1, 0.3, 0.3")  # called so in the prompt, though less sure
    (x1, _, x2, _) = (float(v) for v in text.split("@")[1].split(";")[0].split(","))
    assert 0.0 <= x1 < x2 <= 0.5  # the robot, which was not found, beside what it carries
    with pytest.raises(InterplayError, match="connect those of a draft picture"):
        InteractionLayout.execute("from objects", lines, 200, 100, 0, 0.3, 0.45)
    with pytest.raises(InterplayError, match="shows box, tree and none of cat, dog"):
        InteractionLayout.execute("from objects", "cat | chasing | dog", 200, 100, 0, 0.3, 0.45, objects=objects)


def test_the_bundled_choice_names_a_file_of_the_pack() -> None:
    from interplay.guidance.hosts.comfyui.interaction_loader import BUNDLED, find_file, list_files, load
    from interplay.guidance.pixelworld.fusers import PATH

    assert list_files()[0] == BUNDLED
    if not PATH.is_file():
        with pytest.raises(InterplayError, match="reinstall Interplay"):
            find_file(BUNDLED)
        return
    found = load(find_file(BUNDLED))
    assert found.clip is not None and found.vae is not None and "PixelWorld" not in found.report.splitlines()[0]
    assert Path(PATH).stat().st_size < 6_000_000
