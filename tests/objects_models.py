"""Folders with tiny random models of transformers, as they lie in models/interplay. Not a test itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
CLIP_WORDS = ROOT / "guidance/pixelworld/weights/tokenizer"
WORDS = ("red", "blue", "robot", "box", "cat", "dog", "pot", "##ted", "plant", "table", "a", "the", "in", "forest")


def bert_tokenizer(folder: Path) -> None:
    from transformers import BertTokenizerFast

    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *(f"##{c}" for c in letters)]
    vocabulary += [w for w in WORDS if w not in vocabulary]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    try:
        made = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
        assert made.convert_tokens_to_ids("robot") != made.convert_tokens_to_ids("[UNK]")
    except (TypeError, AssertionError):
        made = BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)})
    made.save_pretrained(folder)


def dino(folder: Path, seed: int = 0) -> Path:
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        SwinConfig,
    )

    torch.manual_seed(seed)
    swin = SwinConfig(
        image_size=64, window_size=4, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], patch_size=4,
        out_features=["stage2", "stage3", "stage4"], out_indices=[2, 3, 4],
    )  # fmt: skip
    text = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=128,
        max_position_embeddings=256,
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=9, num_feature_levels=4,
        query_dim=4,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    bert_tokenizer(folder)
    return folder


def sam(folder: Path, seed: int = 0) -> Path:
    from transformers import SamConfig, SamImageProcessor, SamModel

    torch.manual_seed(seed)
    vision = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
        "output_channels": 16,
        "mlp_dim": 16, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 8,
    }  # fmt: skip
    prompt = {
        "hidden_size": 16,
        "image_size": 64,
        "patch_size": 16,
        "mask_input_channels": 4,
        "image_embedding_size": 4,
    }
    mask = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16, "iou_head_depth": 2}
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask)
    SamModel(config).save_pretrained(folder)
    SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def sam2(folder: Path, seed: int = 0) -> Path:
    from transformers import Sam2Config, Sam2Model
    from transformers.models.sam2.configuration_sam2 import (
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )  # fmt: skip

    try:
        from transformers import Sam2ImageProcessor as Processor
    except ImportError:
        from transformers import Sam2ImageProcessorFast as Processor

    torch.manual_seed(seed)
    hiera = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 24, 32], num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 2, 4, 4], global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[32, 24, 16, 8], fpn_hidden_size=16,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    prompt = Sam2PromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4)
    mask = Sam2MaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16, iou_head_depth=2
    )
    Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask)).save_pretrained(
        folder
    )
    Processor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def sam3(folder: Path, seed: int = 0) -> Path:
    from transformers import CLIPTokenizerFast, Sam3Config, Sam3ImageProcessor, Sam3Model
    from transformers.models.sam3.configuration_sam3 import (
        Sam3DETRDecoderConfig,
        Sam3DETREncoderConfig,
        Sam3GeometryEncoderConfig,
        Sam3MaskDecoderConfig,
        Sam3VisionConfig,
        Sam3ViTConfig,
    )  # fmt: skip

    torch.manual_seed(seed)
    vit = Sam3ViTConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=112, patch_size=14,
        window_size=4, global_attn_indexes=[1], pretrain_image_size=56,
    )  # fmt: skip
    sizes = {"hidden_size": 32, "num_attention_heads": 2}
    layers = dict(**sizes, num_layers=1, intermediate_size=32)
    text = {
        "model_type": "clip_text_model", "vocab_size": 49408, "hidden_size": 16, "intermediate_size": 16,
        "projection_dim": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32,
    }  # fmt: skip
    config = Sam3Config(
        vision_config=Sam3VisionConfig(
            backbone_config=vit, fpn_hidden_size=32, backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]]
        ),
        text_config=text,
        geometry_encoder_config=Sam3GeometryEncoderConfig(**layers),
        detr_encoder_config=Sam3DETREncoderConfig(**layers),
        detr_decoder_config=Sam3DETRDecoderConfig(**layers, num_queries=6),
        mask_decoder_config=Sam3MaskDecoderConfig(**sizes),
    )
    Sam3Model(config).save_pretrained(folder)
    Sam3ImageProcessor(size={"height": 112, "width": 112}).save_pretrained(folder)
    CLIPTokenizerFast.from_pretrained(CLIP_WORDS).save_pretrained(folder)
    return folder


def bart_tokenizer(folder: Path):
    """Letters, and Florence-2's places, as BART's tokenizer."""
    from transformers import BartTokenizerFast

    letters = [chr(n) for n in (*range(33, 127), *range(161, 173), *range(174, 256))] + ["\u0120"]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {word: i for i, word in enumerate([*special, *letters])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    try:
        made = BartTokenizerFast(vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"))
        assert len(made) >= len(vocabulary)
    except (TypeError, AssertionError):
        made = BartTokenizerFast(vocab=vocabulary, merges=[])
    made.add_tokens([*(f"<loc_{n}>" for n in range(1000)), "<sep>", "<poly>", "</poly>", "<od>", "</od>"])
    made.add_tokens(["<image>"], special_tokens=True)
    made.save_pretrained(folder)
    path = folder / "tokenizer_config.json"  # as in the published folder
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "extra_special_tokens": {"image_token": "<image>"}}), encoding="utf-8")
    return BartTokenizerFast.from_pretrained(folder)


def florence(folder: Path, seed: int = 0) -> Path:
    from transformers import (
        BartConfig,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )  # fmt: skip
    from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

    torch.manual_seed(seed)
    tokenizer = bart_tokenizer(folder)
    vision = Florence2VisionConfig(
        depths=(1, 1), patch_size=(7, 3), patch_stride=(4, 2), patch_padding=(3, 1), patch_prenorm=(False, True),
        embed_dim=(8, 16), num_heads=(1, 2), num_groups=(1, 2), window_size=4, projection_dim=16,
    )  # fmt: skip
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=600, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    images.image_seq_length = 17
    Florence2Processor(images, tokenizer).save_pretrained(folder)
    return folder


def kind(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
