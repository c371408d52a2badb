"""Random hypergraphs for hypothesis. Not a test itself."""

from __future__ import annotations

from hypothesis import strategies as st
from interplay.parsing.hypergraph import ROLES, Hyperedge, Hypergraph, Modifier, Participant, Vertex

LETTERS = "aAbfisxé '\"-+=#@~:;,()*!?{}\n\t\r\u2028\u3000\x1c1_\\İıſßẞ猫🐱"
WORDS = ["fish", "Fish", "big", "cat", "catfish", "a,", "@forest", "-x", "#2", "1", "'s", "é", "\\(", "it?"]


def prompts() -> st.SearchStrategy[str]:
    noise = st.text(LETTERS, max_size=30)
    said = st.lists(st.one_of(st.sampled_from(WORDS), st.text(LETTERS, max_size=3)), max_size=12).map(" ".join)
    return st.one_of(noise, said)


@st.composite
def graphs(draw: st.DrawFn) -> Hypergraph:
    """Any valid hypergraph over a prompt with repeated words and the marks of the text form."""
    prompt = draw(prompts())
    if not prompt:
        return Hypergraph(prompt)
    span = st.integers(0, len(prompt) - 1).flatmap(
        lambda a: st.integers(a + 1, min(len(prompt), a + 8)).map(lambda b: (a, b))
    )
    heads = draw(st.lists(span, unique=True, max_size=5))
    vertices = tuple(
        Vertex(
            f"v{i}",
            prompt[slice(*head)],
            head,
            tuple(
                Modifier(prompt[slice(*s)], s, draw(st.booleans()))
                for s in draw(st.lists(span, unique=True, max_size=3))
            ),
            draw(st.booleans()),
            draw(st.none() | st.integers(0, 12)),
        )
        for i, head in enumerate(heads)
    )
    party = st.builds(Participant, st.sampled_from(ROLES), st.sampled_from([v.id for v in vertices] or ["v0"]))
    edges = []
    for i in range(draw(st.integers(0, 3))):
        spans = tuple(draw(st.lists(span, unique=True, min_size=1, max_size=3)))
        parties = tuple(draw(st.lists(party, unique=True, max_size=4))) if vertices else ()
        action = " ".join(prompt[slice(*s)] for s in spans)
        edges.append(Hyperedge(f"e{i}", draw(st.sampled_from(["action", "relation"])), action, spans, parties))
    silent = draw(st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=2))
    return Hypergraph(prompt, vertices, tuple(edges), tuple(silent))
