"""The reward trainers on ComfyUI's MODEL: the same gradient as on diffusers, nothing left behind, a LoRA that loads."""

from __future__ import annotations

import json

import comfy_tiny
import pytest
import torch
from interplay.guidance.training.refl import ReflSettings, refl_losses
from interplay.guidance.training.refl_matcher import Matcher, prompt_log_likelihood
from interplay.guidance.training.refl_model import draw
from interplay.guidance.training.refl_rewards import GradientReward

pytestmark = pytest.mark.comfy

PROMPTS = ["a red robot carrying a blue box in the forest", "a green cat and a pink ball in the sea"]
OTHERS = ["a blue bird riding a white car in the snow"]
SMALL = {"batch": 2, "ladder": 6, "first": 3, "last": 4, "eta": 0.0, "weight": 1.0, "carry": 1, "pretrain_weight": 0.5}


@pytest.fixture(scope="module")
def loaded():
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld

    with torch.inference_mode():  # as ComfyUI's executor does
        yield load_pixelworld()


@pytest.fixture(scope="module")
def reward() -> GradientReward:
    with torch.inference_mode(False):
        torch.manual_seed(3)
        matcher = Matcher().requires_grad_(False)
    return GradientReward("random", 0.0, lambda p, texts: prompt_log_likelihood(matcher, p, texts) / 24)


def wake(parameters) -> None:
    """Give the matrices ``up`` values, so that both of each pair have a gradient."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in parameters:
            if p.shape[1] == 4:
                p.copy_(0.05 * torch.randn(p.shape, generator=g))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradient_is_that_of_diffusers(loaded, reward, checkpoint):
    pytest.importorskip("diffusers")
    from interplay.guidance.hosts.comfyui.refl import ModelTrainee
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
    from interplay.guidance.hosts.diffusers.refl import PipelineTrainee
    from interplay.guidance.training.lora import inject

    settings = ReflSettings(**SMALL, cfg=2.0, checkpoint=checkpoint)
    with torch.inference_mode(False):
        pipeline = load_pixelworld()
        other = PipelineTrainee(pipeline, inject(pipeline.unet, 4, seed=7))
        wake(other.parameters())
        wanted = refl_losses(other, reward, PROMPTS, settings, 1)
        wanted["loss"].backward()
        table = {n: a.up.grad for n, a in zip(other.lora.own, other.lora.adapters, strict=True)}
    trainee = ModelTrainee(*loaded, PROMPTS, (128, 128))
    with trainee.opened(4, "attn", 7):
        own = trainee.lora
        ours = {own.names[n]: a for n, a in zip(own.own, own.adapters, strict=True)}
        assert own.known and ours.keys() == table.keys()
        with torch.no_grad():
            for name, adapter in zip(other.lora.own, other.lora.adapters, strict=True):
                ours[name].down.copy_(adapter.down)
                ours[name].up.copy_(adapter.up)
        found = refl_losses(trainee, reward, PROMPTS, settings, 1)
        found["loss"].backward()
        for name in ("reward", "pretrain"):
            assert float(found[name]) == pytest.approx(float(wanted[name]), rel=2e-3)
        for name, gradient in table.items():
            error = (ours[name].up.grad - gradient).norm() / gradient.norm()
            assert error < 0.02, name


def test_a_walk_under_guidance_is_that_of_diffusers(loaded):
    """From the same noise, in the host's own scale; the second prompt is another picture than without guidance."""
    pytest.importorskip("diffusers")
    from interplay.guidance.hosts.comfyui.refl import ModelTrainee
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
    from interplay.guidance.hosts.diffusers.refl import PipelineTrainee
    from interplay.guidance.training.lora import inject

    texts = [PROMPTS[0], "a purple cat chasing a green cat", "a purple cat chasing a green cat"]
    names = [("steering", i) for i in range(3)]
    with torch.inference_mode(False):
        pipeline = load_pixelworld()
        other = PipelineTrainee(pipeline, inject(pipeline.unet, 2))
    trainee = ModelTrainee(*loaded, texts, (128, 128))
    trainee.load()
    found = {}
    for guide in ("", "SHY"):
        with torch.inference_mode(False):
            wanted = draw(other, texts, names, 12, 5.0, guide)
        found[guide] = draw(trainee, texts, names, 12, 5.0, guide)
        assert float((found[guide] - wanted).norm() / wanted.norm()) < 0.01
    change = (found["SHY"] - found[""]).flatten(1).norm(dim=1) / found[""].flatten(1).norm(dim=1)
    assert change[1] > 0.1 and change[2] > 0.05
    for module in loaded[0].model.diffusion_model.modules():
        assert "forward" not in vars(module) and not module._forward_hooks


