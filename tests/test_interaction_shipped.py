"""The fusers that come with the pack: whole, equal to a second implementation, and obeyed."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from interaction_reference import tokenize, unet
from interplay.errors import InterplayError
from interplay.guidance.bench import methods
from interplay.guidance.interaction import keys
from interplay.guidance.interaction.layout import from_text
from interplay.guidance.pixelworld import fusers
from interplay.guidance.pixelworld.detect import detect
from safetensors.torch import load_file

pytest.importorskip("diffusers")
BOXES = {"subject_box": [0.1, 0.45, 0.41, 0.87], "object_box": [0.55, 0.5, 0.86, 0.87]}
PROMPTS = (
    "a red robot chasing a blue box in the forest",
    "a green cat watching a yellow ball in the snow",
    "a purple bird pulling a white car in the desert",
    "a pink ghost kicking an orange cup in the city",
    "a blue crown pushing a red star in the snow",
    "a white fish throwing a green ball in the forest",
    "a yellow robot carrying a purple box in the city",
    "an orange rabbit riding a blue car in the desert",
)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return load_pixelworld()


def test_they_are_small_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fusers.fusers_file()
    assert path.stat().st_size <= 6_000_000
    about = json.loads(path.with_name(fusers.CONFIG).read_text(encoding="utf-8"))
    assert tuple(about["widths"]) == fusers.WIDTHS and about["file"] == path.name
    shutil.copytree(path.parent, tmp_path / "fusers")
    monkeypatch.setattr(fusers, "PATH", tmp_path / "fusers" / path.name)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    fusers.PATH.write_bytes(bytes(content))
    with pytest.raises(InterplayError, match="damaged"):
        fusers.fusers_file()
    fusers.PATH.unlink()
    with pytest.raises(InterplayError, match="not in"):
        fusers.fusers_file()


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_they_paint_as_the_reference_in_every_mode(size: tuple[int, int], pipeline: Any) -> None:
    from interplay.guidance.hosts.diffusers.interaction import Fusing, fused, interaction_net
    from interplay.guidance.hosts.diffusers.interaction_layout import grounding, phrase_features

    path = fusers.fusers_file()
    state = {key: value.float() for key, value in load_file(path).items()}
    state |= {key: value.detach() for key, value in keys.diffusers_to_ldm(pipeline.unet.state_dict()).items()}
    net = interaction_net(pipeline.unet, path)
    features = phrase_features(pipeline, ["red robot", "chasing", "blue box"])
    given = [{"subject": features[0], "action": features[1], "object": features[2], **BOXES}]
    numbers = " ; ".join(",".join(map(str, BOXES[name])) for name in ("subject_box", "object_box"))
    layout = from_text(f"red robot | chasing | blue box @ {numbers}")
    x, t = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(1)), torch.tensor([900, 200])
    context = pipeline.text_encoder(torch.tensor([[49406] + [49407] * 76] * 2)).last_hidden_state.detach()
    with torch.no_grad():
        tokens = {"off": None, "null": net.position_net.null_tokens(),
                  "boxes": net.position_net(grounding(pipeline, net, [layout]))}  # fmt: skip
        wanted = {"off": None, "null": tokenize(state, []), "boxes": tokenize(state, given)}
        outs = []
        for mode, ours in tokens.items():
            with fused(pipeline.unet, net, Fusing(net.position_net.null_tokens() if ours is None else ours,
                                                  0.0 if ours is None else 1.0)):  # fmt: skip
                found = pipeline.unet(x, t, context, return_dict=False)[0]
            outs.append(unet(state, x, t, context, wanted[mode], heads=4))
            assert float((found - outs[-1]).abs().max()) <= 1e-5 * float(outs[-1].abs().max())
    assert float((outs[2] - outs[1]).abs().max()) > 0.01 and float((outs[1] - outs[0]).abs().max()) > 0.001


LEAST = 20


def standing(drawn: list[methods.Drawn], layouts: list[Any]) -> int:
    """How many of the things that were named, in their colours, stand in their own boxes."""
    count = 0
    for picture, layout in zip(drawn, layouts, strict=True):
        for thing in layout.things:
            colour, kind = thing.name.split()[-2:]
            x, y = (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2
            count += any(
                (item.object, item.colour) == (kind, colour)
                and abs((item.x + item.side / 2) / 32 - x) < 0.08
                and abs((item.y + item.side / 2) / 32 - y) < 0.08
                for item in detect(picture.image).objects
            )
    return count


def test_parties_stand_in_their_boxes_wherever_these_are(pipeline: Any) -> None:
    """The same noise with the boxes at the left and at the right: of 2 x 16 things, all but a few stand where told."""
    from interplay.guidance.hosts.diffusers.interaction import interaction_net
    from interplay.guidance.hosts.diffusers.interaction_layout import grounded

    batch = methods.Batch(PROMPTS, tuple(range(50, 58)), steps=12)
    net = interaction_net(pipeline.unet, fusers.fusers_file())
    drawn = methods.plain("plain", {}).draw(pipeline, batch)
    told, untold = 0, 0
    for side in (0.0, 1.0):
        layouts = [fusers.world_layout(prompt, side) for prompt in PROMPTS]
        with grounded(pipeline, net, PROMPTS, layouts):
            told += standing(methods.plain("plain", {}).draw(pipeline, batch), layouts)
        untold += standing(drawn, layouts)
    assert told >= LEAST > untold + 8
