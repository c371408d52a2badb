"""InteractDiffusion for SDXL: several fusers a block, phrases of two text encoders, checked on a small random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from interaction_reference import XL, interactions, random_state, tokenize, unet
from interplay.errors import InterplayError
from interplay.guidance.interaction import files, keys
from interplay.guidance.interaction.build import build, check_fits, describe, state_of
from interplay.guidance.interaction.network import InteractionNet
from safetensors.torch import save_file
from test_interaction_core import close, fusers_only, grounding
from torch import Tensor

State = dict[str, Tensor]
PLACES = ("input_blocks.3.1", "input_blocks.5.1", "input_blocks.5.1", "middle_block.1", "middle_block.1")


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(11, **XL)


def to_diffusers(state: State, model: Any) -> State:
    """The same tensors under the names of a diffusers model, found by the pack's own way back."""
    there = {k: torch.zeros(()) for k in model.state_dict() if not k.startswith("position_net.")}
    for key in list(there):  # the names of fusers are diffusers' own; the map must lead each to its place
        there[key] = model.state_dict()[key]
    names = {v: k for k, v in renamed(list(there), there).items()}
    out = {names[key]: value for key, value in state.items() if not key.startswith("position_net.")}
    return out | {k: v for k, v in state.items() if k.startswith("position_net.")}


def renamed(names: list[str], shapes: State) -> dict[str, str]:
    marks = {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    assert set(marks) == set(shapes)
    return {names[int(mark)]: key for key, mark in keys.diffusers_to_ldm(marks).items()}


def test_a_block_s_fusers_stay_in_order_and_come_back(state: State, tmp_path: Path) -> None:
    parts = files.parts_of(state, "xl")
    assert parts.xl and (parts.width, parts.slots, parts.rows, parts.head_width) == (2048, 30, 32, 64)
    assert parts.blocks[:5] == PLACES and len(parts.fusers) == 5 + 2 * 2 + 2 * 1
    flat = {**parts.base, **keys.joined(parts.blocks, parts.fusers, parts.tokenizer)}
    assert set(flat) == set(state) and all(flat[key] is state[key] for key in state)
    files.save_parts(parts, tmp_path / "again.safetensors")
    again = files.load_parts(tmp_path / "again.safetensors")
    assert again.blocks == parts.blocks and (again.slots, again.head_width) == (30, 64)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(again.fusers, parts.fusers, strict=True) for k in a)
    assert any("30 slots of 2048" in line for line in describe(parts))
    check_fits(parts, parts.base)
    one_less = {k: v for k, v in parts.base.items() if "middle_block.1.transformer_blocks.1." not in k}
    with pytest.raises(InterplayError, match="SDXL model of the size"):
        check_fits(parts, one_less)
    small = {k: torch.zeros(2, 768) for k in parts.base if k.endswith("attn2.to_k.weight")}
    with pytest.raises(InterplayError, match=r"an SD1\.x model.*connect an SDXL model"):
        check_fits(parts, parts.base | small)


def test_tokens_equal_the_reference(state: State) -> None:
    net = build(files.parts_of(state, "xl"))
    given = interactions(2048)
    close(net.position_net(grounding(given, 30)), tokenize(state, given))
    close(net.position_net.null_tokens(), tokenize(state, []))
    assert net.position_net.null_tokens().shape == (1, 90, 2048)
    assert [fuser.attn.heads for fuser in net.fusers] == [width // 64 for width in net.widths]


def test_the_full_size_has_the_names_of_diffusers_gated_unet() -> None:
    """The published class is diffusers' U-Net with ``attention_type`` "gated" and another position_net."""
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            attention_type="gated",
        )
        theirs = keys.diffusers_to_ldm(
            {k: v for k, v in model.state_dict().items() if not k.startswith("position_net.")}
        )
        base, _, fusers, _ = keys.split(theirs)
        widths = tuple(int(fuser["linear.bias"].shape[0]) for fuser in fusers)
        net = InteractionNet(widths, 2048, head_width=64, rows=32)
    assert len(fusers) == 70 == len(net.fusers) and all(set(fuser) == keys.FUSER_KEYS for fuser in fusers)
    for ours, wanted in zip(net.fusers, fusers, strict=True):
        assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in wanted.items()}
    assert "label_emb.0.2.weight" in base and "input_blocks.4.1.proj_in.weight" in base
    heads = [m.fuser.attn.heads for m in model.modules() if hasattr(m, "fuser") and hasattr(m, "attn2")]
    assert sorted(heads) == sorted(fuser.attn.heads for fuser in net.fusers)


