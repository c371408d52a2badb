"""InteractDiffusion inside ComfyUI: against the second implementation, through the host's own sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy_tiny as tiny
import pytest
import torch
from interaction_reference import MICRO, SMALL, random_state, tokenize, unet
from interplay.errors import InterplayError
from test_interaction_core import CUT, FORMS, fusers_only, write
from torch import Tensor

pytestmark = pytest.mark.comfy
TOY = {"channels": 32, "mult": (1, 2), "layers": 1, "width": 64, "slots": 4}  # takes PixelWorld's prompts
TEXT = "cat | chases | dog @ 0.05,0.2,0.5,0.9 ; 0.55,0.3,0.95,0.95"


@pytest.fixture(autouse=True, scope="module")
def executor() -> Any:
    """ComfyUI runs every node inside inference mode."""
    with torch.inference_mode():
        yield


def save(state: dict[str, Tensor], folder: Path, name: str = "model.safetensors") -> Path:
    from safetensors.torch import save_file

    save_file(state, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from interplay.guidance.hosts.comfyui.interaction_loader import load

    state = random_state(5, **TOY)
    return state, load(save(state, tmp_path_factory.mktemp("toy")))


@pytest.fixture(scope="module")
def clip() -> Any:
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld

    return load_pixelworld()[1]


def layout(text: str = TEXT) -> Any:
    from interplay.guidance.interaction.layout import from_text

    return from_text(text)


def encode(clip: Any, text: str) -> list[list[Any]]:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def schedule(*values: float) -> Any:
    from interplay.guidance.interaction.network import Schedule

    return Schedule(*values)


def grounded(toy: Any, clip: Any, *values: float, positive: Any = None) -> tuple[Any, Any]:
    from interplay.guidance.hosts.comfyui.interaction import condition

    positive = encode(clip, "a cat chases a dog") if positive is None else positive
    return condition(positive, encode(clip, "blurry"), toy[1].interact, clip, layout(), schedule(*values))


def reference_tokens(state: dict[str, Tensor], clip: Any) -> Tensor:
    from interplay.guidance.hosts.comfyui.interaction import phrase_feature

    phrases = {"subject": "cat", "action": "chases", "object": "dog"}
    given = {role: phrase_feature(clip, word) for role, word in phrases.items()}
    boxes = {"subject_box": [0.05, 0.2, 0.5, 0.9], "object_box": [0.55, 0.3, 0.95, 0.95]}
    return tokenize(state, [{**given, **boxes}])


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    worst = float((ours.float().cpu() - theirs).abs().max()) / max(1.0, float(theirs.abs().max()))
    assert worst <= tolerance, worst


def denoised(model: Any, positive: Any, negative: Any, x: Tensor, sigma: float, cfg: float = 3.0) -> Tensor:
    """What the host's own sampling code makes of one latent at one noise level."""
    import comfy.samplers

    found: list[Tensor] = []

    def look(model_k: Any, noisy: Tensor, sigmas: Tensor, extra_args: Any = None, **kwargs: Any) -> Tensor:
        found.append(model_k(x, sigmas[:1].expand(len(x)), **(extra_args or {})))
        return noisy

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    kind = comfy.samplers.KSAMPLER(look)
    guider.sample(torch.zeros_like(x), torch.zeros_like(x), kind, torch.tensor([sigma, 0.0]), disable_pbar=True, seed=1)
    return found[0]


def by_reference(
    state: Any, model: Any, texts: Any, tokens: Any, x: Tensor, sigma: float, beta: float = 1.0, cfg: float = 3.0
) -> Tensor:
    sampling = model.get_model_object("model_sampling")
    t = sampling.timestep(torch.tensor([sigma])).float().expand(len(x))
    scaled = x / (sigma**2 + 1) ** 0.5
    noise = [
        unet(state, scaled, t, c.float().expand(len(x), -1, -1), k, beta) for c, k in zip(texts, tokens, strict=True)
    ]
    return x - sigma * (noise[1] + cfg * (noise[0] - noise[1]))


