"""ComfyUI's MODEL, CLIP and VAE as a model that the reward trainers can train."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from ....errors import InterplayError
from ....parsing import parse
from ...engine import Capture, GuidedMaps
from ...graph import TokenGraph, token_graph
from ...training.lora import Lora, inject
from ...training.refl_model import Rung
from .attention import with_exact_attention
from .capture import MapCapture, PassComplete, guided_layers
from .conditioning import tables_of
from .passes import gradient_region
from .weights import OrdinaryInputs, recompute

LAST = 999


class ModelTrainee:
    """See ``training.refl_model.Trainee``. The model acts with its weight patches (LoRAs before it); what other nodes
    do to sampling takes no part. texts: every prompt that will be asked for, encoded once before training.
    """

    name = "ComfyUI"

    def __init__(self, model: Any, clip: Any, vae: Any, texts: Sequence[str], size: tuple[int, int]) -> None:
        if not isinstance(model.model.diffusion_model, UNetModel):
            raise InterplayError(
                "The reward trainers take models of SD1.x, SD2.x and SDXL; connect a MODEL of one of these."
            )
        self.patcher, self.vae = model, vae
        self.base: Any = model.model
        self.sampling: Any = model.model.model_sampling
        scale = int(vae.spacial_compression_encode()) if hasattr(vae, "spacial_compression_encode") else 8
        self.pixels = size
        self.shape: tuple[int, ...] = (self.base.latent_format.latent_channels, size[0] // scale, size[1] // scale)
        self._texts = {text: _encoded(clip, text) for text in dict.fromkeys(("", *texts))}
        self.lora: Lora | None = None
        self._clip, self._graphs = clip, dict[str, TokenGraph]()

    @contextlib.contextmanager
    def opened(self, rank: int, targets: str, seed: int) -> Iterator[None]:
        """While open the models are loaded, have a LoRA, and every gradient to it exists.

        No weight is kept for a backward pass (see ``weights``): casts, LoRAs, offloading stay the host's business.
        """
        self.load()
        unet, decoder = self.base.diffusion_model, self.vae.first_stage_model
        with torch.inference_mode(False), torch.enable_grad():
            lora = self.lora = inject(unet, rank, targets=targets, seed=seed, names=_names(self.patcher))
            try:
                lora.to(self.device())
                with recompute(unet), recompute(decoder), OrdinaryInputs():
                    yield
            finally:
                lora.remove()

    def load(self) -> None:
        """Ask the host for both models on their device."""
        height, width = self.shape[-2:]
        needed = self.base.memory_required([2, self.shape[0], height, width])
        needed += self.vae.memory_used_decode((1, self.shape[0], height, width), self.vae.vae_dtype)
        with torch.inference_mode():
            comfy.model_management.load_models_gpu([self.patcher, self.vae.patcher], memory_required=2 * needed)

    def ladder(self, count: int) -> list[Rung]:
        """Evenly spaced in the model's own time, ending next to the clean picture."""
        if count > LAST:
            raise InterplayError(f"A ladder of {count} steps is longer than the model's schedule.")
        step = (LAST + 1) // count
        return [self._rung(1.0 + i * step) for i in reversed(range(count))]

    def random_rung(self, u: float) -> Rung:
        """See Trainee."""
        return self._rung(u * LAST)

    def _rung(self, timestep: float) -> Rung:
        sampling = self.sampling
        if isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
            place = torch.tensor(timestep * (len(sampling.sigmas) - 1) / LAST)
            sigma = float(sampling.sigma(place.to(sampling.sigmas.device)))
        else:
            sigma = float(sampling.percent_to_sigma(min(max(1.0 - timestep / LAST, 1e-4), 1.0 - 1e-4)))
        at = torch.tensor([sigma], dtype=torch.float32)
        one, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        signal = float(sampling.noise_scaling(at, none.clone(), one.clone()))
        return Rung(sigma, signal, float(sampling.noise_scaling(at, one.clone(), none.clone())))

    def condition(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """See Trainee: what ``apply_model`` takes, one row a prompt, so that prompts never mix."""
        found = [self._texts[text] for text in prompts]
        longest = math.lcm(*(context.shape[1] for context, _ in found))
        context = torch.cat([context.repeat(1, longest // context.shape[1], 1) for context, _ in found])
        device, count = self.device(), len(prompts)
        pooled = None if found[0][1] is None else torch.cat([p for _, p in found if p is not None])
        height, width = self.pixels
        with torch.no_grad():
            rows = []
            for row in range(count):  # what SDXL is told beside the text, as the host makes it, prompt by prompt
                one = {} if pooled is None else {"pooled_output": pooled[row : row + 1].to(device)}
                rows.append(
                    self.base.extra_conds(
                        cross_attn=context[row : row + 1].to(device),
                        noise=torch.zeros(1, *self.shape, device=device),
                        device=device,
                        width=width,
                        height=height,
                        prompt_type="positive",
                        **one,
                    )
                )
            ready = [{k: v.process_cond(batch_size=1, device=device).cond for k, v in row.items()} for row in rows]
            return {key: torch.cat([row[key] for row in ready]) for key in ready[0]}

    def denoise(self, x: Tensor, rung: Rung, condition: dict[str, Tensor]) -> Tensor:
        """See Trainee."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigma = torch.as_tensor(rung.name, dtype=torch.float32, device=x.device).reshape(-1).expand(len(x))
        found: Tensor = self.base.apply_model(
            x, sigma, **condition, transformer_options=with_exact_attention({"sample_sigmas": sigma[:1]})
        )
        return found.float()

    def words(self, prompt: str) -> TokenGraph:
        """The prompt's words and where they stand among its tokens; parsed once."""
        if prompt not in self._graphs:
            tables = tables_of(self._clip, prompt, self._clip.tokenize(prompt))
            self._graphs[prompt] = token_graph(parse(prompt), next(iter(tables.values())))
        return self._graphs[prompt]

    def reading(self, prompt: str, count: int, rung: Rung) -> tuple[Capture, float]:
        """See ``training.steering.Readable``."""
        condition, unet, graph = self.condition([prompt] * count), self.base.diffusion_model, self.words(prompt)
        sigma = torch.full((count,), float(rung.name), device=self.device())
        scale = float(self.sampling.calculate_input(sigma[:1].cpu(), torch.ones(1, 1, 1, 1)))

        def capture(z: Tensor) -> list[GuidedMaps]:
            comfy.model_management.throw_exception_if_processing_interrupted()
            maps = MapCapture(guided_layers(unet, *z.shape[-2:]), graph, count)
            options = with_exact_attention({"sample_sigmas": sigma[:1]})
            with gradient_region(unet), maps.hooked(), contextlib.suppress(PassComplete):
                self.base.apply_model(z / scale, sigma, **condition, transformer_options=options)
            return [GuidedMaps(0, graph, maps.maps())]

        return capture, scale

    def decode(self, latents: Tensor) -> Tensor:
        """See Trainee; the autoencoder itself, since ``VAE.decode`` leaves the graph."""
        vae = self.vae
        raw = self.base.process_latent_out(latents).to(vae.device, vae.vae_dtype)
        found: Tensor = vae.first_stage_model.decode(raw)
        return (found.float() / 2 + 0.5).to(latents.device)

    def parameters(self) -> list[nn.Parameter]:
        """See Trainee."""
        return list(self._injected().parameters())

    def adapter_off(self) -> AbstractContextManager[None]:
        """See Trainee."""
        return self._injected().off()

    def heavy(self) -> Iterable[nn.Module]:
        """See Trainee."""
        return (self.base.diffusion_model, self.vae.first_stage_model)

    def device(self) -> torch.device:
        """See Trainee."""
        device: torch.device = self.patcher.load_device
        return device

    def _injected(self) -> Lora:
        if self.lora is None:
            raise InterplayError("The model has no LoRA yet; open it first.")
        return self.lora


def _encoded(clip: Any, text: str) -> tuple[Tensor, Tensor | None]:
    """Context (1, T, D) and pooled vector as ordinary tensors on the CPU."""
    with torch.inference_mode():
        context, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    with torch.inference_mode(False):
        return context.float().cpu().clone(), None if pooled is None else pooled.float().cpu().clone()


def _names(patcher: Any) -> dict[str, str]:
    """ComfyUI's names of the U-Net's modules -> diffusers'."""
    table = comfy.utils.unet_to_diffusers(patcher.model.model_config.unet_config)
    ends = ".weight"
    return {own[: -len(ends)]: other[: -len(ends)] for other, own in table.items() if other.endswith(ends)}


def with_lora(model: Any, state: dict[str, Tensor], strength: float, layers: int) -> Any:
    """A clone of MODEL with the LoRA, by the host's own reader.

    Raises:
        InterplayError: the host leaves a key over.
    """
    import comfy.lora

    known = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(dict(state), known, log_missing=False)
    clone = model.clone()
    taken = clone.add_patches(patches, strength)
    roots = {key.rsplit(".lora_", 1)[0] for key in state if ".lora_" in key}
    if len(patches) != layers or len(taken) != layers or len(roots) != layers:
        raise InterplayError(
            f"This ComfyUI takes {len(taken)} of the LoRA's {layers} layers; its file is kept, but update Interplay "
            "before you use it."
        )
    return clone
