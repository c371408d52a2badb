"""Tokenizer, fusers and files, against a second implementation and against diffusers' own gated U-Net."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from interaction_reference import MICRO, SMALL, fuser, interactions, random_state, shapes, tokenize, unet
from interplay.errors import InterplayError
from interplay.guidance.interaction import files, keys, network
from interplay.guidance.interaction.build import (
    attention_blocks,
    build,
    check_fits,
    compare_base,
    describe,
    state_of,
)
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
CUT = {"channels": 32, "mult": (1,), "layers": 1, "width": 48, "slots": 4}  # small enough for tests of files


def fusers_only(state: State) -> State:
    return {k: v for k, v in state.items() if ".fuser." in k or k.startswith("position_net.")}


def grounding(given: list[dict[str, Any]], slots: int) -> network.Grounding:
    width, count = len(given[0]["subject"]), len(given)

    def rows(name: str, cells: int) -> Tensor:
        out = torch.full((1, slots, cells), 0.7)  # what an empty slot holds must not matter
        for n, one in enumerate(given):
            out[0, n] = torch.as_tensor(one[name])
        return out

    mask = torch.zeros(1, slots)
    mask[0, :count] = 1
    phrases = [rows(name, width) for name in ("subject", "action", "object")]
    return network.Grounding(*phrases, rows("subject_box", 4), rows("object_box", 4), mask)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * max(1.0, float(theirs.abs().max()))


# --- the published set -----------------------------------------------------------------------------------------------


def test_sd1_has_the_published_tensors_and_parameters() -> None:
    with torch.device("meta"):
        net = network.InteractionNet()
    fusers = net.fusers.state_dict()
    tokenizer = net.position_net.state_dict()
    assert (len(fusers), sum(v.numel() for v in fusers.values())) == (272, 208_018_272)
    assert (len(tokenizer), sum(v.numel() for v in tokenizer.values())) == (17, 2_193_216)
    assert {k.partition(".")[2] for k in fusers} == keys.FUSER_KEYS
    assert set(tokenizer) == keys.TOKENIZER_KEYS


def test_pixelworld_can_have_fusers_of_its_own_and_train_them() -> None:
    torch.manual_seed(0)
    net = network.InteractionNet((64, 128, 128, 128, 128, 64, 64), tokens=64, heads=4, slots=4, hidden=64)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "alpha" in name:
                p.fill_(0.5)
    x = torch.randn(2, 16, 64)
    given = net.position_net(grounding(interactions(64), 4)).expand(2, -1, -1)
    net.fusers[0](x, given).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.fusers[0].parameters())
    trained = [n for n, p in net.position_net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not trained


# --- equality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MICRO, SMALL], ids=["micro", "small"])
def test_tokens_and_fusers_equal_the_reference(size: dict[str, Any]) -> None:
    state = random_state(1, **size)
    parts = files.parts_of(state, "x")
    net = build(parts)
    given = interactions()
    with torch.no_grad():
        tokens = net.position_net(grounding(given, 30))
        close(tokens, tokenize(state, given))
        close(net.position_net.null_tokens(), tokenize(state, []))
        for index, (block, layer) in enumerate(zip(parts.blocks, net.fusers, strict=True)):
            x = torch.randn(2, 12, parts.widths[index], generator=torch.Generator().manual_seed(index))
            name = f"{block}.transformer_blocks.0.fuser"
            for scale in (1.0, 0.4):
                close(
                    layer(x, tokens.expand(2, -1, -1), scale), fuser(state, name, x, tokens.expand(2, -1, -1), scale, 8)
                )
            assert torch.equal(layer(x, tokens.expand(2, -1, -1), 0.0), x)


def test_boxes_between_overlap_and_gap() -> None:
    a, b = torch.tensor([0.1, 0.2, 0.6, 0.9]), torch.tensor([0.4, 0.1, 0.8, 0.5])
    assert network.between_boxes(a, b).tolist() == pytest.approx([0.4, 0.2, 0.6, 0.5])
    c, d = torch.tensor([0.0, 0.0, 0.2, 0.2]), torch.tensor([0.6, 0.5, 1.0, 0.9])
    assert network.between_boxes(c, d).tolist() == pytest.approx([0.2, 0.2, 0.6, 0.5])


def test_the_schedule_counts_steps_as_the_reference_does() -> None:
    for beta in (0.2, 0.4, 0.8, 0.9, 1.0):
        on = sum(network.Schedule(beta).scale(i / 50) > 0 for i in range(50))
        assert on == int(beta * 50)
    fading = [network.Schedule(0.5, 0.4, 2.0).scale(p) for p in (0.0, 0.5, 0.7, 0.9, 1.0)]
    assert fading == pytest.approx([2.0, 2.0, 1.0, 0.0, 0.0])


def diffusers_unet(seed: int = 0) -> Any:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    model = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=768,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=8, attention_type="gated",
    )  # fmt: skip
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "alpha_" in name:
                p.fill_(0.7)
    return model.eval()


class Given(torch.nn.Module):
    """A tokenizer that answers with the tokens it is given."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens


