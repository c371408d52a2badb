"""Tables in the papers' form, our figures beside the published ones, as text, Markdown and one self-contained page.

Every line says whose it is: "published" with its source, or the model that made the pictures. A figure of ours stands
only where rows of ``results.csv`` hold it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from . import tables
from .protocol_data import Published, published
from .protocol_models import banner
from .results import Row, read_results, read_settings, write_whole

BENCHES = ("shyi", "realign")
BASE = "plain"
EMPTY = "–"
NAMES = {
    "tifa": "TIFA-style",
    "tifa_edges": "edges right",
    "tifa_pairs": "roles and twin right",
    "tifa_roles": "who does what",
    "tifa_swapped": "not swapped",
    "tifa_contrary": "not contrary",
    "tifa_object": "objects",
    "tifa_attribute": "attributes",
    "tifa_counting": "counts",
    "tifa_action": "actions",
    "tifa_environment": "places",
    "clip": "CLIP (cosine)",
    "clip_hessel": "CLIP (2.5·max(cos, 0))",
    "clip_torchmetrics": "CLIP (100·max(cos, 0))",
    "clip_least": "CLIP, worst thing",
    "caption": "caption reward",
    "caption_above": "caption reward, above chance",
    "itm": "ITM",
    "itm_itc": "ITC",
    "vqascore": "VQAScore",
    "vqascore_ratio": "VQAScore, yes : no",
    "all_right": "all right",
    "objects_right": "objects right",
    "action_right": "action right",
    "binding": "binding",
    "quality": "distance from the world",
    "fid": "FID",
    "votes_prompt": "votes, prompt",
    "votes_interaction": "votes, interaction",
    "exist": "both there",
    "human_alignment": "human, alignment",
    "human_fidelity": "human, fidelity",
    "success": "success",
}
# Too many columns for a terminal; the page and table.md have them.
_SHOWN = ("tifa", "tifa_pairs", "tifa_edges", "clip", "caption", "itm", "vqascore", "all_right", "action_right")
_SCORERS = ("tifa", "clip", "itm", "caption", "vqascore")
_DETAILS = {NAMES[name] for name in NAMES if name.startswith(_SCORERS) and name not in _SHOWN}
_DETAILS |= {NAMES[name] for name in ("binding", "quality", "objects_right")}


@dataclass(frozen=True)
class Table:
    """cells: one list a line, the first cells naming it; theirs: lines that hold published numbers."""

    title: str
    head: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    theirs: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a folder shows."""

    title: str
    warning: str
    facts: Mapping[str, str]
    tables: tuple[Table, ...]
    rows: tuple[Row, ...] = field(repr=False)


def report(folder: Path) -> Report:
    """Read a folder and make its tables.

    Raises:
        InterplayError: it is no bench directory.
    """
    settings, rows = read_settings(folder), read_results(folder)
    model = settings["model"]
    weights = model.get("weights", "")
    ran = {
        **{key: str(value) for key, value in settings["settings"].items() if value is not None},
        "model": f"{model['name']} ({model['sha256'][:12]})",
        "pictures": str(len(rows)),
        **{f"scorer '{name}'": needs for name, needs in settings.get("scorers", {}).items()},
    }
    bench = settings["bench"]
    made: list[Table] = []
    for name in dict.fromkeys(row.prompt_set for row in rows):
        of_set = [row for row in rows if row.prompt_set == name]
        theirs = [p for p in published() if p.protocol == bench and p.set == name]
        made += _set_tables(name, of_set, theirs, model["name"])
    made += _unmatched(bench, {row.prompt_set for row in rows})
    title = {"shyi": "The protocol of SHY and SHYI", "realign": "The protocol of RealignDiff"}.get(bench, bench)
    return Report(title, banner(model["name"], weights), ran, tuple(made), tuple(rows))


# --- tables -----------------------------------------------------------------------------------------------------------


def _set_tables(name: str, rows: Sequence[Row], theirs: Sequence[Published], model: str) -> list[Table]:
    ours = _columns(rows)
    made = []
    for table in list(dict.fromkeys(p.table for p in theirs)) or [""]:
        given = [p for p in theirs if p.table == table]
        if table.startswith("pictures"):
            continue
        metrics = list(dict.fromkeys([p.metric for p in given]))
        if table in ("votes", "judged by GPT-4o", "Table IV"):  # nothing of ours to set beside them
            made.append(_only_theirs(f"{name}: {table}", given, metrics))
            continue
        made.append(
            _averages(f"{name}: {table}" if table else name, rows, given, [*metrics, *_more(ours, metrics)], model)
        )
    made += _paired(name, rows, ours)
    made.append(_pictures(name, rows, ours))
    return made