def latent(batch: int = 2, size: tuple[int, int] = (8, 12), seed: int = 4) -> Tensor:
    return 3.0 * torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(seed))


# --- equality --------------------------------------------------------------------------------------------------------


def network_output(loaded: Any, x: Tensor, t: Tensor, context: Tensor, tokens: Tensor | None, scale: float) -> Tensor:
    """The bare U-Net of a loaded model, with its fusers where the host calls them."""
    from interplay.guidance.hosts.comfyui.interaction import FuserPatch, Gate, GroundingParameters

    options: dict[str, Any] = {"sigmas": torch.ones(1)}
    if tokens is not None:
        patch = FuserPatch(loaded.interact.patcher.model, GroundingParameters(tokens, Gate(scale)))
        options["patches"] = {"middle_patch": [patch]}
    return loaded.model.model.diffusion_model(x, t, context, transformer_options=options)


def check_modes(loaded: Any, state: dict[str, Tensor], width: int) -> None:
    from interaction_reference import interactions
    from interplay.guidance.interaction.network import Grounding
    from test_interaction_core import grounding

    x, t = latent(2, (4, 6), 8) / 3, torch.tensor([700.0, 30.0])
    context = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(9))
    given = interactions(width)
    interact = loaded.interact
    wanted: Grounding = grounding(given, interact.slots)
    ours = {"off": None, "null": interact.null_tokens, "boxes": interact.tokenizer(wanted)}
    theirs = {"off": None, "null": tokenize(state, []), "boxes": tokenize(state, given)}
    outs = {}
    for mode in ours:
        outs[mode] = unet(state, x, t, context, theirs[mode])
        close(network_output(loaded, x, t, context, ours[mode], 1.0), outs[mode])
    close(network_output(loaded, x, t, context, ours["boxes"], 0.3), unet(state, x, t, context, theirs["boxes"], 0.3))
    assert float((outs["null"] - outs["off"]).abs().max()) > 0.01
    assert float((outs["boxes"] - outs["null"]).abs().max()) > 0.003


@pytest.mark.parametrize("form", FORMS)
def test_every_form_paints_as_the_reference_in_every_mode(form: str, tmp_path: Path) -> None:
    from interplay.guidance.hosts.comfyui import interaction_loader as loader

    state = random_state(2, **CUT)
    path = write(form, state, tmp_path)
    with pytest.MonkeyPatch.context() as patch:  # the file's CLIP and VAE are too small to be any
        patch.setattr(loader, "load_clip", lambda parts: None)
        patch.setattr(loader, "load_vae", lambda parts: None)
        if form.startswith("webui"):
            with pytest.raises(InterplayError, match="connect an SD1"):
                loader.load(path)
            base = {k: v for k, v in state.items() if k not in fusers_only(state)}
            (tmp_path / "base").mkdir()
            model = loader.load(write("flat", state, tmp_path / "base")).model
            assert len(base) < len(state)
            loaded = loader.load(path, model=model)
            assert "no base of its own" in loaded.report
        else:
            loaded = loader.load(path)
    check_modes(loaded, state, 48)


