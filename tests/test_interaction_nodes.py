"""The interaction nodes as ComfyUI calls them, and layouts from a model's own attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy_tiny as tiny
import pytest
import torch
from interaction_reference import random_state
from interplay.errors import InterplayError
from test_interaction_comfy import TOY, save

pytestmark = pytest.mark.comfy
PROMPT = "a red robot carrying a blue box in the forest"


@pytest.fixture(autouse=True, scope="module")
def executor() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import folder_paths

    where = tmp_path_factory.mktemp("unets")
    save(random_state(5, **TOY), where, "toy.safetensors")
    folder_paths.add_model_folder_path("diffusion_models", str(where))
    return where


@pytest.fixture(scope="module")
def pixelworld() -> Any:
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld

    return load_pixelworld()


@pytest.fixture(scope="module")
def prompt(pixelworld: Any) -> Any:
    from interplay.guidance.hosts.comfyui.conditioning import encode
    from interplay.parsing import parse

    return encode(pixelworld[1], PROMPT, parse(PROMPT)), pixelworld[1].encode_from_tokens_scheduled(
        pixelworld[1].tokenize("")
    )


def test_load_place_condition_sample(folder: Path, pixelworld: Any, prompt: Any) -> None:
    from interplay.nodes.interaction import InteractDiffusionLoader, InteractionConditioning, InteractionLayout

    listed = InteractDiffusionLoader.define_schema().inputs[0].options
    assert "diffusion_models/toy.safetensors" in listed
    loaded = InteractDiffusionLoader.execute("diffusion_models/toy.safetensors", "default", "off", "mine").args
    model, interact, clip, vae, report = loaded
    assert clip is None and vae is None and "take the SD1.x checkpoint's" in report and "written: mine" in report
    assert (folder / "mine.safetensors").is_file()
    layout, text, preview = InteractionLayout.execute("by rule", "", 320, 256, 0, 0.3, 0.45, positive=prompt[0]).args
    assert text.startswith("red robot | carrying | blue box @") and preview.shape == (1, 256, 320, 3)
    common = (*prompt, interact, pixelworld[1])
    by_layout = InteractionConditioning.execute(*common, "", 1.0, 0.0, 1.0, 320, 256, layout=layout).args
    by_text = InteractionConditioning.execute(*common, text, 1.0, 0.0, 1.0, 320, 256).args
    pictures = [tiny.sample(model, out[0], out[1], steps=2) for out in (by_layout, by_text)]
    plain = tiny.sample(model, *prompt, steps=2)
    assert float((pictures[0] - plain).abs().max()) > 0.01
    assert float((pictures[0] - pictures[1]).abs().max()) < 0.2 * float((pictures[0] - plain).abs().max())
    assert by_layout[3].shape == (1, 256, 320, 3)
    with pytest.raises(InterplayError, match="There is no model"):
        InteractDiffusionLoader.execute("diffusion_models/../../secret.pth", "default", "off", "")


def test_boxes_masks_and_typed_lines_mean_the_same(folder: Path, pixelworld: Any, prompt: Any) -> None:
    from interplay.nodes.interaction import InteractionLayout

    def text(**given: Any) -> str:
        return InteractionLayout.execute("given boxes", "", 200, 100, 0, 0.3, 0.45, positive=prompt[0], **given).args[1]

    masks = torch.zeros(2, 50, 100)
    masks[0, 10:40, 10:50] = 1
    masks[1, 25:50, 60:90] = 1
    pixels = [{"x": 20, "y": 20, "width": 80, "height": 60}, {"x": 120, "y": 50, "width": 60, "height": 50}]
    wanted = "red robot | carrying | blue box @ 0.1, 0.2, 0.5, 0.8 ; 0.6, 0.5, 0.9, 1"
    assert text(masks=masks) == wanted
    assert text(boxes=pixels) == text(boxes=[pixels]) == wanted
    assert text(boxes=torch.tensor([[20.0, 20, 100, 80], [120, 50, 180, 100]])) == wanted
    with pytest.raises(InterplayError, match="has no box"):
        text()
    with pytest.raises(InterplayError, match="1 boxes for 2 things"):
        text(masks=masks[:1])
    with pytest.raises(InterplayError, match="A mask is empty"):
        text(masks=torch.zeros(2, 4, 4))


def test_attention_says_where_pixelworld_will_paint(pixelworld: Any, prompt: Any) -> None:
    """The boxes of a draft lie where a judge of pixels finds the things in the finished picture of the same seed."""
    import comfy.sample
    from interplay.guidance.hosts.comfyui.interaction_layout import by_attention, triplets
    from interplay.guidance.pixelworld.detect import detect

    model, _, vae = pixelworld
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    boxes, met = [], 0
    for seed in (7, 9):
        layout = by_attention(triplets("", None, prompt[0]), model, *prompt, latent, seed)
        noise = comfy.sample.prepare_noise(latent["samples"], seed)
        done = comfy.sample.sample(
            model, noise, 12, 5.0, "euler", "normal", *prompt, latent["samples"], seed=seed, disable_pbar=True
        )
        picture = vae.decode(done)[0].clamp(0, 1).mul(255).round().byte().numpy()
        for thing in layout.things:
            assert thing.box is not None
            boxes.append(thing.box)
            for found in detect(picture).objects:
                if found.object == thing.label:
                    x, y = ((v + found.side / 2) / 32 for v in (found.x, found.y))
                    x1, y1, x2, y2 = thing.box
                    met += 1
                    assert x1 - 0.05 <= x <= x2 + 0.05 and y1 - 0.05 <= y <= y2 + 0.05, (thing.name, thing.box, x, y)
    assert met >= 3
    assert boxes[:2] != boxes[2:]
    with pytest.raises(InterplayError, match="connect model, latent as well"):
        from interplay.guidance.hosts.comfyui.interaction_layout import place

        place(layout, "from attention", [], {"positive": prompt[0], "negative": prompt[1]})


def test_fusers_of_its_own_load_onto_pixelworld(pixelworld: Any, prompt: Any, tmp_path: Path) -> None:
    """What training on PixelWorld will save; new gates are shut, opened ones show in the picture."""
    from interplay.guidance.hosts.comfyui.interaction import condition
    from interplay.guidance.hosts.comfyui.interaction_loader import load, unet_state
    from interplay.guidance.interaction.build import attention_blocks, state_of
    from interplay.guidance.interaction.layout import from_hypergraph
    from interplay.guidance.interaction.network import InteractionNet, Schedule
    from interplay.guidance.interaction.prototypes import by_rule
    from interplay.parsing import parse
    from safetensors.torch import save_file

    model, clip, _ = pixelworld
    blocks = attention_blocks(unet_state(model))
    assert tuple(blocks.values()) == (64, 128, 128, 128, 128, 64, 64)
    layout = by_rule(from_hypergraph(parse(PROMPT)))
    plain = tiny.sample(model, *prompt, steps=2)
    for name, alpha in (("shut", 0.0), ("open", 0.8)):
        torch.manual_seed(0)
        net = InteractionNet(tuple(blocks.values()), tokens=64, heads=4, slots=4, hidden=64)
        for key, p in net.named_parameters():
            if "alpha" in key:
                p.data.fill_(alpha)
        file = tmp_path / f"{name}.safetensors"
        save_file(state_of(net, tuple(blocks)), file, {"heads": "4"})
        assert file.stat().st_size < 6_000_000
        loaded = load(file, model=model)
        pair = condition(*prompt, loaded.interact, clip, layout, Schedule())
        changed = float((tiny.sample(loaded.model, *pair, steps=2) - plain).abs().max())
        assert (changed < 2e-3) if name == "shut" else (changed > 0.05), (name, changed)