def test_model_is_left_as_it_was(loaded, reward):
    from interplay.guidance.hosts.comfyui.refl import ModelTrainee

    model, _, vae = loaded
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    trainee = ModelTrainee(*loaded, PROMPTS, (128, 128))
    with pytest.raises(ValueError, match="stop here"), trainee.opened(4, "attn", 0):
        refl_losses(trainee, reward, PROMPTS, ReflSettings(**SMALL, checkpoint=True), 0)["loss"].backward()
        raise ValueError("stop here")
    for network in (model.model.diffusion_model, vae.first_stage_model):
        for module in network.modules():
            assert "forward" not in vars(module) and not module._forward_hooks
    assert all(torch.equal(v, before[k]) for k, v in model.model.state_dict().items())


def test_prompts_of_different_length_do_not_mix(loaded):
    from interplay.guidance.hosts.comfyui.refl import ModelTrainee

    texts = [PROMPTS[0], " ".join(["a red robot and a blue box"] * 15)]  # 77 and 154 tokens
    trainee = ModelTrainee(*loaded, texts, (128, 128))
    with trainee.opened(4, "attn", 0), torch.no_grad():
        wake(trainee.parameters())
        x, rung = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), trainee.ladder(4)[1]
        both = trainee.denoise(x, rung, trainee.condition(texts))
        for row, text in enumerate(texts):
            alone = trainee.denoise(x[row : row + 1], rung, trainee.condition([text]))
            assert torch.allclose(both[row : row + 1], alone, atol=1e-4)


class Texts:
    """Stands for SDXL's two text encoders, which are too big here: a vector a token and a pooled one, by the text."""

    def tokenize(self, text):
        return text

    def encode_from_tokens(self, text, return_pooled):
        g = torch.Generator().manual_seed(len(text))
        return 3 * torch.randn(1, 9, comfy_tiny.CONTEXT, generator=g), torch.randn(1, 1280, generator=g)


def test_sdxl_is_called_as_by_the_hosts_sampler_and_has_a_gradient(loaded, reward):
    import comfy.sampler_helpers
    import comfy.samplers
    from interplay.guidance.hosts.comfyui.refl import ModelTrainee

    texts = Texts()
    model = comfy_tiny.build("SDXL")
    model.model.current_patcher = model  # as it is while the host samples
    trainee = ModelTrainee(model, texts, loaded[2], PROMPTS, (128, 128))
    with trainee.opened(4, "attn", 0):
        wake(trainee.parameters())
        x = 5 * torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        rung = trainee.ladder(6)[2]
        with torch.no_grad():
            ours = trainee.denoise(x, rung, trainee.condition(PROMPTS))
            for row, prompt in enumerate(PROMPTS):
                context, pooled = texts.encode_from_tokens(prompt, True)
                conds = comfy.sampler_helpers.convert_cond([[context, {"pooled_output": pooled}]])
                noise, sigma = x[row : row + 1], torch.tensor([rung.name])
                conds = comfy.samplers.encode_model_conds(model.model.extra_conds, conds, noise, "cpu", "positive")
                options = {"transformer_options": {"sample_sigmas": sigma}}
                hosts = comfy.samplers.calc_cond_batch(model.model, [conds], noise, sigma, options)[0]
                torch.testing.assert_close(ours[row : row + 1], hosts, rtol=1e-3, atol=1e-3)
        settings = ReflSettings(**{**SMALL, "ladder": 2, "first": 0, "last": 0, "carry": 0, "pretrain": "none"})

        def loss():
            return refl_losses(trainee, reward, PROMPTS, settings, 0)["loss"]

        loss().backward()
        gradients = [p.grad.clone() for p in trainee.parameters()]
        norm, values = torch.cat([g.flatten() for g in gradients]).norm(), []
        for sign in (1, -1):
            with torch.no_grad():
                for p, g in zip(trainee.parameters(), gradients, strict=True):
                    p.add_(g / norm, alpha=(2 if values else 1) * sign * 0.01)
                values.append(float(loss()))
        assert float(norm) > 0
        assert (values[0] - values[1]) / 0.02 == pytest.approx(float(norm), rel=0.05)


def node_widgets(**changes):
    widgets = {
        "method": "refl", "prompts": "\n".join(PROMPTS), "validation_prompts": "\n".join(OTHERS),
        "lora_name": "tiny", "steps": 2, "batch": 2, "learning_rate": 1e-3, "rank": 2, "targets": "attn2",
        "width": 128, "height": 128, "reward": "itm", "matcher": "PixelWorld", "captioner": "PixelWorld",
        "encoder": "PixelWorld", "judge": "itm", "unused": "none", "ladder": 4, "first": 2, "last": 3, "carry": 0,
        "cfg": 1.0, "reward_weight": 1.0, "pretrain": "anchor", "pretrain_weight": 0.1, "pictures": 2,
        "batch_of_pictures": 4, "validate_every": 1, "validation_cfg": 2.0, "patience": 0, "checkpointing": False,
        "decode_crop": 0, "seed": 0, "resume": False, "captions": "",
    }  # fmt: skip
    return {**widgets, **changes}


