"""RAM, RAM++ and Tag2Text against a plain second writing, transformers' Swin, and the published names and figures."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import ram_reference  # noqa: E402
import ram_worlds  # noqa: E402
from interplay.guidance.grounding import ram  # noqa: E402
from interplay.guidance.grounding.ram_files import keys_of  # noqa: E402
from interplay.guidance.grounding.swin import Swin, SwinShape  # noqa: E402
from interplay.guidance.grounding.tags import DATA, tag_list  # noqa: E402
from PIL import Image  # noqa: E402

KINDS = ("ram", "ram_plus", "tag2text")


def pixels(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the forward pass -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_that_of_a_plain_second_writing(kind: str) -> None:
    shape = ram_worlds.SHAPES[kind]
    model, seen = ram_worlds.model(shape).double(), pixels()
    found = model(seen)
    expected = torch.stack([ram_reference.logits(model.state_dict(), picture, shape) for picture in seen])
    assert found.shape == (2, 23) and expected.std() > 0.03
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_has_a_say(kind: str) -> None:
    """Else the comparison above would not see it."""
    shape = ram_worlds.SHAPES[kind]
    model, seen = ram_worlds.model(shape).double(), pixels(1)
    before, silent = model(seen), []
    for name, parameter in model.named_parameters():
        if name.startswith(("tag_encoder", "text_decoder")):
            continue
        kept = parameter.clone()
        parameter.add_(torch.randn_like(parameter))
        if (model(seen) - before).abs().max() < 1e-6:
            silent.append(name)
        parameter.copy_(kept)
    assert all(name.endswith(("qkv.bias", "key.bias")) for name in silent)


def test_descriptions_are_weighed_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = ram_worlds.model(ram_worlds.SHAPES["ram_plus"]).double(), pixels()
    whole = model(seen)
    monkeypatch.setattr(ram, "CHUNK", 4)
    torch.testing.assert_close(model(seen), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [64, 128])
def test_swin_is_the_one_of_transformers(size: int) -> None:
    transformers = pytest.importorskip("transformers")
    shape = SwinShape(size=size, width=8, depths=(2, 2, 2), heads=(1, 2, 4), window=4)
    config = transformers.SwinConfig(
        image_size=size, patch_size=4, embed_dim=8, depths=[2, 2, 2], num_heads=[1, 2, 4], window_size=4
    )
    torch.manual_seed(1)
    theirs, ours = transformers.SwinModel(config, add_pooling_layer=False).eval(), Swin(shape).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    fitted = theirs.load_state_dict(_transformers_names(ours.state_dict(), theirs), strict=False)
    assert not [key for key in fitted.missing_keys if "relative_position_index" not in key]
    assert not fitted.unexpected_keys
    picture = torch.randn(2, 3, size, size)
    with torch.no_grad():
        seen, expected = ours(picture), theirs(picture).last_hidden_state
    torch.testing.assert_close(seen[:, 1:], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[:, 0], expected.mean(1), rtol=1e-4, atol=1e-4)


def _transformers_names(state: dict, theirs: torch.nn.Module) -> dict:
    """Our weights by the names of this release of transformers; they changed within its fifth."""
    new = any("layers.0.blocks.0.attention.q_proj" in key for key in theirs.state_dict())
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"} if new else {}
    own = "attention." if new else "attention.self."
    out = {}
    for key, value in state.items():
        key = key.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
        if key.startswith("norm."):
            key = "layernorm." + key[5:]
        if key.startswith("patch_embed."):
            key = "embeddings." + key[12:].replace("proj.", "patch_embeddings.projection.")
        if key.startswith("layers."):
            key = "encoder." + key
        if "attn.qkv" in key:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[key.replace("attn.qkv", own + names.get(part, part))] = piece
            continue
        key = key.replace("attn.proj", "attention.o_proj" if new else "attention.output.dense")
        key = key.replace("attn.relative", own + ("relative_position_bias.relative" if new else "relative"))
        if not new:
            key = key.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        out[key] = value
    return out


# --- names and figures as published -----------------------------------------------------------------------------------


def swin_keys(width: int, heads: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    keys: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 3, 4, 4), "patch_embed.proj.bias": (width,),
        "patch_embed.norm.weight": (width,), "patch_embed.norm.bias": (width,),
        "norm.weight": (8 * width,), "norm.bias": (8 * width,),
    }  # fmt: skip
    for i, depth in enumerate((2, 2, 18, 2)):
        c = width * 2**i
        for j in range(depth):
            at = f"layers.{i}.blocks.{j}"
            for part, shape in (
                ("norm1", (c,)), ("norm2", (c,)), ("attn.qkv", (3 * c, c)), ("attn.proj", (c, c)),
                ("mlp.fc1", (4 * c, c)), ("mlp.fc2", (c, 4 * c)),
            ):  # fmt: skip
                keys[f"{at}.{part}.weight"], keys[f"{at}.{part}.bias"] = shape, shape[:1]
            keys[f"{at}.attn.relative_position_bias_table"] = (529, heads[i])
        if i < 3:
            keys[f"layers.{i}.downsample.norm.weight"] = keys[f"layers.{i}.downsample.norm.bias"] = (4 * c,)
            keys[f"layers.{i}.downsample.reduction.weight"] = (2 * c, 4 * c)
    return {f"visual_encoder.{key}": shape for key, shape in keys.items()}


def bert_keys(at: str, seen: int, attentions: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    keys: dict[str, tuple[int, ...]] = {}
    for attention in attentions:
        width = seen if attention == "crossattention" else 768
        for part, shape in (
            ("self.query", (768, 768)), ("self.key", (768, width)), ("self.value", (768, width)),
            ("output.dense", (768, 768)), ("output.LayerNorm", (768,)),
        ):  # fmt: skip
            keys[f"{at}.{attention}.{part}.weight"], keys[f"{at}.{attention}.{part}.bias"] = shape, (768,)
    for part, shape in (
        ("intermediate.dense", (3072, 768)),
        ("output.dense", (768, 3072)),
        ("output.LayerNorm", (768,)),
    ):
        keys[f"{at}.{part}.weight"], keys[f"{at}.{part}.bias"] = shape, shape[:1]
    return keys


def head_keys(seen: int) -> dict[str, tuple[int, ...]]:
    layers = [bert_keys(f"tagging_head.encoder.layer.{i}", seen, ("crossattention",)) for i in (0, 1)]
    return layers[0] | layers[1]


def ram_keys(descriptions: int) -> dict[str, tuple[int, ...]]:
    own = {
        "image_proj.weight": (512, 1536), "image_proj.bias": (512,), "label_embed": (4585 * descriptions, 512),
        "wordvec_proj.weight": (768, 512), "wordvec_proj.bias": (768,), "fc.weight": (1, 768), "fc.bias": (1,),
    }  # fmt: skip
    return swin_keys(192, (6, 12, 24, 48)) | head_keys(512) | own


def tag2text_keys() -> dict[str, tuple[int, ...]]:
    keys = swin_keys(128, (4, 8, 16, 32)) | head_keys(1024)
    keys |= {"label_embed.weight": (3429, 768), "fc.W": (1, 3429, 768), "fc.b": (1, 3429)}
    for half, seen in (("tag_encoder", 1024), ("text_decoder.bert", 768)):
        for i in range(12):
            keys |= bert_keys(f"{half}.encoder.layer.{i}", seen, ("attention", "crossattention"))
        keys |= {f"{half}.embeddings.word_embeddings.weight": (30524, 768)}
        keys |= {f"{half}.embeddings.position_embeddings.weight": (512, 768)}
        keys |= {f"{half}.embeddings.LayerNorm.weight": (768,), f"{half}.embeddings.LayerNorm.bias": (768,)}
    at = "text_decoder.cls.predictions"
    keys |= {f"{at}.bias": (30524,), f"{at}.decoder.weight": (30524, 768)}
    keys |= {f"{at}.transform.dense.weight": (768, 768), f"{at}.transform.dense.bias": (768,)}
    return keys | {f"{at}.transform.LayerNorm.weight": (768,), f"{at}.transform.LayerNorm.bias": (768,)}


def test_the_keys_are_those_of_the_published_files_one_by_one() -> None:
    assert keys_of(ram.RAM) == ram_keys(1)
    assert keys_of(ram.RAM_PLUS) == ram_keys(51) | {"reweight_scale": ()}
    assert keys_of(ram.TAG2TEXT) == tag2text_keys()


def test_the_sizes_are_those_that_were_counted() -> None:
    weights = {kind: sum(int(np.prod(s)) for s in keys_of(shape).values()) / 1e6 for kind, shape in ram.SHAPES.items()}
    assert weights["ram"] == pytest.approx(212.1, abs=0.05)
    assert weights["ram_plus"] == pytest.approx(329.5, abs=0.05)


def test_the_lists_are_the_published_ones() -> None:
    names, limits = tag_list("ram").names, tag_list("ram").thresholds
    assert len(names) == len(limits) == len(set(names)) == 4585
    assert Counter(limits)[0.65] == 3414 and Counter(limits)[0.8] == 735
    assert names[:5] == ("3D CG rendering", "3D glasses", "abacus", "abalone", "monastery")
    assert "desk" not in names and "table" in names
    other = tag_list("tag2text")
    assert len(other.names) == len(other.thresholds) == 3429
    assert {i: t for i, t in enumerate(other.thresholds) if t != 0.68} == {2701: 0.7, 2828: 0.7, 1167: 0.7}
    assert [other.names[i] for i in (2701, 2828, 1167)] == ["person", "man", "woman"]
    assert {other.names[i] for i in ram.TAG2TEXT_WITHOUT} == {"quarter", "back", "two", "three", "four", "five", "one"}
    sums = [hashlib.sha256((DATA / f"{kind}_tags.tsv").read_bytes()).hexdigest()[:16] for kind in ("ram", "tag2text")]
    assert sums == ["9b11cace7bed1e42", "67692e48548dce22"]


# --- what the models are shown ----------------------------------------------------------------------------------------


def triangle(line: np.ndarray, size: int) -> np.ndarray:
    """The first axis resampled with a triangle filter as wide as a new pixel covers, at least one old pixel."""
    old = len(line)
    scale = old / size
    reach = max(scale, 1.0)
    out = np.zeros((size, *line.shape[1:]))
    for i in range(size):
        centre, total = (i + 0.5) * scale, 0.0
        for j in range(max(0, int(centre - reach)), min(old, int(centre + reach) + 1)):
            weight = max(0.0, 1 - abs(j + 0.5 - centre) / reach)
            out[i] += weight * line[j]
            total += weight
        out[i] /= total
    return out


@pytest.mark.parametrize("shape", [(90, 40), (20, 31), (64, 64)])
def test_pictures_are_squeezed_and_normalised_as_computed_by_hand(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    art = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    wide = triangle(art.astype(float).transpose(1, 0, 2), 64).transpose(1, 0, 2)
    expected = (triangle(wide, 64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = ram.prepare([Image.fromarray(art)], 64)[0].permute(1, 2, 0).numpy()
    levels = np.abs(found - expected) * [0.229, 0.224, 0.225] * 255
    assert levels.max() < 1.01 and levels.mean() < 0.35  # Pillow rounds to whole levels twice
    if shape == (64, 64):
        assert levels.max() < 1e-3


def test_prepared_pictures_are_rgb_and_384() -> None:
    grey = Image.new("LA", (7, 9), (51, 0))
    out = ram.prepare([grey, Image.new("RGB", (400, 300), (51, 51, 51))])
    assert out.shape == (2, 3, 384, 384) and out.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        torch.testing.assert_close(out[:, channel], torch.full((2, 384, 384), (0.2 - mean) / std))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_sees_what_its_pictures_show_one_by_one(kind: str) -> None:
    model = ram_worlds.model(ram_worlds.SHAPES[kind])
    art = np.random.default_rng(3).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    pictures = [Image.fromarray(a) for a in art]
    whole = ram.look(model, pictures)
    alone = torch.cat([ram.look(model, [picture]).scores for picture in pictures])
    torch.testing.assert_close(whole.scores, alone, rtol=0, atol=1e-5)
    assert (whole.scores[0] - whole.scores[1]).abs().max() > 1e-3
    assert (whole.features is not None) == (kind == "tag2text")
    ready = ram.prepare(pictures, 64)
    torch.testing.assert_close(whole.scores, torch.sigmoid(model(ready)), rtol=0, atol=1e-5)
