"""Which calls of each of ComfyUI's samplers are guided, with the samplers themselves and a model that costs nothing."""

from __future__ import annotations

from types import SimpleNamespace

import comfy_tiny as tiny
import pytest
import torch

pytestmark = pytest.mark.comfy

STEPS = 7
OWN_REPORTS = {"dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2", "sa_solver_pece"}  # report something else


@pytest.fixture(scope="module")
def host():
    with torch.inference_mode():
        model = tiny.build()
    guider = SimpleNamespace(inner_model=model.model, model_patcher=model)
    return SimpleNamespace(model=model, guider=guider, sampling=model.model.model_sampling)


def samplers():
    import comfy.samplers

    return [name for name in comfy.samplers.SAMPLER_NAMES if name != "dpm_adaptive"]


def run(host, name, scheduler, sigmas=None):
    """Drive the sampler with a tracked stand-in: (tracker, guided outputs, reported pictures, result, places)."""
    import comfy.samplers
    from interplay.guidance.hosts.comfyui.steps import StepTracker, name_of

    sampler = comfy.samplers.sampler_object(name)
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(host.sampling, scheduler, STEPS)
    tracker = StepTracker([float(s) for s in sigmas], name_of(sampler.sampler_function))
    guided, reported, places = {}, [], []

    class Model:
        inner_model = host.guider

        def __call__(self, x, sigma, **kwargs):
            step = tracker.step(float(sigma[0]))
            out = x / (1 + sigma[0] ** 2) + 0.1 * torch.tanh(x)
            for entry in kwargs["model_options"].get("sampler_post_cfg_function", []):
                entry({"denoised": out, "uncond_denoised": out, "cond_denoised": out, "model": None, "input": x})
            if step is not None:
                guided.setdefault(step, []).append(out)
                places.append((step, float(sigma[0])))
            return out

    def callback(state):
        tracker.reported()
        reported.append(state["denoised"])

    with torch.inference_mode():
        x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)) * sigmas[0]
        extra = {"model_options": {}, "seed": 0}
        out = sampler.sampler_function(Model(), x, sigmas, extra_args=extra, callback=callback, disable=True)
    return tracker, guided, reported, out, places


def check(host, name, scheduler):
    tracker, guided, reported, _, _ = run(host, name, scheduler)
    steps = range(tracker.count)
    if name in OWN_REPORTS:
        return
    assert sorted(guided) == list(steps)
    for step in steps:
        assert len(guided[step]) == 1
        assert guided[step][0] is reported[step]


def test_one_call_of_each_step_is_guided_and_it_is_the_one_the_sampler_reports(host):
    for name in samplers():
        try:
            check(host, name, "normal")
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.slow
def test_the_same_with_every_scheduler(host):
    import comfy.samplers

    for name in samplers():
        for scheduler in comfy.samplers.SCHEDULER_NAMES:
            try:
                check(host, name, scheduler)
            except AssertionError as error:
                raise AssertionError(f"{name}, {scheduler}: {error}") from error


def test_a_sampler_that_corrects_its_latent_is_guided_at_the_corrected_one(host):
    tracker, guided, reported, _, _ = run(host, "sa_solver_pece", "normal")
    assert guided[0][0] is reported[0]
    for step in range(1, tracker.count - 1):
        assert len(guided[step]) == 1 and guided[step][0] is not reported[step]


def test_dpm_fast_is_guided_once_in_three_calls_and_ever_later(host):
    tracker, _, _, _, places = run(host, "dpm_fast", "normal")
    assert len(places) == -(-tracker.calls // 3)
    assert [step for step, _ in places] == sorted(step for step, _ in places)
    assert places[0] == (0, pytest.approx(tracker.sigmas[0]))


def test_an_unknown_sampler_with_two_evaluations_is_understood_after_its_first_step(host):
    from interplay.guidance.hosts.comfyui.steps import StepTracker

    sigmas = [8.0, 4.0, 2.0, 1.0, 0.0]
    tracker = StepTracker(sigmas, "sample_of_somebody")
    found = []
    for i in range(4):
        found.append(("own", tracker.step(sigmas[i])))
        tracker.reported()
        if sigmas[i + 1] > 0:
            found.append(("ahead", tracker.step(sigmas[i + 1])))
    # its second call at sigma 4 cannot be told from the first call of the next step, once
    assert found == [
        ("own", 0), ("ahead", 1), ("own", 1), ("ahead", None), ("own", 2), ("ahead", None), ("own", 3),
    ]  # fmt: skip


def test_churned_steps_are_guided(host):
    from interplay.guidance.hosts.comfyui.steps import StepTracker

    sigmas = [8.0, 4.0, 2.0, 0.0]
    tracker = StepTracker(sigmas, "sample_euler", churn=1.5)
    raised = 1 + min(1.5 / 3, 2**0.5 - 1)
    assert tracker.step(8.0 * raised) == 0
    tracker.reported()
    assert tracker.step(5.0) is None
    assert tracker.step(4.0) == 1


def test_a_two_stage_sampler_that_does_not_look_ahead_after_all_is_understood(host):
    from interplay.guidance.hosts.comfyui.steps import StepTracker

    sigmas = [8.0, 4.0, 2.0, 1.0, 0.0]
    tracker = StepTracker(sigmas, "sample_dpm_2_ancestral")  # with eta below 1 its middle is no sigma of the schedule
    found = []
    for sigma in sigmas[:-1]:
        found.append(tracker.step(sigma))
        tracker.reported()
    assert found == [0, None, 2, 3]
