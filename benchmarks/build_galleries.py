"""Galleries and plots for docs/benchmark.md from a bench directory: the first cases of three kinds, by prompt.

    python benchmarks/build_galleries.py DIR [--out docs/pictures] [--count 8]

mended: a right picture where plain sampling fails, prompts of held-out objects; roles: right where CONFORM fails;
failed: still wrong, or lost (right without guidance), the latter first.
And the plots of the report page, of held-out prompts or of the groups named with --plots, as SVG.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from interplay.guidance.bench.results import Row, read_results, slug
from interplay.guidance.figures import Panel, sheet
from PIL import Image

METHODS = ("plain", "CONFORM", "SHY")
Case = dict[str, Row]


def cases(rows: list[Row]) -> list[Case]:
    """Rows of the same picture by method, where all methods are there."""
    found: dict[tuple[str, str, int], Case] = {}
    for row in rows:
        found.setdefault((row.prompt_set, row.prompt, row.seed), {})[row.method] = row
    return [case for case in found.values() if all(method in case for method in METHODS)]


def right(case: Case, method: str) -> bool:
    """True if the method's picture is all right."""
    return bool(case[method].all_right)


KINDS: dict[str, tuple[str, Callable[[Case], bool]]] = {
    "mended": (
        "Held-out objects: SHY right, plain wrong",
        lambda c: c["plain"].prompt_set == "two objects held out" and right(c, "SHY") and not right(c, "plain"),
    ),
    "roles": (
        "Actions: SHY right, CONFORM wrong",
        lambda c: c["plain"].prompt_set.startswith("actions") and right(c, "SHY") and not right(c, "CONFORM"),
    ),
    "failed": (
        "Where SHY fails: first what it lost, then what it did not mend",
        lambda c: c["plain"].prompt_set != "one object" and not right(c, "SHY"),
    ),
}


def gallery(folder: Path, chosen: list[Case], title: str) -> Image.Image:
    """A row of pictures for each method, prompts below the last."""
    lines = []
    for method in METHODS:
        panels = []
        for i, case in enumerate(chosen):
            with Image.open(folder / case[method].file) as picture:
                small = picture.convert("RGB").resize((128, 128), Image.Resampling.NEAREST)
            panels.append(Panel(small, method if i == 0 else "", case[method].prompt if method == METHODS[-1] else ""))
        lines.append(panels)
    return sheet(lines, title, "each column: one prompt, one noise")


STYLE = """<style>text{fill:#1f2328;font:12px system-ui,sans-serif}.title{font-weight:600}.label{text-anchor:end}
.tick{text-anchor:middle;fill:#59636e}.grid,.lead{stroke:#d1d9e0}.zero{stroke:#59636e;stroke-width:1.5}
.interval{stroke:#0969da;stroke-width:2}.mark{fill:#0969da}</style><rect width="100%" height="100%" fill="#fff"/>"""


def plots(folder: Path, group: str) -> dict[str, str]:
    """The report page's plots of one group, as SVG files of their own, by their titles."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    found = re.findall(rf"<figure class='plot' data-group='{re.escape(group)}'><svg (.*?</svg>)", page, flags=re.S)
    files = [f'<svg xmlns="http://www.w3.org/2000/svg" {svg.replace(">", ">" + STYLE, 1)}\n' for svg in found]
    return {re.findall('aria-label="([^"]*)"', svg)[0]: svg for svg in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--plots", nargs="*", default=["held out"], help="groups whose plots are written")
    options = parser.parse_args()
    for group in options.plots:
        for title, svg in plots(options.dir, group).items():
            (options.out / f"bench_{slug(group)}_{slug(title)}.svg").write_text(svg, encoding="utf-8")
    everything = cases(read_results(options.dir))
    for name, (title, wanted) in KINDS.items():
        chosen = sorted(filter(wanted, everything), key=lambda case: not right(case, "plain"))
        if name != "failed":
            chosen = [case for case in everything if wanted(case)]
        gallery(options.dir, chosen[: options.count], title).save(options.out / f"bench_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
