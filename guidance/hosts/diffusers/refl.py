"""Diffusers pipelines of SD1.x, SD2.x and SDXL as models that the reward trainers can train."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import InterplayError
from ...engine import Capture
from ...graph import TokenGraph
from ...pixelworld.autoencoder import decode_small
from ...training.refl_model import Rung
from .capture import capturing
from .guidance import pipeline_graph


@dataclass(frozen=True)
class Said:
    """Prompts as the network takes them; added: further conditions of SDXL."""

    context: Tensor
    added: dict[str, Tensor] | None


class PipelineTrainee:
    """See ``training.refl_model.Trainee``. lora: what ``training.lora`` put into the pipeline's U-Net; size: of
    pictures in pixels, the pipeline's own where it is not given.
    """

    def __init__(self, pipeline: Any, lora: Any, size: int | None = None) -> None:
        config = getattr(getattr(pipeline, "scheduler", None), "config", {})
        self.kind = config.get("prediction_type", "")
        if (
            not hasattr(pipeline, "unet")
            or not hasattr(pipeline, "vae")
            or self.kind not in ("epsilon", "v_prediction")
        ):
            raise InterplayError(
                f"The reward trainers take pipelines of SD1.x, SD2.x and SDXL, not {type(pipeline).__name__}."
            )
        self.pipeline, self.lora = pipeline, lora
        self.name = type(pipeline).__name__
        side = pipeline.unet.config.sample_size if size is None else size // pipeline.vae_scale_factor
        self.shape: tuple[int, ...] = (pipeline.unet.config.in_channels, side, side)
        self.alphas: Tensor = pipeline.scheduler.alphas_cumprod.double()
        pipeline.unet.requires_grad_(False)
        pipeline.vae.requires_grad_(False)
        for p in lora.parameters():
            p.requires_grad_(True)
        self._texts: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._graphs: dict[str, TokenGraph] = {}

    def ladder(self, count: int) -> list[Rung]:
        """As the stock schedulers space their steps ("leading"), ending next to the clean picture."""
        total = len(self.alphas)
        if count > total:
            raise InterplayError(f"A ladder of {count} steps is longer than the model's schedule of {total}.")
        ratio = total // count
        offset = int(self.pipeline.scheduler.config.get("steps_offset", 0))
        return [self._rung(min(i * ratio + offset, total - 1)) for i in reversed(range(count))]

    def random_rung(self, u: float) -> Rung:
        """See Trainee."""
        return self._rung(min(int(u * len(self.alphas)), len(self.alphas) - 1))

    def _rung(self, t: int) -> Rung:
        alpha = float(self.alphas[t])
        return Rung(float(t), alpha**0.5, (1.0 - alpha) ** 0.5)

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Said:
        """See Trainee; texts are encoded once."""
        for text in dict.fromkeys(prompts):
            if text not in self._texts:
                self._texts[text] = self._encode(text)
        found = [self._texts[text] for text in prompts]
        context = torch.cat([f[0] for f in found])
        if found[0][1] is None:
            return Said(context, None)
        side = self.shape[-1] * self.pipeline.vae_scale_factor
        width = self.pipeline.text_encoder_2.config.projection_dim
        ids = self.pipeline._get_add_time_ids(
            (side, side), (0, 0), (side, side), dtype=context.dtype, text_encoder_projection_dim=width
        )
        pooled = torch.cat([f[1] for f in found if f[1] is not None])
        return Said(context, {"text_embeds": pooled, "time_ids": ids.to(context.device).expand(len(prompts), -1)})

    def _encode(self, text: str) -> tuple[Tensor, Tensor | None]:
        device, dtype = self.pipeline.unet.device, self.pipeline.unet.dtype
        if not hasattr(self.pipeline, "text_encoder_2"):
            return self.pipeline.encode_prompt(text, device, 1, False)[0].to(dtype), None
        found = self.pipeline.encode_prompt(
            text, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return found[0].to(dtype), found[2].to(dtype)

    def words(self, prompt: str) -> TokenGraph:
        """The prompt's words and where they stand among its tokens; parsed once."""
        if prompt not in self._graphs:
            self._graphs[prompt] = pipeline_graph(self.pipeline, prompt)
        return self._graphs[prompt]

    def reading(self, prompt: str, count: int, rung: Rung) -> tuple[Capture, float]:
        """See ``training.steering.Readable``."""
        unet, said = self.pipeline.unet, self.condition([prompt] * count)
        extra = {"added_cond_kwargs": said.added} if said.added else {}
        time = torch.as_tensor(rung.name, device=self.device()).round().long()
        sample = torch.empty(count, *self.shape, dtype=unet.dtype, device=self.device())
        call = {"sample": sample, "timestep": time, "encoder_hidden_states": said.context, **extra}
        return capturing(unet, call, self.words(prompt), 0), 1.0

    def denoise(self, x: Tensor, rung: Rung, condition: Said) -> Tensor:
        """See Trainee."""
        unet = self.pipeline.unet
        t = torch.as_tensor(rung.name, device=x.device).round().long().reshape(-1).expand(len(x))
        extra = {"added_cond_kwargs": condition.added} if condition.added else {}
        said = unet(x.to(unet.dtype), t, encoder_hidden_states=condition.context, **extra).sample.float()
        if self.kind == "v_prediction":
            return rung.signal * x - rung.noise * said
        return (x - rung.noise * said) / rung.signal

    def decode(self, latents: Tensor) -> Tensor:
        """See Trainee."""
        vae = self.pipeline.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return vae.decode((latents / vae.config.scaling_factor + shift).to(vae.dtype)).sample.float() / 2 + 0.5

    def parameters(self) -> list[nn.Parameter]:
        """See Trainee."""
        return list(self.lora.parameters())

    def adapter_off(self) -> AbstractContextManager[None]:
        """See Trainee."""
        off: AbstractContextManager[None] = self.lora.off()
        return off

    def heavy(self) -> Iterable[nn.Module]:
        """See Trainee."""
        return (self.pipeline.unet, self.pipeline.vae.decoder)

    def device(self) -> torch.device:
        """See Trainee."""
        device: torch.device = self.pipeline.unet.device
        return device


class PixelWorldTrainee(PipelineTrainee):
    """PixelWorld: pictures are the 32x32 art, which is all that its decoder knows, at a sixteenth of the cost."""

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 4, 16, 16) to (B, 3, 32, 32); the whole decoder repeats each of these pixels four times a side."""
        vae = self.pipeline.vae
        return decode_small(vae, latents.to(vae.dtype) / vae.config.scaling_factor).float() / 2 + 0.5
