"""What ``interplay train refl`` and ``raft`` have in common: options, models, prompts, rewards and files."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InterplayError
from ..bench.protocol_data import prompts_of_file

if TYPE_CHECKING:
    from torch import Tensor

    from .refl_watch import Score, Watch

PIXELWORLD = "pixelworld"
JUDGES = ("caption", "itm", "itc", "likelihood")
LORA_FILE, REPORT, CURVES = "lora.safetensors", "report.json", "loss.png"
TRAIN_SEED, WATCH_SEED = 4100, 4200  # of PixelWorld's prompts; the benchmark's seeds are others
SETS = ("actions", "two objects")


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Options of both trainers."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run and its LoRA")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    parser.add_argument("--model", default=PIXELWORLD, help="folder of a diffusers pipeline (SD1.x, SD2.x, SDXL), or "
                        "'pixelworld'")  # fmt: skip
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"),
                        help="of the frozen model; the LoRA is float32")  # fmt: skip
    parser.add_argument("--size", type=int, help="side of the pictures in pixels (the model's own)")
    parser.add_argument("--rank", type=int, default=8, help="of the LoRA (8)")
    parser.add_argument("--targets", default="attn", help="layers with a LoRA: attn2, attn, attn+ff (attn)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompts to train on, one a line")
    parser.add_argument("--prompt-count", type=int, default=256, help="PixelWorld prompts to train on (256)")
    parser.add_argument("--watch-prompts", type=Path, metavar="FILE", help="prompts set apart for validation")
    parser.add_argument("--watch-count", type=int, default=32, help="PixelWorld prompts set apart (32)")
    parser.add_argument("--captioner", metavar="FOLDER", help="of the caption reward; PixelWorld has its own")
    parser.add_argument("--caption-encoder", metavar="FOLDER", help="of the caption reward; PixelWorld has its own")
    parser.add_argument("--itm", metavar="FOLDER", help="a BLIP or BLIP-2 retrieval model; PixelWorld has its own")
    parser.add_argument("--judge", default="caption", choices=JUDGES, help="the true reward (caption)")
    parser.add_argument("--unused", choices=(*JUDGES, "none"), help="the reward that only watches for hacking")
    parser.add_argument("--download", action="store_true", help="take repositories of huggingface.co for folders")


def add_settings(parser: argparse.ArgumentParser, kind: Any, presets: Mapping[str, Mapping[str, Any]]) -> None:
    """An option for each setting; what is not given comes from the preset."""
    parser.add_argument("--preset", choices=tuple(presets), help="settings to start from")
    group = parser.add_argument_group("settings (see docs/refl.md)")
    for field in fields(kind):
        default = field.default
        assert default is not MISSING
        name = "--" + field.name.replace("_", "-")
        about = f"({default})"
        if isinstance(default, bool):
            group.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=about)
            continue
        taken: Callable[[str], Any] = float if default is None else type(default)
        group.add_argument(name, type=taken, default=None, metavar=taken.__name__.upper(), help=about)


def settings_of(args: argparse.Namespace, kind: Any, presets: Mapping[str, Mapping[str, Any]], usual: str) -> Any:
    """The settings: those given, then the preset's, then the defaults."""
    given = {f.name: getattr(args, f.name) for f in fields(kind) if getattr(args, f.name) is not None}
    return kind(**{**presets[args.preset or usual], **given})


def device_of(name: str) -> str:
    """The device of this process; under ``accelerate launch`` each has its own."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    local = os.environ.get("LOCAL_RANK")
    return (
        f"cuda:{local}" if name == "cuda" and local is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1 else name
    )


def open_pipeline(args: argparse.Namespace) -> Any:
    """The pipeline to train, on its device."""
    import torch

    device = device_of(args.device)
    dtypes = {"auto": torch.bfloat16 if device.startswith("cuda") else torch.float32}
    dtype = dtypes.get(args.dtype) or getattr(torch, args.dtype)
    if args.model == PIXELWORLD:
        from ..hosts.diffusers.pixelworld import load_pixelworld

        pipeline: Any = load_pixelworld(dtype)
        return pipeline.to(device)
    from ..hosts.diffusers.models import open_folder

    return open_folder(Path(args.model).expanduser(), dtype, device)


def open_trainee(args: argparse.Namespace, seed: int) -> Any:
    """The pipeline with a new LoRA in it."""
    from ..hosts.diffusers.refl import PipelineTrainee, PixelWorldTrainee
    from .lora import inject

    pipeline = open_pipeline(args)
    kind = PixelWorldTrainee if args.model == PIXELWORLD else PipelineTrainee
    return kind(pipeline, inject(pipeline.unet, args.rank, targets=args.targets, seed=seed), args.size)


def pixelworld_prompts(count: int, seed: int) -> list[str]:
    """Prompts without held-out combinations: actions and pairs in turn."""
    from ..pixelworld.world import PROMPT_SETS

    each = -(-count // len(SETS))
    found = [PROMPT_SETS[name](each, seed) for name in SETS]
    return [text for row in zip(*found, strict=True) for text in row][:count]


def training_prompts(args: argparse.Namespace) -> list[str]:
    """Those to train on."""
    if args.prompts is not None:
        return prompts_of_file(args.prompts)
    if args.model != PIXELWORLD:
        raise InterplayError("Name the prompts to train on with --prompts FILE, one a line.")
    return pixelworld_prompts(args.prompt_count, TRAIN_SEED)


def watch_prompts(args: argparse.Namespace, trained: Sequence[str]) -> list[str]:
    """Those set apart; without a file the last eighth of the training prompts, PixelWorld's own where it has them."""
    if args.watch_prompts is not None:
        return prompts_of_file(args.watch_prompts)
    if args.model == PIXELWORLD and args.prompts is None:
        known = set(trained)
        return [p for p in pixelworld_prompts(2 * args.watch_count, WATCH_SEED) if p not in known][: args.watch_count]
    raise InterplayError("Name the prompts set apart for validation with --watch-prompts FILE, one a line.")


