"""The contrastive trainer inside ComfyUI: captions stay apart, the LoRA is read whole, an interrupt loses nothing."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

import comfy_tiny  # noqa: E402

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def pixelworld():
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld

    with torch.inference_mode():
        return load_pixelworld()


@pytest.fixture
def places(tmp_path, monkeypatch):
    import folder_paths

    loras = tmp_path / "loras"
    loras.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(loras)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    return tmp_path


def captions(n: int = 10):
    from interplay.guidance.hosts.comfyui.training import SOURCES, caption_set

    return caption_set(SOURCES[0], "", "", n, 4, "", False, True, 0)


def test_the_makers_of_negatives(places, monkeypatch):
    """By rule, by a language model through the same checks (its answers kept), and COCO-Order's shuffles."""
    from interplay.errors import InterplayError
    from interplay.guidance.hosts.comfyui import training

    text, asked = "a red cat chasing a blue dog", []

    def ask(messages):
        asked.append(messages)
        rows = [("a red dog chasing a blue cat", "swap_attr"), ("a red cat chasing a blue puppy", "replace_obj")]
        return json.dumps({"negatives": [{"text": t, "op": op, "changed": ["cat", "dog"]} for t, op in rows]})

    monkeypatch.setattr(training, "endpoint_ask", lambda: (ask, "stub"))
    made = {}
    for maker in (*training.MAKERS, training.MAKERS[1]):
        found = training.caption_set("text", text, "", 8, 4, "", False, False, 0, maker)
        made[maker] = found.records[0].negatives
    rules, model, order = (made[maker] for maker in training.MAKERS)
    assert model[0] == "a red dog chasing a blue cat" and "a blue cat chasing a red dog" in model
    assert "a red cat chasing a blue puppy" not in model and len(asked) == 1  # a synonym; the second time from disk
    assert "a blue cat chasing a red dog" in rules and len(order) == 4
    assert all(sorted(t.split()) == sorted(text.split()) for t in order)
    with pytest.raises(InterplayError, match="by the rules"):
        training.caption_set(training.SOURCES[0], "", "", 8, 4, "", False, False, 0, training.MAKERS[1])


def settings(**changes):
    from interplay.guidance.training.contrast import ContrastSettings

    plain = {"steps": 2, "batch": 2, "calibrate": 4, "validate_every": 2, "save_every": 1, "draws": 2, "rate": 1e-3}
    return ContrastSettings(**{**plain, **changes})


def wishes(**changes):
    from interplay.guidance.hosts.comfyui.training import Wishes

    plain = {"name": "try", "rank": 4, "targets": "attn", "resume": False, "prompts": "", "side": 128}
    return Wishes(**{**plain, **changes})


def opened(model, clip, vae, texts):
    from interplay.guidance.hosts.comfyui.training import ModelLearner

    return ModelLearner(model, clip, vae, texts, (128, 128))


def test_captions_of_a_batch_do_not_mix(pixelworld):
    texts = ["a red robot in the forest", "a blue box pushing a green cat", ""]
    learner = opened(*pixelworld, texts)
    with learner.opened(4, "attn", 0):
        x = torch.randn(3, *learner.shape, generator=torch.Generator().manual_seed(0))
        levels = learner.levels(torch.tensor([0.3, 0.6, 0.9]))
        with torch.no_grad():
            together = learner.denoise(x, levels, learner.condition(texts))
            for i, text in enumerate(texts):
                row = torch.tensor([i])
                alone = learner.denoise(x[row], levels.rows(row), learner.condition([text]))
                torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_errors_are_those_of_what_the_network_predicts(kind):
    """weight("native") turns the error of x0 into the network's own, whatever it predicts."""
    from interplay.guidance.hosts.comfyui.training import ModelLearner
    from interplay.guidance.training.learner import errors
    from test_itm_comfy import with_sampling

    model, sampling = with_sampling(comfy_tiny.build(), kind)
    learner = ModelLearner.__new__(ModelLearner)
    learner.patcher, learner.sampling = model, sampling
    levels = learner.levels(torch.tensor([0.25, 0.7]))
    x0, eps, wrong = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    x = levels.signal * x0 + levels.noise * eps
    sigma = levels.name.view(-1, 1, 1, 1)
    said = wrong  # what a network would say, anything
    target = {"eps": eps, "flow": eps - x0}.get(kind)
    if kind == "v":  # the network sees x / sqrt(1 + sigma^2)
        target = (eps - sigma * x0) / (1 + sigma**2) ** 0.5
    estimate = sampling.calculate_denoised(levels.name, said, x)
    expected = (said - target).square().mean((1, 2, 3))
    torch.testing.assert_close(errors(estimate, x0, levels), expected, rtol=1e-3, atol=1e-5)


def test_it_trains_saves_and_loads_whole(pixelworld, places):
    import comfy.lora
    import comfy.utils
    from interplay.guidance.hosts.comfyui.training import train_lora

    model, clip, vae = pixelworld
    before = {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
    made = train_lora(model, clip, vae, captions(), None, wishes(prompts="a red robot"), settings())
    assert all(torch.equal(v, before[k]) for k, v in model.model.diffusion_model.state_dict().items())
    state = comfy.utils.load_torch_file(made.path, safe_load=True)
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    taken = {known[k.rsplit(".lora_down", 1)[0]] for k in state if ".lora_down" in k}
    assert len(taken) == len([k for k in state if ".lora_up" in k]) == 56
    report = json.loads(made.report)
    assert report["steps"] == 2 and report["layers"] == 56 and made.pictures.shape[-1] == 3


def test_what_is_trained_is_what_the_hosts_loader_makes_of_the_file(pixelworld, places):
    """The network with the hooks, and a plain MODEL with the file patched in by ComfyUI, say the same."""
    import comfy.model_management
    from interplay.guidance.hosts.comfyui.refl import with_lora

    model, clip, vae = pixelworld
    text = "a red robot carrying a blue box"
    learner = opened(model, clip, vae, [text])
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with learner.opened(4, "attn+ff", 0), torch.no_grad():
        for p in learner.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
        levels, said = learner.levels(torch.tensor([0.6])), learner.condition([text])
        hooked = learner.denoise(x, levels, said)
        with learner.adapter_off():
            plain = learner.denoise(x, levels, said)
        state, layers = learner.lora.state(), len(learner.lora.own)
    patched = with_lora(model, state, 1.0, layers)
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    again = patched.model.apply_model(x, levels.name, **said)
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    torch.testing.assert_close(again, hooked, rtol=1e-3, atol=1e-3)
    assert float((hooked - plain).abs().max()) > 0.01


def test_an_interrupt_leaves_a_lora_and_resuming_is_bit_exact(pixelworld, places, monkeypatch):
    import comfy.model_management
    from interplay.guidance.hosts.comfyui import training

    data = captions()
    whole = training.train_lora(*pixelworld, data, None, wishes(name="whole"), settings(steps=3))

    def interrupted(self, step, steps, figures):
        if step == 2:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(training._Kept, "step", interrupted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        training.train_lora(*pixelworld, data, None, wishes(name="part"), settings(steps=3))
    assert (places / "loras" / "part.safetensors").is_file()
    monkeypatch.undo()
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(places / "loras")], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "output_directory", str(places / "output"))
    part = training.train_lora(*pixelworld, data, None, wishes(name="part", resume=True), settings(steps=3))
    assert part.lora.keys() == whole.lora.keys()
    assert all(torch.equal(part.lora[k], whole.lora[k]) for k in whole.lora)