def diffusers_model(y: int = 64) -> Any:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 2, 2),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=y,
        attention_type="gated",
    ).eval()


def test_a_diffusers_folder_in_parts_loads_and_its_unet_paints_as_the_reference(state: State, tmp_path: Path) -> None:
    """Against two others: the plain second implementation and diffusers' own gated U-Net."""
    from interplay.guidance.hosts.diffusers.interaction import Fusing, fused, interaction_net

    model = diffusers_model()
    named = to_diffusers(state, model)
    model.load_state_dict({k: v for k, v in named.items() if not k.startswith("position_net.")}, strict=False)
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text("{}", encoding="utf-8")
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"attention_head_dim": [1, 2, 2]}), encoding="utf-8")
    order, half = list(named), len(named) // 2
    for i, part in enumerate((order[:half], order[half:])):
        path = tmp_path / "unet" / f"diffusion_pytorch_model-{i + 1:05}-of-00002.safetensors"
        save_file({k: named[k].contiguous() for k in part}, path)
    parts = files.load_parts(tmp_path)
    assert len(parts.base) + 17 * len(parts.fusers) + 17 == len(state)
    save_file({k: v.contiguous() for k, v in named.items()}, tmp_path / "whole.safetensors")
    net = interaction_net(model, tmp_path / "whole.safetensors")
    given = interactions(2048)
    tokens = net.position_net(grounding(given, 30))
    x, t, context = torch.randn(2, 4, 8, 12), torch.tensor([700, 30]), torch.randn(2, 5, 2048)
    pooled, ids = torch.randn(2, 16), torch.tensor([[64.0, 96, 0, 0, 64, 96]] * 2)
    y = torch.cat([pooled, model.add_time_proj(ids.flatten()).reshape(2, -1)], 1)
    more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
    model.position_net = Fixed(tokens)
    with torch.no_grad():
        wanted = unet(state, x, t, context, tokenize(state, given), heads=0, y=y)
        theirs = model(x, t, context, cross_attention_kwargs={"gligen": {}}, **more).sample
        with fused(model, net, Fusing(tokens)):
            ours = model(x, t, context, **more).sample
        off = model(x, t, context, **more).sample
    close(ours, wanted)
    close(theirs, wanted)
    close(off, unet(state, x, t, context, heads=0, y=y))
    assert float((off - wanted).abs().max()) > 0.01
    (tmp_path / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InterplayError, match="lacks diffusion_pytorch_model-00002-of-00002"):
        files.load_parts(tmp_path)


