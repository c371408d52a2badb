"""COCO-Order's four perturbations of a caption (ARO, Yuksekgonul et al. 2022), for evaluation only: models that read a
caption as a bag of words cannot tell them from the caption. They are no English, so they would teach grammar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any

from ...parsing import lexicon

MOST_WORDS = 30


def pre_caption(text: str) -> str:
    """As ARO hands captions on: lower case, without punctuation, at most 30 words."""
    plain = re.sub(r"[^\w\s]", " ", text.lower().replace("-", " ").replace("/", " "))
    return " ".join(plain.split()[:MOST_WORDS])


def order_perturbations(caption: str, seed: int = 0) -> dict[str, str]:
    """The caption with nouns and adjectives shuffled each within its class; with everything else shuffled; with the
    words of each trigram shuffled; with the trigrams shuffled. A shuffle may give back the caption (label noise, as in
    ARO).
    """
    words = pre_caption(caption).split()
    tags = _tags(words)
    rng = Random(f"order {seed} {caption}")
    kinds = {"noun": lambda t: t.startswith("NN"), "adjective": lambda t: t.startswith("JJ")}
    named = _shuffled(_shuffled(words, tags, kinds["noun"], rng), tags, kinds["adjective"], rng)
    rest = _shuffled(words, tags, lambda t: not t.startswith(("NN", "JJ")), rng)
    trigrams = [words[i : i + 3] for i in range(0, len(words), 3)]
    inside = [word for part in trigrams for word in rng.sample(part, len(part))]
    whole = [word for part in rng.sample(trigrams, len(trigrams)) for word in part]
    return {
        "nouns and adjectives": " ".join(named),
        "all but nouns and adjectives": " ".join(rest),
        "inside trigrams": " ".join(inside),
        "trigrams": " ".join(whole),
    }


def _shuffled(words: Sequence[str], tags: Sequence[str], kind: Callable[[str], bool], rng: Random) -> list[str]:
    places = [i for i, tag in enumerate(tags) if kind(tag)]
    out, order = list(words), rng.sample(places, len(places))
    for place, source in zip(places, order, strict=True):
        out[place] = words[source]
    return out


def _tags(words: Sequence[str]) -> list[str]:
    """Penn tags: spaCy's where a pipeline is installed, as ARO's code has them, else the rules' own."""
    nlp = _pipeline()
    if nlp is not None:
        from spacy.tokens import Doc

        return [token.tag_ for token in nlp(Doc(nlp.vocab, list(words)))]
    from ...parsing.preprocess import prepare
    from ...parsing.tagger import tag

    found = []
    for sentence in prepare(" ".join(words)).sentences:
        for word, name in zip(sentence, tag(sentence), strict=True):
            found += [name] * len(word.text.split())
    if len(found) == len(words):
        return found
    return [lexicon.usual_tags().get(word, "") for word in words]


@cache
def _pipeline() -> Any:
    from ...parsing.spacy_backend import installed_pipelines

    names = installed_pipelines()
    if not names:
        return None
    import spacy

    return spacy.load(names[0])
