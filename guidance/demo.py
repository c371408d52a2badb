"""``interplay demo``: read a prompt, draw it plainly and with guidance from one seed, and lay all side by side."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InterplayError
from ..parsing import format_text, parse
from ..parsing.hypergraph import Hypergraph
from .painting import HOSTS, Painting, Task, find_painter
from .presets import PRESETS, GuidanceConfig, preset

PROMPT = "a red robot carrying a blue box in the forest"
SEED = 2  # chosen: plainly, each thing wears the other's colour. docs/benchmark.md has the averages
STEPS, CFG = 25, 5.0
MOST_STEPS = 200
MOST_WORDS = 8
TERM_NAMES = {"C": "contrast", "A": "action", "L": "link", "R": "roles"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``interplay demo``."""
    parser.add_argument("prompt", nargs="?", default=PROMPT, metavar="PROMPT", help=f"what to draw ('{PROMPT}')")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help=f"start noise of both pictures ({SEED})")
    parser.add_argument("--out", default="interplay-out", metavar="DIR", help="where demo.png and report.json go")
    parser.add_argument("--host", default="auto", choices=HOSTS, help="what draws; auto: ComfyUI when there is one")
    parser.add_argument("--preset", default="SHY", metavar="NAME", help=f"guidance: {', '.join(PRESETS)}")
    parser.add_argument("--strength", type=float, default=1.0, metavar="X", help="of the guidance, 0 to 10 (1)")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"sampling steps ({STEPS})")
    parser.add_argument("--cfg", type=float, default=CFG, metavar="X", help=f"classifier-free guidance ({CFG:g})")


def run(args: argparse.Namespace) -> int:
    """Write ``demo.png`` and ``report.json``; ``InterplayError`` for whatever a person can mend."""
    config = _checked(args)
    out = _folder(args.out)
    begin = time.perf_counter()
    graph = parse(args.prompt)
    parse_seconds = time.perf_counter() - begin
    notes = _notes(graph)
    print(format_text(graph) or "(no noun group found)")
    for note in notes:
        print(note)
    painter, how = find_painter(args.host)
    loaded_seconds = time.perf_counter() - begin - parse_seconds
    print(f"Drawing {how} ({painter.name}).")
    task = Task(graph, preset(config.preset, strength=0.0), args.seed, args.steps, args.cfg)
    pictures = {"plain": painter.paint(task, _progress("plain picture"))}
    if _guidable(graph):
        task = Task(graph, config, args.seed, args.steps, args.cfg)
        pictures["guided"] = painter.paint(task, _progress("guided picture"))
        print(pictures["guided"].summary)
    verdicts = {name: _verdict(graph.prompt, picture) for name, picture in pictures.items()}
    report = {
        "prompt": graph.prompt,
        "hypergraph": graph.to_dict(),
        "text": format_text(graph),
        "seed": args.seed,
        "steps": args.steps,
        "cfg": args.cfg,
        "host": painter.name,
        "how": how,
        "settings": config.to_dict(),
        "notes": notes,
        "pictures": {name: _told(picture, verdicts[name]) for name, picture in pictures.items()},
        "seconds": {"parse": parse_seconds, "load": loaded_seconds, "all": time.perf_counter() - begin},
    }
    _page(graph, pictures, verdicts, report).save(out / "demo.png")
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, verdict in verdicts.items():
        if verdict:
            print(f"{name}: {verdict['text']}")
    print(f"Wrote {out / 'demo.png'} and {out / 'report.json'} in {time.perf_counter() - begin:.0f} s.")
    return 0


# --- the door --------------------------------------------------------------------------------------------------------


def _checked(args: argparse.Namespace) -> GuidanceConfig:
    if not args.prompt.strip():
        raise InterplayError(f'The prompt is empty; say what to draw, as in: interplay demo "{PROMPT}".')
    if not 0 <= args.seed < 2**63:
        raise InterplayError(f"The seed is {args.seed}; give a whole number from 0 to 2^63 - 1.")
    if not 2 <= args.steps <= MOST_STEPS:
        raise InterplayError(f"The number of steps is {args.steps}; give one from 2 to {MOST_STEPS}.")
    if not 1.0 <= args.cfg <= 30.0:
        raise InterplayError(f"cfg is {args.cfg}; give a number from 1 to 30.")
    return preset(args.preset, strength=args.strength)


def _folder(name: str) -> Path:
    out = Path(name).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "demo.png").touch()
    except OSError as error:
        reason = error.strerror or error
        raise InterplayError(f"Nothing can be written to '{name}' ({reason}); choose another --out DIR.") from error
    return out


def _guidable(graph: Hypergraph) -> bool:
    return sum(not vertex.environment for vertex in graph.vertices) > 1