@pytest.mark.parametrize("size", [MICRO, SMALL], ids=["micro", "small"])
def test_other_sizes_paint_as_the_reference_in_every_mode(size: dict[str, Any], tmp_path: Path) -> None:
    """The small size is one that ComfyUI itself takes for SD1.5; the micro one is built from its tensors."""
    from interplay.guidance.hosts.comfyui.interaction_loader import load

    state = random_state(1, **size)
    check_modes(load(save(state, tmp_path), "fp32"), state, 768)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_the_shipped_fusers_know_places_in_pictures_of_any_shape(size: tuple[int, int]) -> None:
    """PixelWorld's fusers, which are told where cells are, equal the reference in every mode."""
    from interaction_reference import interactions
    from interplay.guidance.hosts.comfyui.interaction_loader import load, unet_state
    from interplay.guidance.pixelworld.fusers import fusers_file
    from safetensors.torch import load_file
    from test_interaction_core import grounding

    loaded = load(fusers_file(), "fp32")
    state = {key: value.float() for key, value in load_file(fusers_file()).items()}
    assert any(key.endswith("fuser.place.weight") for key in state)
    state |= {key: value.float() for key, value in unet_state(loaded.model).items()}
    loaded.model.model.diffusion_model.float()
    x, t, given = latent(2, size, 8) / 3, torch.tensor([900.0, 30.0]), interactions(64)
    context = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(9))
    ours = loaded.interact.tokenizer(grounding(given, loaded.interact.slots))
    null = loaded.interact.null_tokens
    for tokens, theirs in ((None, None), (null, tokenize(state, [])), (ours, tokenize(state, given))):
        close(network_output(loaded, x, t, context, tokens, 1.0), unet(state, x, t, context, theirs, heads=4))


def test_half_precision_fusers_serve_a_model_in_full_precision(tmp_path: Path) -> None:
    from interplay.guidance.hosts.comfyui.interaction_loader import load

    state = random_state(2, **CUT)
    path = save(state, tmp_path)
    model = load(path).model
    x, t, context = latent(1, (4, 6), 8) / 3, torch.tensor([300.0]), torch.randn(1, 5, 48)
    exact = unet(state, x, t, context, tokenize(state, []))
    for dtype, tolerance in (("fp16", 2e-2), ("bf16", 5e-2), ("fp8_e4m3fn", 0.3)):
        loaded = load(path, dtype, model=model)
        assert loaded.interact.patcher.model.fusers[0].linear.weight.dtype == getattr(torch, {
            "fp16": "float16", "bf16": "bfloat16", "fp8_e4m3fn": "float8_e4m3fn"}[dtype])  # fmt: skip
        close(network_output(loaded, x, t, context, loaded.interact.null_tokens, 1.0), exact, tolerance)


# --- sampling --------------------------------------------------------------------------------------------------------


def test_boxes_reach_the_prompt_and_null_tokens_the_negative(toy: Any, clip: Any) -> None:
    state, loaded = toy
    positive, negative = grounded(toy, clip)
    texts, x = [c[0][0] for c in (positive, negative)], latent()
    tokens = [reference_tokens(state, clip), tokenize(state, [])]
    ours = denoised(loaded.model, positive, negative, x, 4.0)
    close(ours, by_reference(state, loaded.model, texts, tokens, x, 4.0), 2e-5)
    off = denoised(loaded.model, encode(clip, "a cat chases a dog"), encode(clip, "blurry"), x, 4.0)
    close(off, by_reference(state, loaded.model, texts, [None, None], x, 4.0), 2e-5)
    assert float((ours - off).abs().max()) > 0.05


def test_null_tokens_without_boxes_reach_both_and_give_way_to_boxes(toy: Any, clip: Any) -> None:
    from interplay.guidance.hosts.comfyui.interaction import with_null_tokens

    state, loaded = toy
    model = with_null_tokens(loaded.model, loaded.interact, schedule())
    plain = encode(clip, "a cat chases a dog"), encode(clip, "blurry")
    texts, x = [c[0][0] for c in plain], latent()
    null = tokenize(state, [])
    close(denoised(model, *plain, x, 4.0), by_reference(state, loaded.model, texts, [null, null], x, 4.0), 2e-5)
    pair = grounded(toy, clip)
    assert torch.equal(denoised(model, *pair, x, 4.0), denoised(loaded.model, *pair, x, 4.0))


