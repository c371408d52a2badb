"""The hypergraph: what it refuses, its JSON, and its HIF export."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import jsonschema
import pytest
from corpus import gold, gold_graph
from graph_strategies import graphs
from hypothesis import HealthCheck, given, settings
from interplay.errors import InterplayError
from interplay.parsing.hif import to_hif
from interplay.parsing.hypergraph import Hyperedge, Hypergraph, Modifier, Participant, Vertex

DOG, CAT = Vertex("v0", "dog", (0, 3)), Vertex("v1", "cat", (11, 14))
CHASES = Hyperedge("e0", "action", "chases", ((4, 10),), (Participant("subject", "v0"), Participant("object", "v1")))
PROMPT = "dog chases cat"

ID = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
ATTRS = {"type": "object"}
NUMBER = {"type": "number"}


def record(required: list[str], **properties: Any) -> dict[str, Any]:
    fields = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "array", "items": fields}


HIF = {
    "type": "object",
    "properties": {
        "network-type": {"enum": ["asc", "directed", "undirected"]},
        "metadata": {"type": "object"},
        "incidences": record(
            ["edge", "node"], edge=ID, node=ID, weight=NUMBER, direction={"enum": ["head", "tail"]}, attrs=ATTRS
        ),
        "nodes": record(["node"], node=ID, weight=NUMBER, attrs=ATTRS),
        "edges": record(["edge"], edge=ID, weight=NUMBER, attrs=ATTRS),
    },
    "required": ["incidences"],
    "additionalProperties": False,
}
"""The Hypergraph Interchange Format, 0.1, written down from its description."""


def test_the_corpus_comes_back_unchanged() -> None:
    for line in gold():
        written = Hypergraph.from_dict(line).to_dict()
        assert written == {key: line[key] for key in ("prompt", "vertices", "hyperedges", "not_content")}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_json_and_back(graph: Hypergraph) -> None:
    assert Hypergraph.from_json(graph.to_json()) == graph
    assert Hypergraph.from_json(json.dumps(graph.to_dict(), ensure_ascii=True)) == graph


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_hif_is_valid_and_holds_everything(graph: Hypergraph) -> None:
    hif = json.loads(json.dumps(to_hif(graph)))
    jsonschema.validate(hif, HIF)
    assert {i["node"] for i in hif["incidences"]} <= {n["node"] for n in hif["nodes"]}
    assert {i["edge"] for i in hif["incidences"]} <= {e["edge"] for e in hif["edges"]}
    back = {
        "prompt": hif["metadata"]["prompt"],
        "not_content": hif["metadata"]["not_content"],
        "vertices": [{"id": n["node"], "mods": n["attrs"].pop("modifiers"), **n["attrs"]} for n in hif["nodes"]],
        "hyperedges": [
            {
                "id": e["edge"],
                **e["attrs"],
                "participants": [
                    {"role": i["attrs"]["role"], "vertex": i["node"]}
                    for i in hif["incidences"]
                    if i["edge"] == e["edge"]
                ],
            }
            for e in hif["edges"]
        ],
    }
    assert Hypergraph.from_dict(back) == graph


def test_the_hif_schema_of_this_test_bites() -> None:
    hif = to_hif(gold_graph("d008"))
    hif["nodes"][0]["span"] = [0, 3]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(hif, HIF)


def test_ids_of_others_are_renumbered() -> None:
    data = Hypergraph(PROMPT, (DOG, CAT), (CHASES,)).to_dict()
    text = json.dumps(data).replace('"v0"', '"hund"').replace('"v1"', "7").replace('"e0"', '"jagt"')
    assert Hypergraph.from_json(text) == Hypergraph(PROMPT, (DOG, CAT), (CHASES,))


def test_parser_and_warnings_travel_but_do_not_compare() -> None:
    graph = Hypergraph(PROMPT, (DOG,), parser="rules", warnings=("unsure",))
    assert graph == Hypergraph(PROMPT, (DOG,)) and hash(graph) == hash(Hypergraph(PROMPT, (DOG,)))
    back = Hypergraph.from_json(graph.to_json())
    assert (back.parser, back.warnings) == ("rules", ("unsure",))
    assert graph.with_warnings("unsure", "more").warnings == ("unsure", "more")


def test_nothing_can_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Hypergraph(PROMPT).prompt = "cat"  # type: ignore[misc]


def test_looking_up() -> None:
    graph = gold_graph("d007")
    assert graph.vertex("v2").head == "dog"
    assert [e.action for e in graph.edges_of("v0")] == ["carrying", "playing with"]
    assert [e.action for e in graph.edges_of("v4")] == ["playing with"]
    assert graph.hyperedges[1].parties == ("v0", "v2", "v3")
    with pytest.raises(InterplayError, match="no vertex 'v9'"):
        graph.vertex("v9")


@pytest.mark.parametrize(
    ("vertices", "edges", "complaint"),
    [
        ((replace(DOG, span=(0, 99)),), (), "inside the 14 characters"),
        ((replace(DOG, span=(3, 3), head=""),), (), "inside the 14 characters"),
        ((replace(DOG, span=(-3, 3)),), (), "inside the 14 characters"),
        ((replace(DOG, span=[0, 3]),), (), "pair of whole numbers"),
        ((replace(DOG, head="Dog"),), (), "the prompt says 'dog', not 'Dog'"),
        ((replace(DOG, id="dog"),), (), "must be called 'v0'"),
        ((DOG, replace(DOG, id="v1")), (), "same word"),
        ((replace(DOG, count=-1),), (), "count"),
        ((replace(DOG, modifiers=(Modifier("ca", (11, 14)),)),), (), "says 'cat', not 'ca'"),
        ((replace(DOG, modifiers=(Modifier("cat", (11, 14)),) * 2),), (), "named twice"),
        ((DOG,), (CHASES,), "no vertex: 'v1'"),
        ((DOG, CAT), (replace(CHASES, kind="verb"),), "action, relation"),
        ((DOG, CAT), (replace(CHASES, id="e1"),), "must be called 'e0'"),
        ((DOG, CAT), (replace(CHASES, spans=(), action=""),), "needs a word"),
        ((DOG, CAT), (replace(CHASES, action="chase"),), "'chases', not 'chase'"),
        ((DOG, CAT), (replace(CHASES, spans=((4, 10), (4, 10)), action="chases chases"),), "named twice"),
        ((DOG, CAT), (replace(CHASES, participants=(Participant("agent", "v0"),)),), "subject, object"),
        ((DOG, CAT), (replace(CHASES, participants=CHASES.participants[:1] * 2),), "named twice"),
    ],
)
def test_a_false_graph_is_refused(vertices: Any, edges: Any, complaint: str) -> None:
    with pytest.raises(InterplayError) as error:
        Hypergraph(PROMPT, vertices, edges)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON object, not list"),
        ("{}", "lacks the field 'prompt'"),
        ('{"prompt": 3, "vertices": [], "hyperedges": []}', "prompt of a hypergraph is a text"),
        ('{"prompt": "a", "vertices": [3], "hyperedges": []}', "wrong type"),
        ('{"prompt": "a", "vertices": [{"id": "x", "span": [0]}], "hyperedges": []}', "wrong type"),
        ('{"prompt": "a", "vertices": [{"id": "x", "span": ["0", 1]}], "hyperedges": []}', "wrong type"),
        ('{"prompt": "a", "vertices": [{"id": "x"}], "hyperedges": []}', "lacks the field 'span'"),
        ('{"prompt": "a", "vertices": [{"id": "x", "span": [0, 2]}], "hyperedges": []}', "inside the 1 characters"),
        (
            '{"prompt": "a", "vertices": [], "hyperedges": '
            '[{"spans": [[0, 1]], "participants": [{"role": "subject", "vertex": "q"}]}]}',
            "no vertex: 'q'",
        ),
    ],
)
def test_false_json_is_refused_in_one_sentence(text: str, complaint: str) -> None:
    with pytest.raises(InterplayError) as error:
        Hypergraph.from_json(text)
    assert complaint in str(error.value)