def _notes(graph: Hypergraph) -> list[str]:
    notes = list(graph.warnings)
    if not _guidable(graph):
        notes.append("The prompt names fewer than two things, so there is nothing to hold apart: drawn plainly only.")
    from .pixelworld import world

    known = {*world.OBJECTS, *world.COLOURS, *world.ACTIONS, *world.ENVIRONMENTS}
    said = [text for v in graph.vertices for text in (*(m.text for m in v.modifiers), v.head)]
    said += [edge.action for edge in graph.hyperedges if edge.kind == "action"]
    strange = [word for word in dict.fromkeys(said) if word.lower() not in known]
    if strange:
        words = ", ".join(f"'{word}'" for word in strange)
        notes.append(
            f"PixelWorld never saw {words}. It knows the objects {', '.join(world.OBJECTS)}; the colours "
            f"{', '.join(world.COLOURS)}; the actions {', '.join(world.ACTIONS)}; and the places "
            f"{', '.join(world.ENVIRONMENTS)}."
        )
    return notes


# --- what is said of a picture ---------------------------------------------------------------------------------------


def _verdict(prompt: str, picture: Painting) -> dict[str, Any] | None:
    """The detector's verdict and a sentence; None when the prompt asks for nothing of PixelWorld."""
    from .pixelworld import detect, world

    try:
        asked = world.request(prompt)
    except InterplayError:
        return None
    seen = detect.detect(picture.image)
    verdict = detect.verdict(asked, seen)
    parts = [", ".join(f"{'mixed ' if o.mixed else ''}{o.colour} {o.object}" for o in seen.objects) or "no object"]
    if seen.action is not None:
        parts.append(seen.action[1])
    parts.append(seen.environment)
    wrong = [
        name
        for name, right in (
            ("objects", verdict.objects_right),
            ("action", verdict.action_right),
            ("place", verdict.environment_right),
        )
        if right is False
    ]
    if verdict.extra:
        wrong.append(f"{verdict.extra} too many")
    text = f"shows {'; '.join(parts)} ({'wrong: ' + ', '.join(wrong) if wrong else 'all as asked'})"
    return {**verdict.to_dict(), "text": text}


def _told(picture: Painting, verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    from .report import overlap_lines

    words = bool(picture.graph.words)
    return {
        "verdict": verdict,
        "seconds": picture.seconds,
        "guidance": picture.report,
        "progress": _curves(picture.report),
        "summary": picture.summary,
        "overlaps": overlap_lines(_tensor(picture), picture.graph) if words else [],
    }


def _tensor(picture: Painting) -> Any:
    import torch

    return torch.from_numpy(picture.maps)


def _curves(report: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """Term -> [share of the schedule, mean progress] of every guided step, measured before its first move."""
    curves: dict[str, list[list[float]]] = {}
    for step in report.get("steps", ()):
        for term, rows in step["curve"].items():
            values = [p for p in rows[0] if p is not None]
            if values:
                curves.setdefault(term, []).append([step["progress"], sum(values) / len(values)])
    return curves


# --- the contact sheet -----------------------------------------------------------------------------------------------


def _page(
    graph: Hypergraph,
    pictures: Mapping[str, Painting],
    verdicts: Mapping[str, Mapping[str, Any] | None],
    report: Mapping[str, Any],
) -> Any:
    from . import figures

    side = 288
    said = {name: (verdict or {}).get("text", "") for name, verdict in verdicts.items()}
    rows = [[figures.Panel(figures.draw_hypergraph(graph), "the hypergraph of the prompt")]]
    rows.append([figures.Panel(_large(picture, side), name, said[name]) for name, picture in pictures.items()])
    if "guided" in pictures:
        curves = {TERM_NAMES.get(k, k): v for k, v in _curves(pictures["guided"].report).items()}
        plot = figures.curves(curves, (side, side))
        rows[1].append(figures.Panel(plot, "losses while guided", pictures["guided"].summary.replace(" → ", " to ")))
    for name, picture in pictures.items():
        rows.append(_heat_row(figures, name, picture, 3 * side))
    settings = f"{report['host']}, seed {report['seed']}, {report['steps']} Euler steps, cfg {report['cfg']:g}"
    if "guided" in pictures:
        settings += f", guidance {report['settings']['preset']}, strength {report['settings']['strength']:g}"
    return figures.sheet(rows, graph.prompt, f"{settings}. {' '.join(report['notes'])}".strip())


def _large(picture: Painting, side: int) -> Any:
    from PIL import Image

    return picture.image.resize((side, side), Image.Resampling.NEAREST)


def _heat_row(figures: Any, name: str, picture: Painting, width: int) -> list[Any]:
    words = [(w.text, picture.maps[j]) for j, w in enumerate(picture.graph.words)][:MOST_WORDS]
    side = max(64, min(140, (width + 28) // max(1, len(words)) - figures.MARGIN))
    small = _large(picture, side)
    return [figures.Panel(figures.heatmap(grid, small), text, name) for text, grid in words]


def _progress(label: str) -> Callable[[int, int], None]:
    """A line on standard error that counts the steps; nothing but its end where no person watches."""
    watched = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        if watched:
            print(f"\r{label}: step {done} of {total}", end="\n" if done >= total else "", file=sys.stderr, flush=True)
        elif done >= total:
            print(f"{label}: {total} steps done", file=sys.stderr, flush=True)

    return show
