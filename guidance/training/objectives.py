"""What a contrastive LoRA minimises: seven objectives on the errors of the same noised picture under several captions.

L_c, L_n, L_u: error under the right caption, under a negative and under no caption; ref: the same with the LoRA off.
Sources: Krojer et al. 2023 (diffusion-itm) for ``noneg`` and ``hardneg_paper`` (eq. 1); the soft-negative draft for
``softneg_raw`` (eq. 2); Wallace et al. 2023 (arXiv 2311.12908) for the preference form. The rest keeps them from
running away: a bounded use of the negative, and an anchor that holds the model without a caption where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InterplayError


@dataclass(frozen=True)
class Objective:
    """negatives: "" (takes none), "some" (only those that are active get a gradient) or "all". anchor: the prediction
    without a caption is held to the frozen model's. null: L_u itself has a gradient. dropout: captions are dropped.
    needs: which errors of the frozen model are in the loss.
    """

    about: str
    negatives: str = ""
    anchor: bool = False
    null: bool = False
    dropout: bool = False
    needs: tuple[str, ...] = ()


OBJECTIVES = {
    "contrast_hinge": Objective(
        "L_c + eta relu(m - (L_n - L_c)) + kappa anchor; the margin is measured on the frozen model",
        "some",
        anchor=True,
    ),
    "noneg": Objective("L_c: plain fine-tuning, the baseline", dropout=True),
    "hardneg_paper": Objective("eq. 1: L_c - min(L_n, lambda L_c), means of the batch; lambda at most 1", "some"),
    "hardneg_sample": Objective(
        "the same clip for each sample, with the anchor; lambda at most 1.3", "some", anchor=True
    ),
    "caption_dpo": Objective(
        "L_c + softplus(beta ((L_c - L_c_ref) - (L_n - L_n_ref))) / beta + kappa anchor",
        "all",
        anchor=True,
        needs=("c", "n"),
    ),
    "softneg_guarded": Objective(
        "softplus(beta (L_c - L_u_ref)) / beta + rho L_c + kappa anchor", anchor=True, needs=("u",)
    ),
    "softneg_raw": Objective("eq. 2 as printed: L_c - L_u, which has no lower bound; the tripwire stops it", null=True),
}


@dataclass(frozen=True)
class Constants:
    """Scales measured on the frozen model. margin: of the hinge; beta: of the preference; beta_null: of
    ``softneg_guarded``; mean, spread: of L_n - L_c; eta, kappa, rho, clip: weights that the user sets (clip is lambda).
    """

    margin: float
    beta: float
    beta_null: float
    mean: float
    spread: float
    eta: float = 1.0
    kappa: float = 1.0
    rho: float = 0.5
    clip: float = 1.0


def calibrated(differences: Tensor, null_differences: Tensor, k: float = 1.0, **weights: float) -> Constants:
    """Constants from L_n - L_c and L_u - L_c of many samples on the frozen model: margin = mean + k * spread, beta =
    2 / spread, so that nothing depends on the model's own scale of errors.

    Raises:
        InterplayError: the differences do not vary, or are not finite.
    """
    spread = float(differences.std()) if len(differences) > 1 else 1.0
    null = float(null_differences.std()) if len(null_differences) > 1 else 1.0
    if not (0 < spread < float("inf")) or not (0 < null < float("inf")):
        raise InterplayError(
            "The model's errors under captions and negatives do not differ, or are not finite: check that the "
            "negatives differ from the captions and that the model is loaded in a format that holds its values."
        )
    mean = float(differences.mean())
    return Constants(mean + k * spread, 2 / spread, 2 / null, mean, spread, **weights)


@dataclass(frozen=True)
class Terms:
    """Errors (B,) of one batch, those that the objective needs. has: (B,) bool, which rows have a negative; anchor:
    squared distance of the prediction without a caption from the frozen one's; pull: (B,), by what L_n - L_c is
    multiplied where two captions are held against each other. held: (B,) bool, rows that are held to the frozen
    model, and hold, (B,), their squared distance from its prediction.
    """

    c: Tensor
    has: Tensor
    n: Tensor | None = None
    u: Tensor | None = None
    c_ref: Tensor | None = None
    n_ref: Tensor | None = None
    u_ref: Tensor | None = None
    anchor: Tensor | None = None
    pull: Tensor | float = 1.0
    held: Tensor | None = None
    hold: Tensor | None = None


Mean = Callable[[Tensor], Tensor]


def active(
    name: str, c: Tensor, n: Tensor, has: Tensor, k: Constants, mean: Mean = Tensor.mean, pull: Tensor | float = 1.0
) -> Tensor:
    """(B,) bool: the rows whose negative has a gradient now. mean: over the whole batch, on all processes; pull: see
    ``Terms``.
    """
    if name == "contrast_hinge":
        return has & (pull * (n - c) < k.margin)
    if name == "hardneg_sample":
        return has & (n < k.clip * c)
    if name == "hardneg_paper":
        weight = mean(has.float()).clamp(min=1e-12)
        below = mean(n * has) / weight < k.clip * mean(c)
        return has & below
    return has


def loss(name: str, t: Terms, k: Constants, on: Tensor) -> Tensor:
    """(B,) losses whose mean is minimised. on: the rows with an active negative (see ``active``); ``t.n`` is of all
    rows, and has a gradient in those. Held rows follow the frozen model and no picture.
    """
    found = _loss(name, t, k, on)
    if t.held is None or t.hold is None:
        return found
    return torch.where(t.held, t.hold if t.anchor is None else t.hold + k.kappa * t.anchor, found)


def _loss(name: str, t: Terms, k: Constants, on: Tensor) -> Tensor:
    if name == "noneg":
        return t.c
    if name == "softneg_raw":
        return t.c - _have(t.u)
    kept = k.kappa * t.anchor if t.anchor is not None else torch.zeros_like(t.c)
    if name == "softneg_guarded":
        return F.softplus(k.beta_null * (t.c - _have(t.u_ref))) / k.beta_null + k.rho * t.c + kept
    if t.n is None:  # a step without negatives
        return t.c + kept
    n = t.n
    if name == "contrast_hinge":
        return t.c + k.eta * F.relu(k.margin - t.pull * (n - t.c)) * on + kept
    if name == "hardneg_sample":
        return t.c - torch.where(on, n, k.clip * t.c.detach()) * t.has + kept
    if name == "hardneg_paper":
        return t.c - torch.where(on, n, k.clip * t.c.detach()) * t.has
    worse = t.pull * ((t.c - _have(t.c_ref)) - (n - _have(t.n_ref)))
    return t.c + F.softplus(k.beta * worse) / k.beta * t.has + kept


def _have(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def check_clip(name: str, clip: float) -> None:
    """lambda is bounded: above 1 (a batch's mean) or 1.3 (a sample's) the cap grows with what it should hold."""
    most = {"hardneg_paper": 1.0, "hardneg_sample": 1.3}.get(name)
    if most is not None and not 0 < clip <= most:
        raise InterplayError(
            f"lambda is {clip}; {name} takes more than 0 and at most {most:g}, because it runs away above."
        )
