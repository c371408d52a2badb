"""A small random SDXL pipeline of diffusers' real classes, with PixelWorld's tokenizer. No test."""

from __future__ import annotations

from typing import Any

import torch


def tiny_sdxl() -> Any:
    """Same weights each time; every part in evaluation mode."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from interplay.guidance.pixelworld import weights_dir
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, cross_attention_dim=64, block_out_channels=(16, 32), norm_num_groups=8, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4, sample_size=128)  # fmt: skip
    config = CLIPTextConfig(hidden_size=32, intermediate_size=64, projection_dim=32, num_hidden_layers=2,
                            num_attention_heads=2, vocab_size=49408)  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(str(weights_dir() / "tokenizer"))
    texts = CLIPTextModel(config).eval(), CLIPTextModelWithProjection(config).eval()
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return StableDiffusionXLPipeline(vae.eval(), *texts, tokenizer, tokenizer, unet.eval(), scheduler)