def _paired(name: str, rows: Sequence[Row], ours: Sequence[str]) -> list[Table]:
    """What each method adds to plain sampling, picture by picture of the same prompt and seed."""
    base = [row for row in rows if row.method == BASE]
    others = [method for method in _methods(rows) if method != BASE]
    metrics = [column for column in ours if column in _SHOWN]
    if not (base and others and metrics):
        return []
    cells = []
    for method in others:
        chosen = [row for row in rows if row.method == method]
        found = [tables.compare(chosen, base, metric) for metric in metrics]
        most = max((one.n for one in found if one), default=0)
        cells.append((method, str(most), *map(_difference, found)))
    head = ("method", "pairs", *(NAMES[m] for m in metrics))
    note = "Difference of the means over pairs of one prompt and seed, with its bootstrap 95 % interval over prompts."
    return [Table(f"{name}: less plain sampling", head, tuple(cells), notes=(note,))]


def _difference(found: tables.Comparison | None) -> str:
    if found is None:
        return EMPTY
    value, low, high = (f"{'+' if x > 0 else ''}{_number(x)}" for x in (found.difference, found.low, found.high))
    return value if found.n < 2 else f"{value} [{low}, {high}]"


def _methods(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _columns(rows: Sequence[Row]) -> list[str]:
    """The measured columns that at least one row holds, in the order of NAMES."""
    return [name for name in NAMES if any(row.value(name) is not None for row in rows)]


def _more(ours: Iterable[str], metrics: Sequence[str]) -> list[str]:
    return [name for name in ours if name not in metrics]


def _averages(
    title: str, rows: Sequence[Row], theirs: Sequence[Published], metrics: Sequence[str], model: str
) -> Table:
    """One line for each published method, then one for each of ours."""
    cells, marked, notes = list[tuple[str, ...]](), set[int](), list[str]()
    for method in dict.fromkeys(p.method for p in theirs):
        of_method = [p for p in theirs if p.method == method]
        values = {p.metric: _number(p.value) for p in of_method}
        marked.add(len(cells))
        cells.append((method, f"published: {of_method[0].source}", "", *(values.get(m, EMPTY) for m in metrics)))
        notes += [f"Published {method}: {p.note}." for p in of_method if p.note]
    for method in _methods(rows):
        chosen = [row for row in rows if row.method == method]
        figures = [tables.figure(chosen, metric) for metric in metrics]
        cells.append((method, f"this run: {model}", str(len(chosen)), *map(_figure, figures)))
    blank = sum(bool(row.extra.get("blank")) for row in rows)
    if blank:
        notes.append(f"{blank} pictures are black (taken by the pipeline's safety checker) and have no score.")
    if "fid" in metrics:
        notes.append("FID is not measured here: it needs thousands of pictures and the data set's own.")
    head = ("method", "whose", "pictures", *(NAMES.get(m, m) for m in metrics))
    return Table(title, head, tuple(cells), frozenset(marked), tuple(dict.fromkeys(notes)))


def _only_theirs(title: str, theirs: Sequence[Published], metrics: Sequence[str]) -> Table:
    made = _averages(title, [], theirs, metrics, "")
    notes = (*made.notes, "Published numbers only: nothing like it is measured by this command.")
    return Table(made.title, made.head, made.cells, made.theirs, notes)


def _unmatched(bench: str, have: set[str]) -> list[Table]:
    """The published tables of sets that were not run."""
    made = []
    rest = [p for p in published() if p.protocol == bench and p.set not in have and not p.table.startswith("pictures")]
    for name, table in dict.fromkeys((p.set, p.table) for p in rest):
        given = [p for p in rest if (p.set, p.table) == (name, table)]
        metrics = list(dict.fromkeys(p.metric for p in given))
        made.append(_only_theirs(f"{name}: {table} (not run here)", given, metrics))
    return made


def _pictures(name: str, rows: Sequence[Row], ours: Sequence[str]) -> Table:
    """Prompt × seed, one column for each method, as the tables of SHYI's appendix."""
    shown = [column for column in ("tifa", "clip", "caption", "all_right") if column in ours]
    methods = _methods(rows)
    by_key = {(row.prompt, row.seed, row.method): row for row in rows}
    cells = []
    for prompt, seed in dict.fromkeys((row.prompt, row.seed) for row in rows):
        found = [by_key.get((prompt, seed, method)) for method in methods]
        told = [EMPTY if row is None else _scores(row, shown) for row in found]
        cells.append((prompt, str(seed), *told))
    return Table(f"{name}: each picture", ("prompt", "seed", *methods), tuple(cells))


def _scores(row: Row, columns: Sequence[str]) -> str:
    parts = [f"{NAMES[c]} {_number(v)}" for c in columns if (v := row.value(c)) is not None]
    return ", ".join(parts) or "not scored"


def _figure(figure: tables.Figure | None) -> str:
    if figure is None:
        return EMPTY
    if figure.n < 2:
        return _number(figure.value)
    return f"{_number(figure.value)} [{_number(figure.low)}, {_number(figure.high)}]"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"


# --- text -------------------------------------------------------------------------------------------------------------


def text(made: Report) -> str:
    """Averages for the terminal; the tables of single pictures are on the page."""
    lines = [f"*** {made.warning} ***", ""] if made.warning else []
    lines += [made.title, *(f"  {key}: {value}" for key, value in made.facts.items())]
    for table in made.tables:
        if table.title.endswith("each picture") or "not run here" in table.title:
            continue
        keep = [i for i, name in enumerate(table.head) if name not in _DETAILS]
        shown = [[line[i] for i in keep] for line in (table.head, *table.cells)]
        lines += ["", table.title, *_grid(shown), *(f"  {note}" for note in table.notes)]
    return "\n".join(lines)


def _grid(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def markdown(made: Report) -> str:
    """The same as Markdown, with every table."""
    out = [f"# {made.title}", ""]
    out += [f"> **{made.warning}**", ""] if made.warning else []
    out += [f"- {key}: {value}" for key, value in made.facts.items()]
    for table in made.tables:
        out += ["", f"## {table.title}", "", _line(table.head), "|" + " --- |" * len(table.head)]
        out += [_line(line) for line in table.cells]
        out += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join(out) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


# --- page -------------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --theirs: #c8891a22; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
.warning { background: #b3261e; color: #fff; font-weight: 700; padding: .8rem 1rem; border-radius: .4rem;
  position: sticky; top: 0; z-index: 1; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; font-size: 13px; }
th, td { border: 1px solid var(--line); padding: .25rem .5rem; text-align: left; vertical-align: top; }
th { background: var(--soft); } tr.theirs td { background: var(--theirs); font-style: italic; }
.gallery { display: grid; gap: .6rem; } figure { margin: 0; } figcaption { font-size: 12px; max-width: 20rem; }
.gallery img { width: 14rem; max-width: 100%; image-rendering: auto; } .small img { image-rendering: pixelated; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
.row { display: flex; flex-wrap: wrap; gap: .8rem; }
"""


def page(folder: Path, made: Report, most: int = 60) -> str:
    """One HTML file with everything in it; ``most``: prompts (with a seed) in the gallery."""
    parts = [f"<h1>{escape(made.title)}</h1>"]
    if made.warning:
        parts.insert(0, f'<p class="warning" role="alert">{escape(made.warning)}</p>')
    parts.append("<ul>" + "".join(f"<li>{escape(k)}: {escape(v)}</li>" for k, v in made.facts.items()) + "</ul>")
    parts.append("<p>Lines on amber are <em>published</em> numbers, measured by others on their models.</p>")
    for table in made.tables:
        folded = table.title.endswith(("each picture", "(not run here)"))
        inner = f'<div class="wide">{_html(table)}</div>' + "".join(f"<p>{escape(n)}</p>" for n in table.notes)
        title = escape(table.title)
        parts.append(f"<details><summary>{title}</summary>{inner}</details>" if folded else f"<h2>{title}</h2>{inner}")
    parts.append(_gallery(folder, made, most))
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(made.title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _html(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    lines = []
    for i, cells in enumerate(table.cells):
        mark = ' class="theirs"' if i in table.theirs else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _gallery(folder: Path, made: Report, most: int) -> str:
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in made.rows:
        groups.setdefault((row.prompt_set, row.prompt, row.seed), []).append(row)
    ordered = sorted(groups.items(), key=lambda group: -_spread(group[1]))
    told = f"{len(groups)} prompts and seeds, {min(most, len(groups))} shown: first those on which methods differ most"
    parts = [f"<h2>Pictures</h2><p>{told}.</p>"]
    for (_, prompt, seed), rows in ordered[:most]:
        figures = "".join(_figure_html(folder, row) for row in rows)
        parts.append(f'<h3>{escape(prompt)} · seed {seed}</h3><div class="row gallery small">{figures}</div>')
    return "".join(parts)


def _spread(rows: Sequence[Row]) -> float:
    """How far the methods' main scores lie apart on one prompt and seed."""
    for column in ("tifa_all", "clip", "caption", "itm", "vqascore"):
        values = [value for row in rows if (value := row.value(column)) is not None]
        if values:
            return max(values) - min(values)
    return 0.0


def _figure_html(folder: Path, row: Row) -> str:
    path = folder / row.file
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    said = [value for name, value in row.extra.items() if name.endswith("_said") and value]
    told = escape(_scores(row, ("tifa", "tifa_edges", "clip", "caption", "itm", "vqascore", "all_right")))
    label = escape(f"{row.method} · {row.extra.get('model', '')}")
    more = f"<details><summary>answers</summary>{escape(' / '.join(said))}</details>" if said else ""
    alt = escape(f"{row.prompt}, drawn with {row.method}")
    picture = f'<img src="data:image/png;base64,{data}" alt="{alt}">'
    return f"<figure>{picture}<figcaption><b>{label}</b><br>{told}{more}</figcaption></figure>"


def write(folder: Path) -> Report:
    """Write ``report.html`` and ``table.md``."""
    made = report(folder)
    write_whole(folder / "report.html", page(folder, made).encode())
    write_whole(folder / "table.md", markdown(made).encode())
    return made
