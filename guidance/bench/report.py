"""``interplay bench report DIR``: one page with everything in it, made from a bench directory's rows and pictures."""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from ...errors import InterplayError
from . import protocol_report
from .plots import Mark, forest, scatter
from .results import Row, read_results, read_settings, write_whole
from .tables import COMPARED, LABELS, SHARES, Comparison, Figure, Results, markdown

GALLERY = 40  # prompts of each set in the gallery
PAGE = "report.html"
_PARTS = Path(__file__).parent / "page"

REACHED = (
    "all_right",
    "objects_right",
    "action_right",
    "attributes_right",
    "bystander_right",
    "presence",
    "binding",
    "mixture",
    "extra",
    "quality",
    "unet_passes",
    "flops",
    "seconds",
)
MEANINGS = {
    "all_right": "everything as asked, nothing else, no mixture",
    "objects_right": "all asked objects there in their colours",
    "action_right": "the asked action between the asked kinds, in the asked roles",
    "attributes_right": "sizes and patterns as asked",
    "bystander_right": "the third object there, out of the action",
    "presence": "share of the asked objects that are there",
    "binding": "share of the asked objects that are there in their colours",
    "mixture": "pictures with an object of no prevailing colour",
    "extra": "objects that were not asked for, per picture",
    "quality": "distance from the world's palette and templates, lower is better",
    "unet_passes": "rows run through the U-Net, per picture",
    "flops": "operations of the U-Net, in 10⁹ per picture",
    "seconds": "CPU seconds per picture",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("dir", type=Path, metavar="DIR", help="bench directory of `interplay bench pixelworld`")
    parser.add_argument("--quiet", action="store_true", help="make the page, print no tables")


def run(args: argparse.Namespace) -> int:
    """Write the page, and print the tables as Markdown."""
    if read_settings(args.dir).get("bench") in protocol_report.BENCHES:
        print(protocol_report.text(protocol_report.write(args.dir)))
        return 0
    write(args.dir)
    if not args.quiet:
        print(markdown(read_results(args.dir)))
    return 0


def write(folder: Path) -> Path:
    """Write ``report.html``. Returns its path.

    Raises:
        InterplayError: the folder is no PixelWorld bench, or has no rows yet.
    """
    settings = read_settings(folder)
    if settings.get("bench") != "pixelworld":
        raise InterplayError(f"{folder} holds the bench '{settings.get('bench')}'; this report is for 'pixelworld'.")
    rows = read_results(folder)
    if not rows:
        raise InterplayError(f"{folder} has no results yet; let `interplay bench pixelworld --out {folder}` draw some.")
    path = folder / PAGE
    write_whole(path, page(folder, settings, Results(tuple(rows))).encode())
    return path


def page(folder: Path, settings: dict[str, Any], results: Results) -> str:
    """The whole page."""
    style, script = ((_PARTS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    body = [
        *_head(settings, results),
        _bar(results),
        "<h2>What the methods reached</h2>",
        "<p class='soft'>Shares with Wilson's 95 % interval, means with a bootstrap interval over prompts.</p>",
        _table("reached", _reached_columns(), _reached_rows(results)),
        "<h2>Picture by picture against another method</h2>",
        "<p class='soft'>Same prompt, same initial noise. Differences of means, with a bootstrap 95 % interval over "
        "prompts; p is McNemar's exact test of the pictures gained (now right, wrong before) and gone; “lost” is "
        "the share of the other method's right pictures that are not right any more. Differences whose interval leaves "
        "out 0 are bold. No correction was made for looking at many of them.</p>",
        _table("compared", _COMPARED_COLUMNS, _compared_rows(results)),
        "<h2>Plots</h2>",
        f"<div class='plots'>{''.join(_plots(results))}</div>",
        "<h2>The same seed under every method</h2>",
        *_gallery(folder, results),
        "<h2>Settings</h2>",
        f"<details><summary>bench.json</summary><pre>{escape(json.dumps(settings, indent=2))}</pre></details>",
    ]
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n<title>PixelWorld bench</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _head(settings: dict[str, Any], results: Results) -> list[str]:
    options, model = settings["settings"], settings["model"]
    facts = (
        f"{model['name']} ({model['sha256'][:12]}) · Interplay {settings['interplay']} · {options['sampler']}, "
        f"{options['steps']} steps, CFG {options['cfg']:g} · prompts and noise of seed {options['seed']} · "
        f"{len(results.rows)} pictures"
    )
    return ["<h1>PixelWorld bench</h1>", f"<p class='facts'>{escape(facts)}</p>"]


def _bar(results: Results) -> str:
    """Controls; hidden until the script runs, since they do nothing without it."""
    choices = [f"<option value='*' data-sets='{_json(results.sets)}'>everything</option>"] * (len(results.groups) > 1)
    for i, group in enumerate(results.groups):
        inside = [name for name in results.sets if results.holds(group, name)]
        chosen = " selected" if i == 0 else ""
        choices.append(f"<option data-sets='{_json(inside)}'{chosen}>{escape(group)}</option>")
    orders = (("differ", "where methods disagree"), ("run", "prompt set, number"), ("prompt", "prompt, alphabetically"))
    return (
        "<div class='bar' hidden role='group' aria-label='What is shown'>"
        f"<label>Prompt set <select id='group'>{''.join(choices)}</select></label>"
        "<label>Gallery by <select id='order'>"
        + "".join(f"<option value='{value}'>{text}</option>" for value, text in orders)
        + "</select></label><label><input type='checkbox' id='differ'> only where methods disagree</label>"
        "<span id='shown' class='soft' aria-live='polite'></span></div>"
    )


def _json(value: Any) -> str:
    return escape(json.dumps(value), quote=True)


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """html: as shown; value: what a column is sorted by; name: whether it is a name instead of a number."""

    html: str
    value: float | str
    name: bool = False


def _name(text: str) -> Cell:
    return Cell(escape(text), text, True)


_EMPTY = Cell("", "")
Line = tuple[str, list[Cell]]  # the group it belongs to, its cells


def _table(key: str, columns: Sequence[tuple[str, str]], lines: Iterator[Line]) -> str:
    """columns: (label, meaning); those without a meaning are names."""
    heads = "".join(
        f"<th scope='col'{'' if meaning else ' class=name'} title='{escape(meaning)}'>"
        f"<button type='button'>{escape(label)}</button></th>"
        for label, meaning in columns
    )
    body = "".join(
        f"<tr data-group='{escape(group, quote=True)}'>" + "".join(map(_cell, cells)) + "</tr>\n"
        for group, cells in lines
    )
    table = f"<table id='{key}'><thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table>"
    return f"<div class='scroll' tabindex='0' role='region' aria-label='{key}'>{table}</div>"


def _cell(cell: Cell) -> str:
    value = cell.value if isinstance(cell.value, str) else f"{cell.value:.10g}"
    return f"<td{' class=name' if cell.name else ''} data-value='{escape(value, quote=True)}'>{cell.html}</td>"


def _reached_columns() -> list[tuple[str, str]]:
    columns = [("method", ""), ("prompt set", ""), ("pictures", "how many")]
    columns += [(LABELS[column], MEANINGS[column]) for column in REACHED]
    return [
        *columns,
        ("FLOPs ratio", "to plain sampling, same pictures"),
        ("time ratio", "to plain sampling, same pictures"),
    ]


def _reached_rows(results: Results) -> Iterator[Line]:
    for group in results.groups:
        for method in results.methods:
            mine = results.select(method, group)
            if not mine:
                continue
            cells = [_name(method), _name(group), Cell(str(len(mine)), len(mine))]
            cells += [_figure(results.figure(method, group, column), column) for column in REACHED]
            for column in ("flops", "seconds"):
                ratio = results.cost_ratio(method, results.reference, group, column)
                cells.append(_EMPTY if ratio is None else Cell(f"×{ratio:.2f}", ratio))
            yield group, cells


def _figure(found: Figure | None, column: str) -> Cell:
    if found is None:
        return _EMPTY
    if column in SHARES or column in ("presence", "binding", "quality", "extra"):
        text = f"{found.value:.3f}<br><small>{found.low:.3f}–{found.high:.3f}</small>"
    elif column == "flops":
        text = f"{found.value / 1e9:.1f}"
    else:
        text = f"{found.value:.{1 if column == 'unet_passes' else 2}f}"
    return Cell(text, found.value)


_COMPARED_COLUMNS = (
    ("method", ""),
    ("prompt set", ""),
    ("against", ""),
    ("column", ""),
    ("pictures", "pairs"),
    ("difference", "points of a hundred; quality and objects too many as they are"),
    ("from", "lower end of the interval"),
    ("to", "upper end of the interval"),
    ("gained", "pictures that are so and were not"),
    ("gone", "pictures that were so and are not"),
    ("p", "McNemar, exact, two-sided"),
    ("lost", "of the other method's right pictures"),
)


def _compared_rows(results: Results) -> Iterator[Line]:
    for group in results.groups:
        for base in results.bases:
            for method in results.methods:
                if method in (base, results.reference):
                    continue
                for column in COMPARED:
                    found = results.compare(method, base, group, column)
                    if found is not None:
                        yield group, _comparison(found, method, base, group, column)


def _comparison(found: Comparison, method: str, base: str, group: str, column: str) -> list[Cell]:
    scale, form = (100, "+.1f") if column in SHARES else (1, "+.4f")
    sure = found.low > 0 or found.high < 0
    numbers = [scale * value for value in (found.difference, found.low, found.high)]
    first, *ends = (Cell(format(value, form), value) for value in numbers)
    first = Cell(f"<span class='sure'>{first.html}</span>", first.value) if sure else first
    cells = [_name(method), _name(group), _name(base), _name(LABELS[column]), Cell(str(found.n), found.n), first, *ends]
    if found.p is None or found.better is None or found.worse is None:
        return [*cells, _EMPTY, _EMPTY, _EMPTY, _EMPTY]
    lost = _EMPTY if found.lost is None else Cell(f"{found.lost:.3f}", found.lost)
    tests = [Cell(str(found.better), found.better), Cell(str(found.worse), found.worse)]
    return [*cells, *tests, Cell(f"{found.p:.2g}", found.p), lost]


# --- plots ------------------------------------------------------------------------------------------------------------


def _plots(results: Results) -> Iterator[str]:
    for group in results.groups:
        for plot in _group_plots(results, group):
            yield (
                f"<figure class='plot' data-group='{escape(group, quote=True)}'>{plot}"
                f"<figcaption>{escape(group)}</figcaption></figure>"
            )


def _group_plots(results: Results, group: str) -> Iterator[str]:
    def share(method: str) -> Figure | None:
        return results.figure(method, group, "all_right")

    shares = _marks(results, group, share)
    yield forest("All right", shares, 0, 1, (0, 0.25, 0.5, 0.75, 1))
    for base in results.bases:
        marks = _marks(results, group, partial(_points, results, base, group))
        if marks:
            most = max(10, 10 * math.ceil(max(max(abs(m.low), abs(m.high)) for m in marks) / 10))
            ticks = (-most, -most / 2, 0, most / 2, most)
            yield forest(f"All right, points above {base}", marks, -most, most, ticks, "+g")
    costs = {m: results.figure(m, group, "unet_passes") for m in results.methods}
    placed = [(cost.value, mark) for mark in shares if (cost := costs[mark.label]) is not None]
    if placed:
        yield scatter("All right by cost", placed, "U-Net passes per picture", (0, 0.25, 0.5, 0.75, 1))


def _marks(results: Results, group: str, find: Callable[[str], Figure | None]) -> list[Mark]:
    found = [(method, find(method)) for method in results.methods]
    return [
        Mark(m, f.value, f.low, f.high, f"{m}, {group}: {f.value:.3g} [{f.low:.3g}, {f.high:.3g}], {f.n} pictures")
        for m, f in found
        if f is not None
    ]


def _points(results: Results, base: str, group: str, method: str) -> Figure | None:
    found = None if method in (base, results.reference) else results.compare(method, base, group, "all_right")
    return None if found is None else Figure(100 * found.difference, 100 * found.low, 100 * found.high, found.n)


# --- gallery ----------------------------------------------------------------------------------------------------------


def disagreement(rows: Sequence[Row]) -> float:
    """How much methods disagree about one prompt and seed: the lesser number of those that got it right and those that
    did not; a tenth of that for objects and for the action each.
    """

    def split(column: str) -> int:
        values = [value for row in rows if (value := row.value(column)) is not None]
        return min(values.count(0.0), values.count(1.0))

    return split("all_right") + 0.1 * (split("objects_right") + split("action_right"))


def _gallery(folder: Path, results: Results) -> list[str]:
    by_picture: dict[tuple[str, str, int], list[Row]] = {}
    for row in results.rows:
        by_picture.setdefault(row.key[1:], []).append(row)
    chosen = [key for name in results.sets for key in _chosen([k for k in by_picture if k[0] == name], by_picture)]
    numbers = {key: i for i, key in enumerate(by_picture)}
    items = [_item(folder, numbers[key], by_picture[key]) for key in chosen]
    note = (
        f"Of each prompt set up to {GALLERY} prompts: the {GALLERY // 2} on which methods disagree most, and the first "
        "ones. A green frame and “right” mean that all is as asked."
    )
    return [f"<p class='soft'>{note}</p>", f"<ul id='gallery'>{''.join(items)}</ul>"]


def _chosen(
    keys: list[tuple[str, str, int]], rows: dict[tuple[str, str, int], list[Row]]
) -> list[tuple[str, str, int]]:
    """Half of the places to the greatest disagreement, the rest from the start; in the order of the run."""
    apart = sorted(keys, key=lambda key: -disagreement(rows[key]))[: GALLERY // 2]
    picked = dict.fromkeys(apart)
    for key in keys:
        if len(picked) < GALLERY:
            picked[key] = None
    return [key for key in keys if key in picked]


def _item(folder: Path, number: int, rows: Sequence[Row]) -> str:
    first = rows[0]
    figures = "".join(_picture(folder, row) for row in rows)
    prompt, prompt_set = (escape(text, quote=True) for text in (first.prompt, first.prompt_set))
    return (
        f"<li data-set='{prompt_set}' data-run='{number}' data-differ='{disagreement(rows):g}' data-prompt='{prompt}'>"
        f"<b>{prompt}</b> <span class='soft'>{prompt_set}, seed {first.seed}</span><div>{figures}</div></li>\n"
    )


def _picture(folder: Path, row: Row) -> str:
    wrong = [name for column, name in _WRONG if row.value(column) == 0.0]
    wrong += ["mixture"] * bool(row.mixture) + ["too many"] * ((row.value("extra") or 0) > 0)
    words = "right" if row.all_right else ", ".join(wrong) or "not right"
    kind = " class='right'" if row.all_right else ""
    return (
        f"<figure{kind}><img loading='lazy' width='128' height='128' src='{_data(folder / row.file)}' "
        f"alt='{escape(f'{row.method}: {words}', quote=True)}'>"
        f"<figcaption>{escape(row.method)}<br><b>{escape(words)}</b></figcaption></figure>"
    )


_WRONG = (
    ("objects_right", "objects wrong"),
    ("action_right", "action wrong"),
    ("environment_right", "environment wrong"),
    ("attributes_right", "attributes wrong"),
    ("bystander_right", "bystander wrong"),
)


def _data(path: Path) -> str:
    """The picture's 32x32 art as a data URI: its pixels come in blocks, which a browser can enlarge again."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((32, 32), Image.Resampling.BOX)
    except OSError as error:
        raise InterplayError(
            f"The picture {path} cannot be read ({error}); run the bench again to redraw it."
        ) from None
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
