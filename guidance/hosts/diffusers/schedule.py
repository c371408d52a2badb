"""What guidance must know of a diffusers scheduler: where it is, how it scales, and what it remembers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....errors import InterplayError


def network_scale(scheduler: Any, timestep: Any) -> float:
    """How much larger the scheduler's sample is than the network's input z at this step: 1 for variance-preserving
    schedulers (DDIM, PNDM, DPM++), sqrt(1 + sigma^2) for the sigma ones (Euler, LMS, Heun). Read off a one, so that it
    holds for every scheduler."""
    one = torch.ones((), dtype=torch.float64)
    if not hasattr(scheduler, "scale_model_input"):
        return 1.0
    return 1.0 / float(scheduler.scale_model_input(one, timestep))


def is_second_evaluation(scheduler: Any) -> bool:
    """True when the coming ``step`` starts from a remembered sample, not from the one it is given (Heun, DPM2, PNDM's
    second call, the inner calls of single-step DPM). Moving the latent there would be lost, so it is not guided."""
    if hasattr(scheduler, "state_in_first_order"):
        return not scheduler.state_in_first_order
    if hasattr(scheduler, "prk_timesteps"):  # PNDM
        runge_kutta = not scheduler.config.skip_prk_steps and scheduler.counter < len(scheduler.prk_timesteps)
        return scheduler.counter % 4 != 0 if runge_kutta else scheduler.counter == 1
    if hasattr(scheduler, "order_list"):  # single-step DPM
        return scheduler.order_list[scheduler.step_index or 0] > 1
    return False


def forget_prediction(scheduler: Any) -> None:
    """UniPC and SA correct a step from the sample before it, which would undo a move: skip that one correction."""
    if getattr(scheduler, "last_sample", None) is not None:
        scheduler.last_sample = None


def position(scheduler: Any, timestep: Any) -> tuple[int, int]:
    """(index, count) of a timestep among the distinct timesteps of the schedule.

    Raises:
        InterplayError: the timestep is none of the scheduler's.
    """
    value = float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(timestep)
    known = list(dict.fromkeys(float(t) for t in scheduler.timesteps.tolist()))
    if value not in known:
        raise InterplayError(
            f"The U-Net was called at timestep {value:g}, which {type(scheduler).__name__} does not list; "
            "guide a pipeline that steps with its own scheduler."
        )
    return known.index(value), len(known)
