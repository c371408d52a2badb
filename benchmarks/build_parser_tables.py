#!/usr/bin/env python3
"""Make the parser's tables in ``parsing/data`` from WordNet 3.0 and the Brill lexicon.

usage: build_parser_tables.py WORDNET_FOLDER EN_LEXICON [--out FOLDER]

WORDNET_FOLDER holds ``data.noun``, ``index.noun``, … (Debian package ``wordnet-base``: /usr/share/wordnet);
EN_LEXICON is ``textblob/en/en-lexicon.txt`` out of the wheel that ``pip download --no-deps textblob`` fetches.
The result is the same byte for byte on every run. Licences: see NOTICE.
"""

from __future__ import annotations

import argparse
import gzip
import re
from collections import defaultdict
from pathlib import Path

# One bit a noun class; parsing/lexicon.py reads the same order.
CLASSES: dict[str, tuple[tuple[str, int], ...]] = {
    "person": (("person", 1),),
    "animal": (("animal", 1), ("imaginary_being", 1), ("spiritual_being", 1)),
    "place": (
        ("building", 1), ("room", 1), ("road", 1), ("passage", 3), ("geological_formation", 1), ("body_of_water", 1),
        ("tract", 1), ("geographical_area", 1), ("facility", 1), ("region", 1), ("region", 3), ("land", 4),
        ("forest", 1),
        ("shelter", 1), ("dwelling", 1), ("enclosure", 1), ("workplace", 1), ("way", 6), ("bridge", 1), ("floor", 1),
        ("establishment", 4), ("sky", 1), ("housing", 1), ("line", 11), ("land", 2), ("urban_area", 1), ("district", 1),
    ),
    "clothing": (("clothing", 1), ("footwear", 1), ("footwear", 2), ("headdress", 1), ("jewelry", 1), ("spectacles", 1),
                 ("armor", 1), ("accessory", 2), ("eyeglass", 1), ("neckwear", 1), ("mask", 1)),
    "body": (("body_part", 1), ("hair", 1), ("body_covering", 1), ("hair", 6)),
    "food": (("food", 1), ("food", 2), ("beverage", 1), ("edible_fruit", 1), ("foodstuff", 2)),
    "vehicle": (("vehicle", 1), ("craft", 2)),
    "tool": (("implement", 1), ("device", 1), ("utensil", 1), ("weapon", 1), ("cutlery", 2), ("musical_instrument", 1),
             ("rope", 1), ("fabric", 1), ("sports_implement", 1), ("ball", 1)),
    "plant": (("plant", 2), ("plant_part", 1)),
    "time": (("time_period", 1), ("time_unit", 1), ("season", 1)),
    "furniture": (("furniture", 1),),
    "physical": (("physical_entity", 1),),
    "game": (("game", 1), ("sport", 1), ("dance", 2)),
    "color": (("color", 1), ("chromatic_color", 1)),
    "substance": (("material", 1), ("substance", 1)),
    "group": (("collection", 1), ("social_group", 1)),
}  # fmt: skip
TRANSITIVE = {8, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21, 24, 25, 30, 31}
INTRANSITIVE = {1, 2, 3, 4, 12, 13, 22, 27, 23}
DITRANSITIVE = {14, 15}
LINKING = {6, 7}
INFINITIVE = {24, 28, 35}
BARE = {25, 32, 34}
FRAME_SETS = (TRANSITIVE, INTRANSITIVE, DITRANSITIVE, LINKING, INFINITIVE, BARE)


