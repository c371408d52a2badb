"""Pipelines for the protocols: from a folder, or of Stable Diffusion 1.5's architecture with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ....errors import InterplayError
from ...pixelworld import weights_dir

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
RANDOM = ("random-sd15", "random-tiny")


def open_folder(folder: Path, dtype: torch.dtype, device: str) -> Any:
    """The diffusers pipeline in a folder; nothing is downloaded.

    Raises:
        InterplayError: there is none, or it cannot be loaded.
    """
    from diffusers import DiffusionPipeline

    if not (folder / "model_index.json").is_file():
        raise InterplayError(
            f"There is no diffusers pipeline in {folder} (no model_index.json); put the files of a pipeline there, "
            f"such as {SD15} of huggingface.co (about 4 GB in half precision), or use --model pixelworld."
        )
    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(str(folder), torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InterplayError(f"The pipeline in {folder} cannot be loaded ({error}); download it again.") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def random_pipeline(name: str, seed: int = 0) -> Any:
    """Stable Diffusion 1.5 with weights drawn by ``seed``: "random-sd15" in its own size, "random-tiny" with its layers
    but few channels, on 16x16 latents. Its pictures are noise; it shows that everything runs.
    """
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    if name not in RANDOM:
        raise InterplayError(f"There is no random model '{name}'; choose one of {', '.join(RANDOM)}.")
    whole = name == "random-sd15"
    width = 768 if whole else 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=64 if whole else 16,
            cross_attention_dim=width,
            attention_head_dim=8 if whole else 2,
            block_out_channels=(320, 640, 1280, 1280) if whole else (16, 16, 32, 32),
            norm_num_groups=32 if whole else 8,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512) if whole else (8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2 if whole else 1,
            norm_num_groups=32 if whole else 4,
            latent_channels=4,
            sample_size=512 if whole else 128,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                projection_dim=width,
                num_hidden_layers=12 if whole else 2,
                num_attention_heads=12 if whole else 2,
                vocab_size=49408,
                bos_token_id=49406,
                eos_token_id=49407,
            )
        )
    tokenizer = CLIPTokenizer.from_pretrained(str(weights_dir() / "tokenizer"))
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    parts: list[Any] = [vae, text, unet]
    for part in parts:
        part.eval()
    pipeline: Any = StableDiffusionPipeline(
        vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
