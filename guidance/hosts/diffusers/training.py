"""A diffusers pipeline as the trainers see it: those with the U-Nets and text encoders of SD1.x, SD2.x and SDXL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import InterplayError
from ...training.learner import Levels
from ...training.lora import Lora, inject

KINDS = {"epsilon": "eps", "v_prediction": "v"}


class PipelineLearner:
    """A pipeline with a new LoRA in its U-Net. Everything but the LoRA is frozen; ``close`` takes the LoRA out again.

    Raises:
        InterplayError: the pipeline is of another kind, or takes no LoRA.
    """

    def __init__(
        self, pipeline: Any, rank: int = 8, alpha: float | None = None, targets: str = "attn", seed: int = 0
    ) -> None:
        said = getattr(getattr(pipeline, "scheduler", None), "config", {}).get("prediction_type", "")
        if not hasattr(pipeline, "unet") or not hasattr(pipeline, "vae") or said not in KINDS:
            raise InterplayError(
                f"This trainer takes pipelines of SD1.x, SD2.x and SDXL, not {type(pipeline).__name__}."
            )
        self.pipeline, self.kind = pipeline, KINDS[said]
        for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
            if getattr(pipeline, part, None) is not None:
                getattr(pipeline, part).requires_grad_(False).eval()
        self.alphas: Tensor = pipeline.scheduler.alphas_cumprod.float()
        self.lora: Lora = inject(pipeline.unet, rank, alpha, targets, seed)
        side = pipeline.unet.config.sample_size
        self.shape: tuple[int, ...] = (pipeline.unet.config.in_channels, side, side)
        self.name = type(pipeline).__name__
        self._texts: dict[str, tuple[Tensor, Tensor | None]] = {}

    @property
    def xl(self) -> bool:
        """Whether there is a second text encoder."""
        return getattr(self.pipeline, "text_encoder_2", None) is not None

    def levels(self, u: Tensor) -> Levels:
        """See Learner; shares are rounded to the whole timesteps of the schedule."""
        t = (u * len(self.alphas)).long().clamp(0, len(self.alphas) - 1)
        alpha = self.alphas[t.cpu()].to(self.device())
        return Levels.of(self.kind, t.to(self.device()), alpha.sqrt(), (1 - alpha).sqrt())

    @torch.no_grad()
    def _encode(self, text: str) -> tuple[Tensor, Tensor | None]:
        if text not in self._texts:
            asked = {"device": self.device(), "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
            found = self.pipeline.encode_prompt(text, **asked)
            self._texts[text] = (found[0].cpu(), found[2].cpu() if self.xl else None)
        return self._texts[text]

    def condition(self, texts: Sequence[str]) -> Any:
        """See Learner."""
        found = [self._encode(text) for text in texts]
        unet = self.pipeline.unet
        context = torch.cat([f[0] for f in found]).to(self.device(), unet.dtype)
        if not self.xl:
            return context, None
        size = tuple(n * self.pipeline.vae_scale_factor for n in self.shape[1:])
        projection = self.pipeline.text_encoder_2.config.projection_dim
        ids = self.pipeline._get_add_time_ids(
            size, (0, 0), size, dtype=unet.dtype, text_encoder_projection_dim=projection
        )
        pooled = torch.cat([f[1] for f in found if f[1] is not None]).to(self.device(), unet.dtype)
        return context, {"text_embeds": pooled, "time_ids": ids.to(self.device()).expand(len(texts), -1)}

    def denoise(self, x: Tensor, levels: Levels, condition: Any) -> Tensor:
        """See Learner."""
        context, added = condition
        extra: dict[str, Any] = {"added_cond_kwargs": added} if added else {}
        unet = self.pipeline.unet
        said = unet(x.to(unet.dtype), levels.name, encoder_hidden_states=context, **extra).sample
        if self.kind == "v":
            return levels.signal * x - levels.noise * said.float()
        return (x - levels.noise * said.float()) / levels.signal

    def decode(self, latents: Tensor) -> Tensor:
        """See Learner."""
        vae = self.pipeline.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        pictures = vae.decode((latents / vae.config.scaling_factor + shift).to(vae.dtype)).sample
        return pictures.float() / 2 + 0.5

    def parameters(self) -> list[nn.Parameter]:
        """See Learner."""
        return list(self.lora.parameters())

    def adapter_off(self) -> AbstractContextManager[None]:
        """See Learner."""
        return self.lora.off()

    def heavy(self) -> Iterable[nn.Module]:
        """See Learner."""
        return (self.pipeline.unet, self.pipeline.vae)

    def device(self) -> torch.device:
        """See Learner."""
        found: torch.device = self.pipeline.unet.device
        return found

    def close(self) -> None:
        """Take the LoRA out."""
        self.lora.remove()
