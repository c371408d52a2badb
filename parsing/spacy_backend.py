"""Trained spaCy pipelines as parsers, when installed: they read a shadow of the prompt, and the result is mapped back.

A trained parser expects sentences, not captions ("Robot painting canvas" becomes one compound noun to it). So it gets
a shadow sentence with the articles and auxiliaries that a caption leaves out ("a Robot is painting a canvas"), and an
index map takes every word back to its place in the prompt. The extractor is the same as for the rules.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import InterplayError
from . import lexicon as lex
from . import words as w
from .attacher import chunks
from .extract import Extraction, extract
from .hypergraph import Hyperedge, Hypergraph, Participant, Span, Vertex
from .preprocess import Word, prepare
from .rules import finish
from .tagger import tag

if TYPE_CHECKING:
    from spacy.tokens import Doc
    from spacy.vocab import Vocab

PIPELINES = ("en_core_web_sm", "en_core_web_md", "en_core_web_lg", "en_core_web_trf")
Group = tuple[str, tuple[Span, ...], int]
"""A word of the shadow: text, its spans in the prompt (none when inserted), number of tokens."""


def installed_pipelines() -> tuple[str, ...]:
    """The trained English pipelines that can be used; looks for packages without importing spaCy."""
    return tuple(name for name in PIPELINES if importlib.util.find_spec(name) is not None)


@lru_cache(maxsize=2)
def _load(pipeline: str) -> Callable[[Doc], Doc]:
    import spacy

    try:
        return spacy.load(pipeline)
    except OSError as error:
        raise InterplayError(
            f"The spaCy pipeline '{pipeline}' is not installed; install it with: python -m spacy download {pipeline}"
        ) from error


def parse_spacy(prompt: str, pipeline: str) -> Hypergraph:
    """Parse a prompt with a trained pipeline such as ``en_core_web_sm``.

    Raises:
        InterplayError: the pipeline is not installed.
    """
    return parse_with(prompt, _load(pipeline), pipeline)


def parse_with(prompt: str, pipeline: Callable[[Doc], Doc], name: str) -> Hypergraph:
    """Parse with a loaded pipeline: a callable with ``vocab`` that fills in tags, heads and labels of a ``Doc``."""
    prepared = prepare(prompt)
    found = Extraction()
    for sentence in prepared.sentences:
        for segment in _clauses(sentence):
            groups = shadow(segment)
            doc = _merge(pipeline(_doc(groups, pipeline.vocab)), groups)  # type: ignore[attr-defined]
            part = extract(doc, prompt, [spans for _, spans, _ in groups])
            found = _joined(found, part)
    aside = list(dict.fromkeys(text for _, text in prepared.not_content))
    return finish(prompt, found, aside, name)


def _clauses(sentence: list[Word]) -> list[list[Word]]:
    """A list of tags is read tag by tag; any other sentence whole."""
    segments: list[list[Word]] = [[]]
    for word in sentence:
        if word.text == ",":
            segments.append([])
        else:
            segments[-1].append(word)
    segments = [s for s in segments if s]
    short = sum(len(s) <= 4 and not any(x.low in w.BE or x.low in ("and", "or") for x in s) for s in segments)
    return segments if len(segments) > 2 and short * 3 >= len(segments) * 2 else [sentence]


def shadow(sentence: list[Word]) -> list[Group]:
    """The sentence as a trained parser likes it: articles before bare singular nouns, is/are before the first V-ing."""
    shouting = sum(x.text.isupper() for x in sentence) > 0.7 * len(sentence)
    tags = tag(sentence, shouting)
    items = chunks(sentence, tags)
    insert: dict[int, str] = {}
    for item in items:
        if item.kind == "N" and _wants_article(sentence, tags, item.first, item.at):
            insert[item.first] = "an" if sentence[item.first].low[0] in "aeiou" else "a"
    finite = any(t in ("VBZ", "VBP", "VBD", "MD") for t in tags)
    for before, item in pairwise(items):
        if not finite and before.kind == "N" and item.kind == "V" and tags[item.at] == "VBG":
            insert[item.at] = "are" if tags[before.at] == "NNS" else "is"
            break
    groups: list[Group] = []
    for i, word in enumerate(sentence):
        if i in insert:
            groups.append((insert[i], (), 1))
        text = word.text.lower() if shouting else word.text
        groups.append((text, word.parts, len(word.parts)))
    return groups


def _wants_article(sentence: list[Word], tags: list[str], first: int, head: int) -> bool:
    if tags[head] != "NN" or tags[first] in ("DT", "PRP$", "CD", "PRP", "EX") or sentence[head].text[0].isdigit():
        return False
    return not (first > 0 and tags[first - 1] == "POS") and not lex.noun_is(sentence[head].low, "substance")


def _doc(groups: list[Group], vocab: Vocab) -> Doc:
    from spacy.tokens import Doc

    words = [piece for text, _, n in groups for piece in (text.split(" ") if n > 1 else [text.replace(" ", "_")])]
    return Doc(vocab, words=words, spaces=[True] * len(words))


def _merge(doc: Doc, groups: list[Group]) -> Doc:
    """Make one token of every compound preposition."""
    spans, at = [], 0
    for text, _, n in groups:
        size = len(text.split(" ")) if n > 1 else 1
        if size > 1:
            spans.append((doc[at : at + size], text in w.COMPOUND_PREPOSITIONS))
        at += size
    with doc.retokenize() as retokenizer:
        for span, preposition in spans:
            retokenizer.merge(span, attrs={"TAG": "IN", "POS": "ADP", "DEP": "prep"} if preposition else {"TAG": "RB"})
    return doc


def _joined(left: Extraction, right: Extraction) -> Extraction:
    """Two extractions as one; actions without a subject in ``right`` take the first actor of ``left``."""
    shift = len(left.vertices)
    edges: list[Hyperedge] = []
    taken = {v.span for v in left.vertices}
    names = {v.id: f"v{shift + k}" for k, v in enumerate(right.vertices)}
    vertices: list[Vertex] = [replace(v, id=names[v.id]) for v in right.vertices if v.span not in taken]
    actor = next(
        (v.id for v in left.vertices if lex.is_animate(v.head)), left.vertices[0].id if left.vertices else None
    )
    for edge in right.edges:
        parties = tuple(Participant(p.role, names[p.vertex]) for p in edge.participants)
        if edge.kind == "action" and actor and not any(p.role == "subject" for p in parties):
            parties = (Participant("subject", actor), *parties)
        edges.append(Hyperedge(f"e{len(left.edges) + len(edges)}", edge.kind, edge.action, edge.spans, parties))
    return Extraction(
        left.vertices + vertices,
        left.edges + edges,
        left.not_content + right.not_content,
        left.warnings + right.warnings,
    )