@pytest.fixture
def folders(tmp_path, monkeypatch, reward):
    import folder_paths
    from interplay.guidance.hosts.comfyui import refl_run

    loras, output = tmp_path / "loras", tmp_path / "output"
    loras.mkdir()
    output.mkdir()
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(output))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(loras)], {".safetensors"}))
    monkeypatch.setattr(refl_run, "pixelworld_reward", lambda kind: reward)
    return tmp_path


def run_node(loaded, images=None, **changes):
    from interplay.nodes.refl import ReFLTrainer

    return ReFLTrainer.execute(*loaded, images=images, **node_widgets(**changes)).args


TWINS = {"first": 0, "last": 1, "points": 6, "pictures": 3, "cfg": 2.0, "push": 1.0}


@pytest.mark.parametrize("method", ["refl", "raft", "twins"])
def test_node_writes_a_lora_that_the_hosts_loader_reads_whole(loaded, folders, method, caplog):
    import nodes as host_nodes

    more = TWINS if method == "twins" else {}
    trained, lora, losses, pictures, report, path = run_node(loaded, method=method, ghosts=0.5, **more)
    assert path == str(folders / "loras/tiny.safetensors") and len(losses["loss"]) == 2
    assert pictures.shape == (2, 128, 128, 3)
    settings = json.loads((folders / "output/interplay_training/tiny/settings.json").read_text())
    assert settings["ghosts"] == 0.5
    said = json.loads(report)
    assert said["trainer"] == method and [v["step"] for v in said["validations"]][:1] == [0]
    with caplog.at_level("WARNING"):
        by_host, _ = host_nodes.LoraLoader().load_lora(*loaded[:2], "tiny.safetensors", 1.0, 0.0)
    assert "not loaded" not in caplog.text
    assert set(by_host.patches) == set(trained.patches) and len(by_host.patches) == len(lora) // 3 == 28
    assert not loaded[0].patches


def test_twins_take_the_caption_reward_and_only_they(loaded, folders):
    with pytest.raises(ValueError, match="caption reward has no gradient"):
        run_node(loaded, reward="caption")
    with pytest.raises(ValueError, match="No prompt has a twin"):
        run_node(loaded, method="twins", prompts="a red robot", **TWINS)
    *_, report, _ = run_node(loaded, method="twins", reward="caption", **TWINS)
    assert json.loads(report)["reward"] == "caption"
    points = folders / "output/interplay_training/tiny/points"
    held = [torch.load(file, weights_only=True) for file in sorted(points.glob("*.pt"))]
    assert sum(len(part["texts"]) for part in held) == 6
    for prompt, twin in (pair for part in held for pair in part["texts"]):
        assert prompt in PROMPTS and sorted(prompt.split()) == sorted(twin.split()) and prompt != twin


def test_node_takes_pictures_and_captions(loaded, folders):
    images = torch.rand(2, 128, 128, 3)
    *_, report, _ = run_node(loaded, images, pretrain="images", captions="a red robot\na blue box")
    assert json.loads(report)["steps"] == 2
    with pytest.raises(ValueError, match="2 pictures and 1 captions"):
        run_node(loaded, images, pretrain="images", captions="a red robot", lora_name="other")


def test_cancelling_keeps_a_checkpoint_that_goes_on(loaded, folders):
    import comfy.model_management
    import comfy.utils

    def cancel(value, total, *rest, **more):
        if value == 2:
            comfy.model_management.interrupt_current_processing()

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(cancel)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run_node(loaded, steps=4, validate_every=10)
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
        comfy.model_management.interrupt_current_processing(False)
    saved = sorted(p.name for p in (folders / "output/interplay_training/tiny/state").iterdir())
    assert saved == ["step_0", "step_2"]
    *_, resumed, path = run_node(loaded, steps=4, validate_every=10, resume=True)
    *_, whole, other = run_node(loaded, steps=4, validate_every=10, lora_name="whole")
    first, second = (comfy.utils.load_torch_file(p) for p in (path, other))
    assert json.loads(resumed)["steps"] == json.loads(whole)["steps"] == 4
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": " \n "}, "prompts to train on and other prompts"),
        ({"lora_name": "../.."}, "has no name"),
        ({"first": 9}, "do not lie on a ladder of 4"),
        ({"unused": "itm"}, "judges already"),
        ({"pretrain": "images"}, "needs pictures with captions"),
        ({"judge": "caption", "captioner": "blip-image-captioning-base", "encoder": "PixelWorld"}, "go together"),
        ({"matcher": "blip2-itm-vit-g"}, "is missing; put the files of"),
    ],
)
def test_one_sentence_for_what_cannot_be(loaded, folders, changes, words):
    with pytest.raises(ValueError, match=words):
        run_node(loaded, **changes)
