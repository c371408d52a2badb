"""The default parser: rules for caption English that write a spaCy ``Doc``, read by the common extractor."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from . import lexicon as lex
from .attacher import Tree, attach
from .extract import Extraction, extract
from .hypergraph import Hypergraph, Span
from .preprocess import is_latin, prepare
from .tagger import tag

if TYPE_CHECKING:
    from spacy.tokens import Doc
    from spacy.vocab import Vocab


def parse_rules(prompt: str) -> Hypergraph:
    """Parse a prompt with the built-in rules; deterministic, never raises on text.

    Returns:
        The graph, with ``parser="rules"``; ``warnings`` say what it is unsure about.
    """
    doc, parts, not_content = rules_doc(prompt)
    found = extract(doc, prompt, parts) if len(doc) else Extraction()
    return finish(prompt, found, not_content, "rules")


def rules_doc(prompt: str) -> tuple[Doc, list[tuple[Span, ...]], list[str]]:
    """The ``Doc`` of a prompt (tags, heads, CLEAR labels), the spans of each token, and what is not content."""
    prepared = prepare(prompt)
    trees = []
    for sentence in prepared.sentences:
        words = [word.text for word in sentence if word.text.isalpha()]
        shouting = bool(words) and sum(x.isupper() for x in words) > 0.7 * len(words)
        titled = len(words) > 2 and sum(x[0].isupper() for x in words) > 0.7 * len(words)
        trees.append(attach(sentence, tag(sentence, shouting, titled)))
    doc = write_doc(trees)
    parts = [word.parts for tree in trees for word in tree.words]
    return doc, parts, list(dict.fromkeys(text for _, text in prepared.not_content))


@lru_cache(maxsize=1)
def _vocab() -> Vocab:
    from spacy.lang.lex_attrs import LEX_ATTRS
    from spacy.vocab import Vocab

    return Vocab(lex_attr_getters=LEX_ATTRS)


def write_doc(trees: list[Tree]) -> Doc:
    """One spaCy ``Doc`` of several trees."""
    from spacy.tokens import Doc

    texts: list[str] = []
    tags: list[str] = []
    deps: list[str] = []
    heads: list[int] = []
    for tree in trees:
        offset = len(texts)
        _cut_cycles(tree)
        texts += [word.text for word in tree.words]
        tags += tree.tags
        deps += tree.deps
        heads += [offset + head for head in tree.heads]
    return Doc(_vocab(), words=texts, spaces=[True] * len(texts), tags=tags, deps=deps, heads=heads)


def _cut_cycles(tree: Tree) -> None:
    """Make sure that every word leads to a root."""
    for start in range(len(tree.heads)):
        seen, at = set(), start
        while tree.heads[at] != at:
            if at in seen:
                tree.heads[at], tree.deps[at] = at, "ROOT"
                break
            seen.add(at)
            at = tree.heads[at]


def finish(prompt: str, found: Extraction, not_content: list[str], parser: str) -> Hypergraph:
    """Build the hypergraph and say what to be careful about."""
    aside = tuple(dict.fromkeys([*not_content, *(text for _, text in found.not_content)]))
    graph = Hypergraph(prompt, tuple(found.vertices), tuple(found.edges), aside, parser)
    return graph.with_warnings(*found.warnings, *_warnings(graph))


def _looks_foreign(prompt: str) -> bool:
    """Whether hardly any word of a longer prompt is an English one."""
    words = [word.low for sentence in prepare(prompt).sentences for word in sentence if word.text.isalpha()]
    strange = sum(not lex.is_known(word) for word in words)
    return len(words) > 3 and strange * 2 > len(words)


def _warnings(graph: Hypergraph) -> list[str]:
    out = []
    letters = [c for c in graph.prompt if c.isalpha()]
    foreign = [c for c in letters if not is_latin(c)]
    if foreign and len(foreign) * 5 > len(letters):
        out.append("The prompt is not in Latin script; words in other scripts are left out of the graph.")
    elif _looks_foreign(graph.prompt):
        out.append("The prompt does not look English; the graph may be wrong.")
    if not graph.vertices:
        out.append("No noun was found in the prompt; the graph is empty.")
    actions = [e for e in graph.hyperedges if e.kind == "action"]
    if graph.vertices and not actions:
        out.append("No action was found in the prompt.")
    for edge in actions:
        if len(edge.parties) < 2:
            out.append(f"The action '{edge.action}' has no second party.")
    return out