def test_diffusers_names_lead_to_the_same_network_with_and_without_fusers() -> None:
    """diffusers has gated fusers of its own (for GLIGEN): the same layers, run by somebody else's code."""
    model = diffusers_unet()
    model.position_net = Given()
    state = keys.diffusers_to_ldm({k: v for k, v in model.state_dict().items() if not k.startswith("position_net")})
    assert set(state) == {k for k in shapes() if not k.startswith("position_net")}
    x, t, context = torch.randn(2, 4, 8, 12), torch.tensor([500, 20]), torch.randn(2, 7, 768)
    tokens = torch.randn(2, 90, 768)
    with torch.no_grad():
        close(unet(state, x, t, context), model(x, t, context).sample)
        # diffusers takes the gates' bare value; ours is the same with 8 heads and beta 1
        grounded = model(x, t, context, cross_attention_kwargs={"gligen": {"tokens": tokens}}).sample
        close(unet(state, x, t, context, tokens), grounded)
    assert float((grounded - unet(state, x, t, context)).abs().max()) > 0.05


# --- files -----------------------------------------------------------------------------------------------------------


def to_diffusers(state: State) -> State:
    """The one-level size under diffusers names, written out by hand."""
    blocks = {
        "input_blocks.1.0.": "down_blocks.0.resnets.0.", "input_blocks.1.1.": "down_blocks.0.attentions.0.",
        "middle_block.0.": "mid_block.resnets.0.", "middle_block.1.": "mid_block.attentions.0.",
        "middle_block.2.": "mid_block.resnets.1.",
        "output_blocks.0.0.": "up_blocks.0.resnets.0.", "output_blocks.0.1.": "up_blocks.0.attentions.0.",
        "output_blocks.1.0.": "up_blocks.0.resnets.1.", "output_blocks.1.1.": "up_blocks.0.attentions.1.",
        "input_blocks.0.0.": "conv_in.", "time_embed.0.": "time_embedding.linear_1.",
        "time_embed.2.": "time_embedding.linear_2.", "out.0.": "conv_norm_out.", "out.2.": "conv_out.",
    }  # fmt: skip
    layers = {
        "in_layers.0.": "norm1.", "in_layers.2.": "conv1.", "emb_layers.1.": "time_emb_proj.",
        "out_layers.0.": "norm2.", "out_layers.3.": "conv2.", "skip_connection.": "conv_shortcut.",
    }  # fmt: skip
    out = {}
    for key, value in state.items():
        name = key
        for ours, theirs in blocks.items():
            if key.startswith(ours):
                name = theirs + key[len(ours) :]
        if ".resnets." in name:
            for ours, theirs in layers.items():
                name = name.replace(ours, theirs)
        out[name] = value
    return out


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(2, **CUT)


CLIP = {"transformer.text_model.final_layer_norm.weight": torch.ones(3)}
VAE = {"decoder.conv_in.weight": torch.ones(2, 2)}


def omegaconf_like(folder: Path) -> Any:
    """An object of a module that will not be there when it is read, of the kind that OmegaConf leaves in pickles."""
    module = ModuleType("vanished_config")
    exec_body = {"__module__": "vanished_config"}
    node, listed = type("DictConfig", (dict,), dict(exec_body)), type("ListConfig", (list,), dict(exec_body))
    module.DictConfig, module.ListConfig = node, listed  # type: ignore[attr-defined]
    sys.modules["vanished_config"] = module
    config = node(a=1, b=listed([1, 2]))
    config.metadata = {"element_type": Any}
    return config


