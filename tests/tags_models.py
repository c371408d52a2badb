"""A small vision-language chat model of a real class that learned to tell black pictures from white ones. No test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_models import END, byte_tokenizer
from PIL import Image

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

TEMPLATE = "<image>|"
BLACK = '{"tags": ["cat", "black box"], "caption": "A cat."}'
WHITE = '```json\n{"tags": ["dog",], "caption": ""}\n```'


def _processor() -> Any:
    tokenizer = byte_tokenizer(None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = transformers.CLIPImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False)
    return transformers.LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip


def _model(tokenizer: Any) -> Any:
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1, vision_feature_select_strategy="default",
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config)


def vlm(folder: Path) -> Path:
    """LlavaForConditionalGeneration, trained until it says BLACK of black pictures and WHITE of white ones."""
    torch.manual_seed(7)
    processor = _processor()
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "right"
    model = _model(tokenizer)
    pictures = [Image.new("RGB", (16, 16), color) for color in ("black", "white")]
    texts = [TEMPLATE + said + END for said in (BLACK, WHITE)]
    inputs = processor(images=[[p] for p in pictures], text=texts, return_tensors="pt", padding=True)
    start = processor(images=[[pictures[0]]], text=[TEMPLATE], return_tensors="pt")["input_ids"].shape[1]
    labels = inputs["input_ids"].clone()
    labels[:, :start] = -100
    for row, said in zip(labels, (BLACK, WHITE), strict=True):
        row[start + len(tokenizer(said)["input_ids"]) + 1 :] = -100
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(500):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    assert loss.item() < 0.05
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