def lines_of(path: Path) -> list[str]:
    """Lines of a text file, their ends kept off."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def read_index(folder: Path, pos: str) -> dict[str, list[int]]:
    """Lemma to its synset offsets, most frequent first."""
    senses = {}
    for line in lines_of(folder / f"index.{pos}"):
        if not line.startswith(" "):
            fields = line.split()
            count = int(fields[2])
            senses[fields[0]] = [int(x) for x in fields[-count:]]
    return senses


def read_counts(folder: Path) -> dict[tuple[str, str], dict[int, int]]:
    """(lemma, part of speech) to {sense number: occurrences in the tagged corpus}."""
    counts: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    names = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}
    for line in lines_of(folder / "cntlist.rev"):
        key, number, count = line.split()
        lemma, rest = key.split("%")
        slot = counts[lemma, names[rest[0]]]
        slot[int(number)] = slot.get(int(number), 0) + int(count)
    return counts


def read_nouns(folder: Path) -> dict[int, list[int]]:
    """Noun synset to its hypernyms (also of an instance)."""
    up = {}
    for line in lines_of(folder / "data.noun"):
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        at = 4 + 2 * int(fields[3], 16)
        pointers = fields[at + 1 : at + 1 + 4 * int(fields[at])]
        up[int(fields[0])] = [
            int(pointers[i + 1])
            for i in range(0, len(pointers), 4)
            if pointers[i] in ("@", "@i") and pointers[i + 2] == "n"
        ]
    return up


def read_frames(folder: Path) -> dict[int, dict[str, set[int]]]:
    """Verb synset to {word: its sentence frames}."""
    out = {}
    for line in lines_of(folder / "data.verb"):
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        names = [fields[4 + 2 * i].lower() for i in range(int(fields[3], 16))]
        at = 4 + 2 * len(names)
        at += 1 + 4 * int(fields[at])
        frames: dict[int, set[int]] = defaultdict(set)  # by word number; 0 holds for every word
        for i in range(int(fields[at])):
            frames[int(fields[at + 3 + 3 * i], 16)].add(int(fields[at + 2 + 3 * i]))
        out[int(fields[0])] = {name: frames[0] | frames[n] for n, name in enumerate(names, 1)}
    return out


def noun_classes(folder: Path, counts: dict) -> dict[str, tuple[int, int]]:
    """Lemma to (bits of the leading physical sense, bits of every common sense)."""
    up, index = read_nouns(folder), read_index(folder, "noun")
    roots = [{index[word][n - 1] for word, n in names if len(index.get(word, ())) >= n} for names in CLASSES.values()]
    known: dict[int, int] = {}

    def bits(synset: int) -> int:
        if synset not in known:
            known[synset] = sum(1 << i for i, r in enumerate(roots) if synset in r)
            for above in up[synset]:
                known[synset] |= bits(above)
        return known[synset]

    physical = 1 << list(CLASSES).index("physical")
    out = {}
    for lemma, senses in index.items():
        seen = counts.get((lemma, "noun"), {})
        total = sum(seen.values())
        ranked = [bits(s) for s in senses]
        lead = next((b for b in ranked[:4] if b & physical), ranked[0])
        common = lead
        for number, b in enumerate(ranked, 1):
            if number == 1 or (total and seen.get(number, 0) / total >= 0.2):
                common |= b
        out[lemma] = lead, common
    return out


def verb_classes(folder: Path, counts: dict) -> dict[str, tuple[int, int]]:
    """Lemma to (bits of the frame sets of its first sense, bits of any sense)."""
    index, frames = read_index(folder, "verb"), read_frames(folder)
    out = {}
    for lemma, senses in index.items():
        bits = []
        for synset in senses:
            found = frames[synset][lemma]
            bits.append(sum(1 << i for i, group in enumerate(FRAME_SETS) if found & group))
        every = 0
        for b in bits:
            every |= b
        out[lemma] = bits[0], every
    return out


def write(path: Path, lines: list[str]) -> None:
    data = ("\n".join(lines) + "\n").encode()
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(data)
    print(f"{path.name}: {len(lines)} lines, {path.stat().st_size} bytes")


def lemma_lines(folder: Path) -> list[str]:
    """``lemma``, counts as noun, verb, adjective, adverb (empty: not that class), then class bits in hexadecimal.

    The bits: leading and common noun senses, sentence frames of the first and of any verb sense.
    """
    counts = read_counts(folder)
    nouns, verbs = noun_classes(folder, counts), verb_classes(folder, counts)
    adjectives, adverbs = read_index(folder, "adj"), read_index(folder, "adv")
    lines = []
    for lemma in sorted(set(nouns) | set(verbs) | set(adjectives) | set(adverbs)):
        if not re.fullmatch(r"[a-z][a-z'.-]*(_[a-z][a-z'.-]*)?", lemma):
            continue
        if "_" in lemma and not worth_keeping(lemma, nouns, verbs):
            continue
        known = (("noun", nouns), ("verb", verbs), ("adj", adjectives), ("adv", adverbs))
        numbers = [sum(counts.get((lemma, p), {}).values()) if lemma in table else -1 for p, table in known]
        lead, common = nouns.get(lemma, (0, 0))
        first, every = verbs.get(lemma, (0, 0))
        cells = [f"{n:d}" if n >= 0 else "" for n in numbers] + [
            f"{b:x}" if b else "" for b in (lead, common, first, every)
        ]
        lines.append("\t".join([lemma.replace("_", " "), *cells]).rstrip("\t"))
    return lines


def worth_keeping(lemma: str, nouns: dict, verbs: dict) -> bool:
    """Two-word entries: phrasal verbs, and nouns whose class their last word does not tell."""
    if lemma in verbs:
        return True
    head = lemma.split("_")[1]
    return lemma in nouns and nouns[lemma][0] != nouns.get(head, (0, 0))[0]


def tag_lines(lexicon: Path) -> list[str]:
    """``word, most frequent Penn tag`` of the lower-case words."""
    tags = {}
    for line in lines_of(lexicon):
        fields = line.split()
        if len(fields) == 2 and re.fullmatch(r"[a-z][a-z'-]+", fields[0]) and re.fullmatch(r"[A-Z$]+", fields[1]):
            tags[fields[0]] = fields[1]
    return [f"{word}\t{tag}" for word, tag in sorted(tags.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet", type=Path)
    parser.add_argument("lexicon", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "parsing" / "data")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / "lemmas.tsv.gz", lemma_lines(args.wordnet))
    write(args.out / "tags.tsv.gz", tag_lines(args.lexicon))


if __name__ == "__main__":
    main()