def test_beta_strength_and_decay_act_at_their_noise_levels(toy: Any, clip: Any) -> None:
    state, loaded = toy
    sampling = loaded.model.get_model_object("model_sampling")
    positive, negative = grounded(toy, clip, 0.4, 0.4, 0.8)
    texts, x = [c[0][0] for c in (positive, negative)], latent(1)
    tokens = [reference_tokens(state, clip), tokenize(state, [])]
    for percent, factor in ((0.1, 0.8), (0.39, 0.8), (0.6, 0.4), (0.85, 0.0)):
        sigma = float(sampling.percent_to_sigma(percent))
        ours = denoised(loaded.model, positive, negative, x, sigma)
        close(ours, by_reference(state, loaded.model, texts, tokens, x, sigma, factor), 2e-3 if factor == 0.4 else 3e-5)


@pytest.mark.parametrize("beta", [0.2, 0.4, 0.8, 0.9, 1.0])
def test_the_number_of_grounded_steps_is_the_reference_s(toy: Any, beta: float) -> None:
    import comfy.samplers
    from interplay.guidance.hosts.comfyui.interaction import gate

    sampling = toy[1].model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "ddim_uniform", 50)[:-1]
    made = gate(schedule(beta), sampling)
    assert sum(made.scale(float(s)) > 0 for s in sigmas) == round(beta * len(sigmas))


def test_a_negative_of_its_own_is_what_keeps_boxes_out_of_it(toy: Any, clip: Any) -> None:
    """What ComfyUI does by itself to a negative without an entry, and why our node returns both."""
    _, loaded = toy
    positive, negative = grounded(toy, clip)
    x = latent(1)
    bare = denoised(loaded.model, positive, encode(clip, "blurry"), x, 4.0)
    assert float((bare - denoised(loaded.model, positive, negative, x, 4.0)).abs().max()) > 1e-3


def test_areas_batches_and_combined_prompts_sample(toy: Any, clip: Any) -> None:
    _, loaded = toy
    positive, negative = grounded(toy, clip)
    cell = {"area": (4, 8, 2, 3), "strength": 1.0, "set_area_to_bounds": False}
    mixed = [*encode(clip, "a wall"), [positive[0][0], {**positive[0][1], **cell}]]
    x = latent(3, (8, 12))
    here = denoised(loaded.model, mixed, negative, x, 4.0) - denoised(loaded.model, mixed[:1], negative, x, 4.0)
    changed = here.abs().amax((0, 1)) > 1e-6
    inside = torch.zeros(8, 12, dtype=torch.bool)
    inside[2:6, 3:11] = True
    assert changed[inside].all() and not changed[~inside].any()
    one = denoised(loaded.model, positive, negative, x[1:2], 4.0)
    close(denoised(loaded.model, positive, negative, x, 4.0)[1:2], one)


def test_a_lora_on_the_base_leaves_the_fusers_alone(toy: Any, clip: Any) -> None:
    state, loaded = toy
    key = "middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    up, down = torch.randn(64, 2) * 0.1, torch.randn(2, 64) * 0.1
    patched = loaded.model.clone()
    import comfy.weight_adapter

    adapter = comfy.weight_adapter.LoRAAdapter(set(), (up, down, None, None, None, None))
    assert patched.add_patches({f"diffusion_model.{key}": adapter}, 1.0)
    positive, negative = grounded(toy, clip)
    texts, x = [c[0][0] for c in (positive, negative)], latent(1)
    tokens = [reference_tokens(state, clip), tokenize(state, [])]
    changed = {**state, key: state[key] + up @ down}
    close(denoised(patched, positive, negative, x, 4.0), by_reference(changed, patched, texts, tokens, x, 4.0), 3e-5)


# --- guidance on top -------------------------------------------------------------------------------------------------


def guided_pair(toy: Any, clip: Any, *values: float) -> tuple[Any, Any]:
    from interplay.guidance.hosts.comfyui.conditioning import encode as encode_guided
    from interplay.parsing import parse

    prompt = "a red cat chases a dog"
    return grounded(toy, clip, *values, positive=encode_guided(clip, prompt, parse(prompt)))