def write(form: str, state: State, folder: Path) -> Path:
    nested = {"model": state, "text_encoder": CLIP, "autoencoder": VAE, "diffusion": {"betas": torch.ones(4)}}
    path = folder / f"{form}.pth"
    if form == "nested":
        torch.save({**nested, "config_dict": {"_content": {"a": 1}}}, path)
    elif form == "nested with objects":
        torch.save({**nested, "config_dict": omegaconf_like(folder), "opt": {"step": 3}, "iters": 7}, path)
        del sys.modules["vanished_config"]
    elif form == "nested, old torch":
        torch.save({**nested, "config_dict": omegaconf_like(folder)}, path, _use_new_zipfile_serialization=False)
        del sys.modules["vanished_config"]
    elif form == "webui":
        torch.save(fusers_only(state), path)
    elif form == "webui safetensors":
        save_file(fusers_only(state), path := folder / "w.safetensors")
    elif form == "flat":
        save_file(state, path := folder / "f.safetensors")
    elif form == "checkpoint":
        save_file({f"model.diffusion_model.{k}": v for k, v in state.items()}, path := folder / "c.safetensors")
    elif form == "diffusers":
        save_file(to_diffusers(state), path := folder / "d.safetensors")
    elif form == "diffusers folder":
        path = folder / "model"
        for part, tensors in (("unet", to_diffusers(state)), ("text_encoder", CLIP), ("vae", VAE)):
            (path / part).mkdir(parents=True)
            save_file(tensors, path / part / "diffusion_pytorch_model.safetensors")
        (path / "model_index.json").write_text("{}", encoding="utf-8")
        (path / "unet" / "config.json").write_text(json.dumps({"attention_head_dim": 8}), encoding="utf-8")
    return path


