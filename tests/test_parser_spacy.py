"""Trained pipelines: the shadow sentence, the way back to the prompt, and the extractor on hand-written correct trees.

No trained pipeline is needed: small pipeline classes here give the tree that a trained one should give.
"""

from __future__ import annotations

import pytest
from interplay.errors import InterplayError
from interplay.parsing import available_parsers, parse
from interplay.parsing.extract import extract
from interplay.parsing.hypergraph import Hypergraph
from interplay.parsing.preprocess import prepare
from interplay.parsing.spacy_backend import installed_pipelines, parse_spacy, parse_with, shadow
from parser_cases import brief
from spacy.tokens import Doc
from spacy.vocab import Vocab


def vocab() -> Vocab:
    from spacy.lang.lex_attrs import LEX_ATTRS

    return Vocab(lex_attr_getters=LEX_ATTRS)


def fill(doc: Doc, tree: str) -> Doc:
    """Write a tree, one "tag label head" a token (head: its place), into a ``Doc`` of the same words."""
    rows = [row.split() for row in tree.strip().splitlines()]
    assert [row[0] for row in rows] == [t.text for t in doc]
    return Doc(
        doc.vocab, words=[t.text for t in doc], tags=[r[1] for r in rows], deps=[r[2] for r in rows],
        heads=[int(r[3]) for r in rows],
    )  # fmt: skip


class TreePipeline:
    """A pipeline that knows the trees of a few sentences by heart, as a trained parser would find them."""

    def __init__(self, *trees: str) -> None:
        self.vocab = vocab()
        self.trees = {tuple(row.split()[0] for row in t.strip().splitlines()): t for t in trees}
        self.seen: list[str] = []

    def __call__(self, doc: Doc) -> Doc:
        self.seen.append(" ".join(t.text for t in doc))
        return fill(doc, self.trees[tuple(t.text for t in doc)])


ROBOT = """
a DT det 1
Robot NN nsubj 3
is VBZ aux 3
painting VBG ROOT 3
a DT det 5
canvas NN dobj 3
in IN prep 3
a DT det 8
studio NN pobj 6
"""
LAYING = """
A DT det 1
cat NN ROOT 1
is VBZ aux 3
laying VBG acl 1
next RB advmod 3
to IN prep 4
a DT det 9
long-haired JJ amod 9
brown JJ amod 9
dog NN pobj 5
"""
GIRL = """
1girl NN ROOT 0
"""
HAIR = """
a DT det 2
red JJ amod 2
hair NN ROOT 2
"""
HOLDING = """
holding VBG ROOT 0
a DT det 2
sword NN dobj 0
"""


def test_shadow_is_mapped_back() -> None:
    pipeline = TreePipeline(ROBOT)
    graph = parse_with("Robot painting (canvas:1.3) in studio", pipeline, "tree")
    assert pipeline.seen == ["a Robot is painting a canvas in a studio"]
    assert brief(graph) == "Robot canvas @studio | painting(s:Robot, o:canvas, @:studio)"
    assert graph.vertices[1].span == (16, 22) and graph.parser == "tree"


def test_compound_prepositions_and_hyphens_become_one_word() -> None:
    graph = parse_with("A cat laying next to a long-haired brown dog", TreePipeline(LAYING), "tree")
    assert brief(graph) == "cat dog[long-haired,brown] | laying next to(s:cat, o:dog)"
    assert graph.hyperedges[0].spans == ((6, 12), (13, 17), (18, 20))


def test_tags_are_read_one_by_one_and_share_their_subject() -> None:
    graph = parse_with("1girl, red hair, holding sword, masterpiece", TreePipeline(GIRL, HAIR, HOLDING), "tree")
    assert brief(graph) == "1girl hair[red] sword | holding(s:1girl, o:sword) | masterpiece"


@pytest.mark.parametrize(
    ("prompt", "shadow_sentence"),
    [
        ("small cat chasing gray mouse under table", "a small cat is chasing a gray mouse under a table"),
        ("dogs carrying stick", "dogs are carrying a stick"),
        ("A pigeon carrying a letter is playing", "A pigeon carrying a letter is playing"),
        ("old owl holding her mother's letter", "an old owl is holding her mother 's letter"),
        ("MAN RIDING HORSE", "a man is riding a horse"),
    ],
)
def test_shadow_sentence(prompt: str, shadow_sentence: str) -> None:
    (sentence,) = prepare(prompt).sentences
    assert " ".join(text for text, _, _ in shadow(sentence)) == shadow_sentence


