#!/usr/bin/env python3
"""Make the table of nouns that the rules for verdicts read, ``guidance/grounding/data/nouns.tsv.gz``, from WordNet 3.0.

usage: build_noun_table.py WORDNET_FOLDER [--out FILE]

WORDNET_FOLDER holds ``data.noun``, ``index.noun`` and ``cntlist.rev`` (Debian package ``wordnet-base``:
/usr/share/wordnet). A line: number of a thing, numbers of what it is a kind of, its names. Only physical things and
groups of them are kept, names of one to three lower-case words, and of several words only where the last does not
say it ("hot dog", but not "polar bear"). The result is the same byte for byte on every run. Licence: see NOTICE.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from build_parser_tables import lines_of, read_counts, read_index, read_nouns, write

KEPT = (
    ("physical_entity", 1), ("collection", 1), ("social_group", 1), ("imaginary_being", 1), ("spiritual_being", 1),
)  # fmt: skip
LEFT_OUT = (("chemical", 1), ("microorganism", 1), ("taxonomic_group", 1), ("process", 6), ("cell", 2))
SHARE = 0.15  # of the tagged occurrences, for a sense beyond the leading one


def ancestors(synset: int, up: dict[int, list[int]], known: dict[int, set[int]]) -> set[int]:
    """The synset and everything that it is a kind of."""
    if synset not in known:
        known[synset] = {synset}.union(*(ancestors(above, up, known) for above in up[synset]))
    return known[synset]


def written(folder: Path) -> dict[int, set[str]]:
    """Synset to its names in their own case; index.noun has them all in lower case, also Uganda."""
    out = {}
    for line in lines_of(folder / "data.noun"):
        if not line.startswith(" "):
            fields = line.split(" ")
            out[int(fields[0])] = {fields[4 + 2 * i] for i in range(int(fields[3], 16))}
    return out


def senses_of(index: dict, counts: dict, spelt: dict, inside) -> dict[str, list[int]]:
    """Lemma to the synsets it is kept for: its leading physical sense, and common further ones."""
    out = {}
    for lemma, senses in index.items():
        if not re.fullmatch(r"[a-z][a-z'-]*(_[a-z][a-z'-]*){0,2}", lemma):
            continue
        small = [s for s in senses if lemma in spelt[s]]
        seen = {small.index(senses[n - 1]) + 1: k for n, k in counts.get((lemma, "noun"), {}).items()
                if n <= len(senses) and senses[n - 1] in small}  # fmt: skip
        total = sum(seen.values())
        found = [
            (n, s) for n, s in enumerate(small, 1)
            if inside(s) and (n <= 4 or (total and seen.get(n, 0) / total >= SHARE))
        ]  # fmt: skip
        kept = [s for i, (n, s) in enumerate(found) if i == 0 or (total and seen.get(n, 0) / total >= SHARE)]
        if kept:
            out[lemma] = kept
    return out


def table(folder: Path) -> list[str]:
    up, index = read_nouns(folder), read_index(folder, "noun")
    spelt, known = written(folder), dict[int, set[int]]()
    roots = {index[word][n - 1] for word, n in KEPT}
    out = {index[word][n - 1] for word, n in LEFT_OUT if len(index.get(word, ())) >= n}
    counts = read_counts(folder)

    def inside(synset: int) -> bool:
        above = ancestors(synset, up, known)
        return bool(above & roots) and not above & out

    names: dict[int, list[str]] = {}
    senses = senses_of(index, counts, spelt, inside)
    for lemma, found in senses.items():
        head = lemma.rsplit("_", 1)[-1] if "_" in lemma else None
        for synset in found:
            if head is None or not any(s in ancestors(synset, up, known) for s in senses.get(head, ())[:1]):
                names.setdefault(synset, []).append(lemma.replace("_", " "))
    needed = set().union(*(ancestors(s, up, known) for s in names))
    number = {s: i for i, s in enumerate(sorted(needed))}
    lines = []
    for synset in sorted(needed):
        above = ",".join(str(number[s]) for s in up[synset])
        lines.append(f"{number[synset]}\t{above}\t{','.join(sorted(names.get(synset, ())))}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    default = Path(__file__).resolve().parents[1] / "guidance" / "grounding" / "data" / "nouns.tsv.gz"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    write(args.out, table(args.folder))


if __name__ == "__main__":
    main()