class Fixed(torch.nn.Module):
    """In the place of diffusers' position_net."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self) -> Tensor:
        return self.tokens.expand(2, -1, -1)


def test_phrases_are_read_by_both_encoders_in_diffusers() -> None:
    transformers = pytest.importorskip("transformers")
    from interplay.guidance.hosts.diffusers.interaction_layout import phrase_features
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld

    torch.manual_seed(0)
    tokenizer, sizes = load_pixelworld().tokenizer, {"vocab_size": 49408, "intermediate_size": 32}
    names = {"num_hidden_layers": 2, "num_attention_heads": 2, "eos_token_id": 49407, "bos_token_id": 49406}
    first = transformers.CLIPTextModel(transformers.CLIPTextConfig(hidden_size=16, **sizes, **names)).eval()
    config = transformers.CLIPTextConfig(hidden_size=24, projection_dim=40, **sizes, **names)
    second = transformers.CLIPTextModelWithProjection(config).eval()
    pipeline = type("Two", (), {"tokenizer": tokenizer, "tokenizer_2": tokenizer, "text_encoder": first,
                                "text_encoder_2": second})()  # fmt: skip
    found = phrase_features(pipeline, ["a red robot", "chasing"])
    with torch.no_grad():
        for row, text in zip(found, ["a red robot", "chasing"], strict=True):
            ids = torch.tensor([tokenizer(text).input_ids])
            end = first(ids).last_hidden_state[0, -1]
            projected = second.text_projection(second(ids).last_hidden_state[0, -1])
            close(row, torch.cat([end, projected]), 1e-4)
    assert found.shape == (2, 56)


def test_webui_like_files_need_a_model(state: State) -> None:
    parts = files.parts_of(fusers_only(state), "fusers")
    assert parts.xl and not parts.base and parts.form == files.WEBUI
    net = build(parts)
    again = keys.split(state_of(net, parts.blocks))
    assert again[1] == parts.blocks


def test_a_pipeline_of_sdxl_paints_boxes_and_leaves_them_out_of_the_negative(tmp_path: Path) -> None:
    """The first call of the U-Net, row by row, against the second implementation with tokens made by hand."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    from interplay.guidance.hosts.diffusers.interaction import interaction_net
    from interplay.guidance.hosts.diffusers.interaction_layout import grounded, phrase_features
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
    from interplay.guidance.interaction.layout import from_text

    torch.manual_seed(0)
    state, world = random_state(12, **{**XL, "y": 1280 + 48}), load_pixelworld()
    model = diffusers_model(1280 + 48)
    named = to_diffusers(state, model)
    model.load_state_dict({k: v for k, v in named.items() if not k.startswith("position_net.")}, strict=False)
    save_file({k: v.contiguous() for k, v in named.items()}, tmp_path / "xl.safetensors")
    names = {"intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "eos_token_id": 49407}
    first = transformers.CLIPTextModel(transformers.CLIPTextConfig(hidden_size=768, **names)).eval()
    config = transformers.CLIPTextConfig(hidden_size=1280, projection_dim=1280, **names)
    second = transformers.CLIPTextModelWithProjection(config).eval()
    pipeline = diffusers.StableDiffusionXLPipeline(
        *(world.vae, first, second, world.tokenizer, world.tokenizer, model, world.scheduler),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    net = interaction_net(model, tmp_path / "xl.safetensors")
    prompts = ["a red robot chasing a blue box", "a cat"]
    layout = from_text("red robot | chasing | blue box @ 0.1,0.4,0.45,0.9 ; 0.55,0.4,0.9,0.9")
    calls: list[tuple[Any, Any]] = []
    hook = model.register_forward_hook(
        lambda module, args, kwargs, output: calls.append(((args, kwargs), output[0])), with_kwargs=True
    )
    with grounded(pipeline, net, prompts, [layout, None]):
        pipeline(prompts, num_inference_steps=2, height=32, width=32, guidance_scale=3.0, output_type="latent")
    hook.remove()
    (args, kwargs), found = calls[0]
    features = phrase_features(pipeline, ["red robot", "chasing", "blue box"])
    given = dict(zip(("subject", "action", "object"), features, strict=True))
    boxes = {"subject_box": [0.1, 0.4, 0.45, 0.9], "object_box": [0.55, 0.4, 0.9, 0.9]}
    tokens = torch.cat([tokenize(state, [])] * 2 + [tokenize(state, [{**given, **boxes}]), tokenize(state, [])])
    added = kwargs["added_cond_kwargs"]
    ids = model.add_time_proj(added["time_ids"].flatten()).reshape(4, -1)
    y = torch.cat([added["text_embeds"], ids], 1)
    context = kwargs["encoder_hidden_states"]
    with torch.no_grad():
        wanted = unet(state, args[0], args[1].reshape(1).expand(4), context, tokens, heads=0, y=y)
    close(found, wanted)
    assert "forward" not in pipeline.unet.__dict__