CORRECT_TREES = {
    "dog chases cat": (
        "A DT det 1|white JJ amod 2|dog NN nsubj 3|chases VBZ ROOT 3|two CD nummod 5|cats NNS dobj 3",
        "dog[white] cats[two] | chases(s:dog, o:cats)",
    ),
    "passive with agent": (
        "cake NN nsubjpass 2|was VBD auxpass 2|eaten VBN ROOT 2|by IN agent 2|bears NNS pobj 3|in IN prep 2|"
        "parks NNS pobj 5",
        "cake bears @parks | eaten(s:bears, o:cake, @:parks)",
    ),
    "reduced passive": (
        "ball NN ROOT 0|kicked VBN acl 0|by IN agent 1|boys NNS pobj 2",
        "ball boys | kicked(s:boys, o:ball)",
    ),
    "coordinated subjects": (
        "men NNS nsubj 3|and CC cc 0|women NNS conj 0|dance VBP ROOT 3",
        "men women | dance(s:men, s:women)",
    ),
    "participle behind bare coordination": (
        "men NNS ROOT 0|and CC cc 0|women NNS conj 0|dancing VBG acl 2",
        "men women | dancing(s:men, s:women)",
    ),
    "coordinated adjectives": (
        "black JJ amod 3|and CC cc 0|white JJ conj 0|cats NNS ROOT 3",
        "cats[black,white]",
    ),
    "coordinated verbs": (
        "girls NNS nsubj 1|sing VBP ROOT 1|and CC cc 1|hold VBP conj 1|flags NNS dobj 3",
        "girls flags | sing(s:girls); hold(s:girls, o:flags)",
    ),
    "open complement": (
        "cats NNS nsubj 1|try VBP ROOT 1|to TO aux 3|catch VB xcomp 1|mice NNS dobj 3",
        "cats mice | try to catch(s:cats, o:mice)",
    ),
    "relative clause": (
        "robots NNS ROOT 0|that WDT nsubj 2|repair VBP relcl 0|clocks NNS dobj 2",
        "robots clocks | repair(s:robots, o:clocks)",
    ),
    "predicate adjective": ("chairs NNS nsubj 1|are VBP ROOT 1|red JJ acomp 1", "chairs[red]"),
    "two objects": (
        "women NNS nsubj 1|give VBP ROOT 1|boys NNS dative 1|apples NNS dobj 1",
        "women boys apples | give(s:women, o:boys, o:apples)",
    ),
    "particle": ("men NNS nsubj 1|pick VBP ROOT 1|up RP prt 1|boxes NNS dobj 1", "men boxes | pick up(s:men, o:boxes)"),
    "instrument": (
        "cooks NNS nsubj 1|cut VBP ROOT 1|carrots NNS dobj 1|with IN prep 1|knives NNS pobj 3",
        "cooks carrots knives | cut(s:cooks, o:carrots, i:knives)",
    ),
    "possessive": (
        "king NN poss 2|'s POS case 0|crown NN ROOT 2",
        "king crown | ~'s(s:king, o:crown)",
    ),
    "relation without a verb": (
        "birds NNS ROOT 0|on IN prep 0|boxes NNS pobj 1",
        "birds boxes | ~on(s:birds, o:boxes)",
    ),
    "intransitive verb with a thing": (
        "birds NNS nsubj 1|sit VBP ROOT 1|on IN prep 1|boxes NNS pobj 2",
        "birds boxes | sit on(s:birds, o:boxes)",
    ),
}


@pytest.mark.parametrize(("tree", "graph"), CORRECT_TREES.values(), ids=list(CORRECT_TREES))
def test_extractor_on_a_correct_tree(tree: str, graph: str) -> None:
    words = [row.split()[0] for row in tree.split("|")]
    doc = fill(Doc(vocab(), words=words), tree.replace("|", "\n"))
    prompt, parts, at = " ".join(words), [], 0
    for word in words:
        parts.append(((at, at + len(word)),))
        at += len(word) + 1
    found = extract(doc, prompt, parts)
    assert brief(Hypergraph(prompt, tuple(found.vertices), tuple(found.edges))) == graph


def test_only_installed_pipelines_are_offered() -> None:
    assert available_parsers() == ("auto", "rules", *installed_pipelines())


@pytest.mark.skipif("en_core_web_sm" in installed_pipelines(), reason="en_core_web_sm is installed here")
def test_a_pipeline_that_is_not_installed() -> None:
    with pytest.raises(InterplayError, match="python -m spacy download en_core_web_sm"):
        parse_spacy("a dog", "en_core_web_sm")
    with pytest.raises(InterplayError, match="no parser 'en_core_web_sm'"):
        parse("a dog", "en_core_web_sm")


@pytest.mark.skipif(not installed_pipelines(), reason="no trained spaCy pipeline is installed")
@pytest.mark.parametrize("name", installed_pipelines())
def test_a_trained_pipeline(name: str) -> None:
    graph = parse("A robot is painting a canvas", name)
    assert brief(graph) == "robot canvas | painting(s:robot, o:canvas)" and graph.parser == name