def score_of(kind: str, args: argparse.Namespace) -> Score:
    """A reward of pictures (B, 3, H, W) in [0, 1] and prompts, without a gradient, for choosing and watching."""
    device = device_of(args.device)
    if kind == "caption":
        return _caption(args, device)
    from .refl_rewards import open_reward

    reward = open_reward(kind, reward_place(kind, args), device, args.download)

    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return reward(pictures, prompts).detach()

    return score


def reward_place(kind: str, args: argparse.Namespace) -> str:
    """The folder of a gradient reward's model."""
    place = args.captioner if kind == "likelihood" else args.itm
    if place is None and args.model == PIXELWORLD:
        return PIXELWORLD
    if place is None:
        raise InterplayError(
            f"Name the model of the reward '{kind}' with --{'captioner' if kind == 'likelihood' else 'itm'}."
        )
    return str(place)


def _caption(args: argparse.Namespace, device: str) -> Score:
    if args.captioner in (None, PIXELWORLD) and args.model == PIXELWORLD:
        from ..rewards.pixelworld_caption import caption_reward

        return caption_reward
    if not (args.captioner and args.caption_encoder):
        raise InterplayError(
            "The caption reward needs --captioner FOLDER and --caption-encoder FOLDER; or choose another --judge."
        )
    from ..rewards.caption import caption_scorer

    return scored(caption_scorer(args.captioner, args.caption_encoder, device, args.download))


def scored(scorer: Any) -> Score:
    """A ``rewards.Scorer`` on tensors."""

    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        import torch

        readings = scorer.score([as_image(picture) for picture in pictures], list(prompts))
        return torch.tensor([float("nan") if r.value is None else r.value for r in readings])

    return score


def as_image(picture: Tensor) -> Any:
    """(3, H, W) in [0, 1] as Pillow's picture."""
    from PIL import Image

    return Image.fromarray((picture.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def watch_of(args: argparse.Namespace, prompts: Sequence[str], usual: str) -> Watch:
    """What the run is measured by. usual: the unused reward where none is named."""
    from .refl_watch import Watch

    unused = args.unused or (usual if args.model == PIXELWORLD else "none")
    if unused == args.judge:
        raise InterplayError(f"The reward '{unused}' judges already; let another one watch, with --unused.")
    second = None if unused == "none" else score_of(unused, args)
    return Watch(watch_prompts(args, prompts), score_of(args.judge, args), args.judge, second, f"{unused}, unused")


def sampler(out: Path) -> Callable[[int, Tensor], None]:
    """Writes validation pictures side by side to ``samples/step_N.png``."""

    def write(step: int, pictures: Tensor) -> None:
        import torch

        if os.environ.get("RANK", "0") != "0":
            return
        folder = out / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        as_image(torch.cat(list(pictures), -1)).save(folder / f"step_{step:05d}.png")

    return write


def teller(what: str, every: int = 5) -> Callable[[int, int, Mapping[str, float]], None]:
    """Says on standard error how far a run is."""

    def tell(step: int, steps: int, figures: Mapping[str, float]) -> None:
        if (step % every == 0 or step == steps) and os.environ.get("RANK", "0") == "0":
            said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"{what} {step} of {steps}: {said}", file=sys.stderr, flush=True)

    return tell


def finish(args: argparse.Namespace, model: Any, outcome: Any, trainer: str, reward: str) -> int:
    """Write LoRA, report and curves, and say what happened."""
    from .drawing import plot
    from .lora import save
    from .refl_state import METRICS

    if os.environ.get("RANK", "0") != "0":
        return 0
    base = "sdxl_base_v1-0" if hasattr(model.pipeline, "text_encoder_2") else "sd_v1"
    path = save(model.lora, args.out / LORA_FILE, "kohya", base, trainer=trainer, reward=reward, step=outcome.kept)
    report = {
        "trainer": trainer,
        "reward": reward,
        "steps": outcome.steps,
        "kept": outcome.kept,
        "why it ended": outcome.why,
        "validations": list(outcome.validations),
    }
    (args.out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plot(args.out / METRICS, args.out / CURVES, ("loss", "reward", "pretrain"))
    print(_table(outcome), f"{path} holds the LoRA of step {outcome.kept}; it ended because: {outcome.why}.", sep="\n")
    return 0


def _table(outcome: Any) -> str:
    if not outcome.validations:
        return ""
    names = [name for name in outcome.validations[0] if name != "step"]
    rows = ["| step | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for line in outcome.validations:
        rows.append(f"| {line['step']} | " + " | ".join(f"{line[name]:.4f}" for name in names) + " |")
    return "\n".join(rows)


def guarded(run: Callable[[], int]) -> int:
    """Run a trainer: exit status 3 and a sentence where it stopped itself."""
    from .refl_state import Stopped

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return run()
    except Stopped as stopped:
        print(f"interplay: {stopped}", file=sys.stderr)
        return stopped.status