def test_the_gradient_of_guidance_goes_through_the_fusers(toy: Any, clip: Any) -> None:
    loaded = toy[1]
    positive, negative = guided_pair(toy, clip)

    def measure(place: Any) -> tuple[float, float]:
        along = tiny.direction(place)
        gradient = tiny.gradient(place)
        return float((gradient * along).sum()), tiny.slope(place, along)

    exact, differences = tiny.at_step(loaded.model, positive, measure, negative, batch=2)
    assert exact == pytest.approx(differences, rel=0.02, abs=1e-4)
    assert abs(exact) > 1e-4
    ungrounded = tiny.at_step(loaded.model, guided_pair(toy, clip, 0.0)[0], measure, negative, batch=2)[0]
    assert abs(exact - ungrounded) > 1e-4


def test_guidance_sees_null_tokens_of_the_model(toy: Any, clip: Any) -> None:
    from interplay.guidance.hosts.comfyui.interaction import with_null_tokens

    loaded = toy[1]
    model = with_null_tokens(loaded.model, loaded.interact, schedule())
    positive = [[c[0], {k: v for k, v in c[1].items() if k != "gligen"}] for c in guided_pair(toy, clip)[0]]

    def maps(place: Any) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return place.capture(place.z)[0].maps.clone()

    plain, null = (tiny.at_step(m, positive, maps, encode(clip, "")) for m in (loaded.model, model))
    assert float((plain - null).abs().max()) > 1e-4


def test_guided_sampling_with_boxes_moves_the_picture_and_leaves_nothing_behind(toy: Any, clip: Any) -> None:
    from interplay.guidance.hosts.comfyui.guidance import patch_model

    loaded = toy[1]
    positive, negative = guided_pair(toy, clip, 0.5)
    before = tiny.sample(loaded.model, positive, negative, steps=3)
    guided = tiny.sample(patch_model(loaded.model, tiny.settings()), positive, negative, steps=3)
    assert torch.isfinite(guided).all() and float((guided - before).abs().max()) > 1e-3
    assert torch.equal(tiny.sample(loaded.model, positive, negative, steps=3), before)
    assert all("forward" not in m.__dict__ for m in loaded.interact.patcher.model.modules())


# --- refusals --------------------------------------------------------------------------------------------------------


def text_boxes() -> tuple[str, Any, list[Any]]:
    return ("position", None, [(torch.zeros(1, 64), 4, 4, 0, 0)])


def test_text_box_gligen_and_interactions_do_not_share_a_conditioning(toy: Any, clip: Any) -> None:
    taken = [[c[0], {**c[1], "gligen": text_boxes()}] for c in encode(clip, "a cat")]
    with pytest.raises(InterplayError, match="already holds GLIGEN text boxes"):
        grounded(toy, clip, positive=taken)
    positive, _ = grounded(toy, clip)
    with pytest.raises(InterplayError, match="already holds interactions"):
        positive[0][1]["gligen"][2] + text_boxes()[2]


def test_what_does_not_fit_is_said(toy: Any, clip: Any) -> None:
    from interplay.guidance.hosts.comfyui.interaction import ground

    interact = toy[1].interact
    with pytest.raises(InterplayError, match="There is no CLIP"):
        ground(interact, None, layout())
    with pytest.raises(InterplayError, match="has no box"):
        ground(interact, clip, layout("cat | chases | dog"))
    many = "\n".join(f"cat{i} | chases | dog @ 0,0,0.5,1 ; 0.5,0,1,1" for i in range(5))
    with pytest.raises(InterplayError, match="5 interactions and this model takes 4"):
        ground(interact, clip, layout(many))


def test_another_base_is_refused_and_the_same_base_recognised(toy: Any, tmp_path: Path) -> None:
    from interplay.guidance.hosts.comfyui.interaction_loader import load

    state, loaded = toy
    assert "paint the same pictures" in load(save(state, tmp_path), model=loaded.model).report
    other = save(random_state(2, **CUT), tmp_path, "other.safetensors")
    with pytest.raises(InterplayError, match="connect an SD1"):
        load(other, model=loaded.model)