FORMS = {
    "nested": (True, True), "nested with objects": (True, True), "nested, old torch": (True, True),
    "webui": (False, False), "webui safetensors": (False, False), "flat": (True, False),
    "checkpoint": (True, False), "diffusers": (True, False), "diffusers folder": (True, True),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_parts(form: str, state: State, tmp_path: Path) -> None:
    parts = files.load_parts(write(form, state, tmp_path))
    has_base, has_others = FORMS[form]
    flat = {**parts.base, **keys.joined(parts.blocks, parts.fusers, parts.tokenizer)}
    wanted = state if has_base else fusers_only(state)
    assert set(flat) == set(wanted)
    assert all(torch.equal(flat[k], wanted[k]) for k in wanted)
    assert (set(parts.clip) == set(CLIP), set(parts.vae) == set(VAE)) == (has_others, has_others)
    assert parts.blocks == ("input_blocks.1.1", "middle_block.1", "output_blocks.0.1", "output_blocks.1.1")
    assert (parts.width, parts.slots, parts.widths) == (48, 4, (32,) * 4)
    assert "interactions: 4 fusers (68 tensors, float32)" in "\n".join(describe(parts))
    given = interactions(48)
    with torch.no_grad():
        net = build(parts)
        close(net.position_net(grounding(given, 4)), tokenize(state, given))
        close(net.position_net.null_tokens(), tokenize(state, []))


@pytest.mark.parametrize("form", ["nested", "webui"])
def test_conversion_to_safetensors_loses_nothing(form: str, state: State, tmp_path: Path) -> None:
    parts = files.load_parts(write(form, state, tmp_path))
    target = tmp_path / "converted.safetensors"
    files.save_parts(parts, target)
    again = files.load_parts(target)
    assert set(again.base) == set(parts.base)
    assert all(torch.equal(again.base[k], parts.base[k]) for k in parts.base)
    for ours, theirs in zip(again.fusers, parts.fusers, strict=True):
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert len(again.clip) == len(parts.clip) and len(again.vae) == len(parts.vae)
    with pytest.raises(InterplayError, match="must be a new file"):
        files.save_parts(parts, target)


def test_a_trained_network_comes_back_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = network.InteractionNet((32, 64), tokens=24, heads=4, slots=3, hidden=16)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_()
    blocks = ("input_blocks.1.1", "middle_block.1")
    save_file(state_of(net, blocks), tmp_path / "own.safetensors", {"heads": "4"})
    parts = files.load_parts(tmp_path / "own.safetensors")
    again = build(parts)
    x, tokens = torch.randn(1, 6, 64), torch.randn(1, 9, 24)
    assert (parts.heads, parts.slots, parts.hidden, parts.blocks) == (4, 3, 16, blocks)
    assert torch.equal(again.fusers[1](x, tokens), net.fusers[1](x, tokens))


class Shouts:
    """What a malicious pickle does."""

    def __reduce__(self) -> Any:
        return print, ("RAN",)


def test_nothing_that_a_file_names_is_run(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for old in (False, True):
        path = tmp_path / f"evil{old}.pth"
        torch.save({"model": state, "config_dict": Shouts()}, path, _use_new_zipfile_serialization=not old)
        pickle.loads(pickle.dumps(Shouts()))
        assert "RAN" in capsys.readouterr().out  # it would, with pickle itself
        assert len(files.load_parts(path).fusers) == 4
        assert "RAN" not in capsys.readouterr().out


# --- wrong files -----------------------------------------------------------------------------------------------------


def renamed(state: State, old: str, new: str) -> State:
    return {k.replace(old, new): v for k, v in state.items()}


WRONG = {
    "gligen": (lambda s: {k: v for k, v in s.items() if "action" not in k}, "GLIGEN for text boxes"),
    "gligen xl": (lambda s: {k: v for k, v in s.items() if "action" not in k and "blocks.1" not in k} | {
                  "position_net.null_positive_feature": torch.zeros(2048)}, "GLIGEN for text boxes"),
    "sdxl base": (lambda s: {"a.attn2.to_k.weight": torch.zeros(2, 2048)}, "is an SDXL model"),
    "sd2 base": (lambda s: {"a.attn2.to_k.weight": torch.zeros(2, 1024)}, "is an SD2.x model"),
    "sd1 base": (lambda s: {"a.attn2.to_k.weight": torch.zeros(2, 768)}, "holds no interactions"),
    "lora": (lambda s: {"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}, "is a LoRA"),
    "empty": (lambda s: {}, "holds no tensors"),
    "list": (lambda s: [1, 2], "holds no weights but one list"),
    "training without": (lambda s: {"model": {"input_blocks.0.0.weight": torch.zeros(1)}, "opt": {}}, "interactions"),
    "fuser cut": (lambda s: {k: v for k, v in s.items() if "middle_block.1.transformer_blocks.0.fuser.ff" not in k},
                  "The fuser of middle_block.1"),
    "mixed widths": (lambda s: s | {"middle_block.1.norm.weight": torch.ones(64)}, "is 32 wide and its block 64"),
    "tokenizer cut": (lambda s: {k: v for k, v in s.items() if "null_action" not in k}, "has 16 tensors"),
    "strangers": (lambda s: {**fusers_only(s), "hat": torch.zeros(1)}, "belong neither"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_files_are_told_apart_in_one_sentence(kind: str, state: State, tmp_path: Path) -> None:
    change, said = WRONG[kind]
    torch.save(change(state), tmp_path / "file.pth")
    with pytest.raises(InterplayError, match=said) as caught:
        files.load_parts(tmp_path / "file.pth")
    assert str(caught.value).endswith(".") and ". " not in str(caught.value)


def test_pointers_and_half_downloads_are_recognised(state: State, tmp_path: Path) -> None:
    pointer = tmp_path / "p.pth"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", encoding="utf-8")
    with pytest.raises(InterplayError, match="Git LFS pointer"):
        files.load_parts(pointer)
    for form in ("nested", "flat"):
        whole = write(form, state, tmp_path)
        half = tmp_path / f"half{whole.suffix}"
        half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(InterplayError, match="download it again"):
            files.load_parts(half)


def test_fusers_must_fit_the_model_and_the_base_is_compared(state: State) -> None:
    parts = files.parts_of(state, "x")
    check_fits(parts, parts.base)
    assert tuple(attention_blocks(parts.base)) == parts.blocks
    assert "paint the same pictures" in compare_base(parts, parts.base)
    assert "differs" in compare_base(parts, {k: v + 0.1 for k, v in parts.base.items()})
    other = files.parts_of(random_state(3, channels=32, mult=(1, 2), layers=1, width=48, slots=4), "y")
    with pytest.raises(InterplayError, match="do not fit"):
        check_fits(parts, other.base)
    wide = {k: torch.zeros(2, 1024) for k in parts.base if k.endswith("attn2.to_k.weight")}
    with pytest.raises(InterplayError, match=r"SD2\.x"):
        check_fits(parts, parts.base | wide)
