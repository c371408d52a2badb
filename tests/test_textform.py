"""The text form: exact round trips, and what each kind of line does."""

from __future__ import annotations

import random

import pytest
from corpus import gold
from graph_strategies import LETTERS, graphs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interplay.errors import InterplayError
from interplay.parsing import parse
from interplay.parsing.hypergraph import Hypergraph
from interplay.parsing.textform import apply_text, format_text, is_whole
from prompt_fuzz import random_prompt

PROMPT = "A white dog plays with a ginger cat in a forest"
TEXT = "dog: white\ncat: ginger\n@forest\nplays with(dog, cat; @forest)"

SCRAPS = ["dog", "cat", "forest", "plays", "with", "ginger", "subject=", "#2", "*3", *"+-=@~!(),;:#*?\"{\n "]


@pytest.fixture
def graph() -> Hypergraph:
    return apply_text(Hypergraph(PROMPT), TEXT)


def said(graph: Hypergraph) -> list[str]:
    return format_text(graph).split("\n")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_every_graph_comes_back_from_its_text(graph: Hypergraph) -> None:
    assert apply_text(Hypergraph(graph.prompt), format_text(graph)) == graph


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_a_whole_text_bypasses_what_the_parser_said(graph: Hypergraph) -> None:
    text = format_text(graph)
    if text:
        other = Hypergraph(graph.prompt, graph.vertices[:1], not_content=("x",))
        assert is_whole(text)
        assert apply_text(other, text) == graph


def test_the_corpus_comes_back_from_its_text() -> None:
    for line in gold():
        graph = Hypergraph.from_dict(line)
        assert apply_text(Hypergraph(graph.prompt), format_text(graph)) == graph


def test_whatever_the_parser_makes_of_a_prompt_comes_back_from_its_text() -> None:
    rng = random.Random(11)
    for prompt in [*(line["prompt"] for line in gold()), *(random_prompt(rng) for _ in range(20))]:
        graph = parse(prompt)
        assert apply_text(Hypergraph(prompt), format_text(graph)) == graph


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.sampled_from(SCRAPS), st.text(LETTERS, max_size=4)), max_size=12).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    parsed = apply_text(Hypergraph(PROMPT), TEXT)
    try:
        changed = apply_text(parsed, text)
    except InterplayError as error:
        assert str(error).endswith(".")
    else:
        assert apply_text(Hypergraph(PROMPT), format_text(changed)) == changed or not format_text(changed)


def test_a_whole_text_is_read_in_full(graph: Hypergraph) -> None:
    assert [(v.head, v.span, [m.text for m in v.modifiers], v.environment) for v in graph.vertices] == [
        ("dog", (8, 11), ["white"], False),
        ("cat", (32, 35), ["ginger"], False),
        ("forest", (41, 47), [], True),
    ]
    (edge,) = graph.hyperedges
    assert (edge.action, edge.spans, edge.kind) == ("plays with", ((12, 17), (18, 22)), "action")
    assert [(p.role, p.vertex) for p in edge.participants] == [("subject", "v0"), ("object", "v1"), ("location", "v2")]
    assert format_text(graph) == TEXT


def test_parties_that_have_no_line_of_their_own_become_vertices() -> None:
    graph = apply_text(Hypergraph(PROMPT), "plays with(dog, cat; @forest)")
    assert [(v.head, v.environment) for v in graph.vertices] == [("dog", False), ("cat", False), ("forest", True)]


@pytest.mark.parametrize(
    ("edit", "lines"),
    [
        ("", TEXT.split("\n")),
        ("# nothing", TEXT.split("\n")),
        ("-forest", ["dog: white", "cat: ginger", "plays with(dog, cat)"]),
        ("-@forest", ["dog: white", "cat: ginger", "plays with(dog, cat)"]),
        ("-dog: white", ["dog", *TEXT.split("\n")[1:]]),
        ("-plays", TEXT.split("\n")[:3]),
        ("-plays with(dog)", TEXT.split("\n")[:3]),
        ("=dog: ginger", ["dog: ginger", *TEXT.split("\n")[1:]]),
        ("=forest", ["dog: white", "cat: ginger", "forest", "plays with(dog, cat; forest)"]),
        ("=plays(cat, dog)", [*TEXT.split("\n")[:3], "plays(cat, dog)"]),
        ("+dog: ginger", ["dog: white, ginger", *TEXT.split("\n")[1:]]),
        ("+~in(cat; @forest)", [*TEXT.split("\n"), "~in(cat; @forest)"]),
        ("+plays with(instrument=forest)", [*TEXT.split("\n")]),
        ("-dog\n-cat", ["@forest", "plays with(; @forest)"]),
        ("+! ginger", [*TEXT.split("\n"), "! ginger"]),
        ("DOG: WHITE\n-dog: white", ["dog"]),
    ],
)
def test_edits(graph: Hypergraph, edit: str, lines: list[str]) -> None:
    assert said(apply_text(graph, edit)) == lines


def test_an_edge_without_anyone_left_goes_with_its_last_party(graph: Hypergraph) -> None:
    assert said(apply_text(graph, "-dog\n-cat\n-forest")) == [""]


def test_edits_keep_the_parser_and_its_warnings_but_a_whole_text_does_not() -> None:
    parsed = Hypergraph(PROMPT, parser="rules", warnings=("unsure",))
    edited, replaced = apply_text(parsed, "+dog: white"), apply_text(parsed, "dog: white")
    assert (edited.parser, edited.warnings) == ("rules", ("unsure",))
    assert (replaced.parser, replaced.warnings) == ("text", ())


def test_a_number_means_an_occurrence_and_the_nearest_one_is_meant_without() -> None:
    prompt = "a big fish eats a small fish, a red car and a red ball"
    graph = apply_text(Hypergraph(prompt), "fish#2: small\nball: red\neats(fish#1, fish#2)")
    assert [v.span for v in graph.vertices] == [(24, 28), (50, 54), (6, 10)]
    assert graph.vertices[1].modifiers[0].span == (46, 49)
    assert format_text(graph).split("\n") == ["fish#2: small", "ball: red", "fish", "eats(fish, fish#2)"]


def test_an_action_without_number_is_the_one_nearest_to_its_parties() -> None:
    prompt = "a dog carrying a stick and a cat carrying a ball"
    graph = apply_text(Hypergraph(prompt), "carrying(cat, ball)\ncarrying(dog, stick)")
    assert [e.spans for e in graph.hyperedges] == [((33, 41),), ((6, 14),)]


def test_roles_counts_and_optional_modifiers() -> None:
    prompt = "two chefs cutting a carrot with a very sharp knife"
    text = "chefs*2: two\ncarrot\nknife: very?, sharp\ncutting(chefs, carrot, instrument=knife)"
    graph = apply_text(Hypergraph(prompt), text)
    assert format_text(graph) == text
    assert graph.vertices[0].count == 2
    assert [m.optional for m in graph.vertices[2].modifiers] == [True, False]
    assert graph.hyperedges[0].participants[2].role == "instrument"


def test_json_can_be_pasted(graph: Hypergraph) -> None:
    assert apply_text(Hypergraph(PROMPT), graph.to_json(indent=2)) == graph
    assert is_whole(graph.to_json())
    with pytest.raises(InterplayError, match="another prompt"):
        apply_text(Hypergraph("a cat"), graph.to_json())


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        ("dgo: white", "does not contain 'dgo'; did you mean 'dog'"),
        ("+dog: wite", "did you mean 'white'"),
        ("plays wiht(dog, cat)", "'wiht'; did you mean 'with'"),
        ("zzzz", "such as 'A', 'white', 'dog', 'plays'"),
        ("dog#2", "has 'dog' once, so there is no 'dog#2'"),
        ("a#9", "has 'a' 5 times"),
        ("-ginger", "neither a vertex nor an action"),
        ("-dog: ginger", "does not describe 'dog', which has 'white'"),
        ("=in(dog)", "neither a vertex nor an action"),
        ("plays(dog cat", "did you mean"),
        ("plays(dog: cat)", "missing before ': cat"),
        ("plays(sujet=dog)", "'sujet' is no role; use one of subject, object"),
        ("(dog, cat)", "no word before"),
        ("dog: ", "A word is missing"),
        ("dog: white,, big", "A word is missing"),
        ("dog#x", "A number must follow '#'"),
        ("+", "Nothing follows"),
        ('"dog', "A word is missing"),
        ("dog cat)", "left over"),
        ("{dog}", "not valid JSON"),
        ("-! ginger", "not among what names nothing"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(graph: Hypergraph, edit: str, complaint: str) -> None:
    with pytest.raises(InterplayError) as error:
        apply_text(graph, edit)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_closing_parenthesis_may_be_forgotten_at_the_end(graph: Hypergraph) -> None:
    assert apply_text(graph, "plays with(dog, cat; @forest").hyperedges == graph.hyperedges


def test_a_mistake_names_its_line(graph: Hypergraph) -> None:
    with pytest.raises(InterplayError, match=r"Line 3 of the text \(-tree\)"):
        apply_text(graph, "# remark\n+dog\n-tree")


def test_empty_prompt_says_that_it_has_no_words() -> None:
    with pytest.raises(InterplayError, match="no words at all"):
        apply_text(Hypergraph(""), "dog")
