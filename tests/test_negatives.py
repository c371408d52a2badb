"""Negative captions: a golden file of what may and may not be made, properties, and every way that they go wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interplay.errors import InterplayError
from interplay.guidance.training.negative_filters import (
    OPS,
    SWAPS,
    articles_right,
    far_enough,
    reason_against,
    repaired,
    synonymous,
)
from interplay.guidance.training.negatives import candidates, hard_positives, negatives
from interplay.guidance.training.negatives_order import order_perturbations, pre_caption

GOLD = [json.loads(line) for line in (Path(__file__).parent / "data" / "negatives.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", GOLD, ids=[c["caption"][:40] for c in GOLD])
def test_the_golden_captions(case):
    made = {n.text: n.op for n in candidates(case["caption"], mixed=case.get("mixed", False)) if not n.reason}
    for text, op in case.get("must", {}).items():
        assert made.get(text) == op, made
    for text in case.get("never", []):
        assert text not in made
    for op in case.get("no", []):
        assert op not in made.values(), made
    for text in case.get("positives", []):
        assert text in hard_positives(case["caption"])


# --- every way to go wrong --------------------------------------------------------------------------------------------

FAILURES = [
    ("a cat and a dog", "", "swap_role", "empty"),
    ("a cat and a dog", "A cat and a dog.", "swap_role", "same"),
    ("a cat next to a dog", "a dog next to a cat", "swap_rel", "meaning"),
    ("a cat and a dog", "a dog and a cat", "swap_attr", "meaning"),
    ("a woman kissing a man", "a man kissing a woman", "swap_role", "meaning"),
    ("a couple of gray elephants in a wire cage", "a cage of gray elephants in a wire couple", "swap_attr", "compound"),
    ("a red fire hydrant and a blue car", "a red car hydrant and a blue fire", "swap_attr", "compound"),
    ("an orange cat and a white dog", "an white cat and a orange dog", "swap_attr", "article"),
    (
        "a truck carries a large amount of items",
        "a truck carries a few items and a large amount of people",
        "swap_attr",
        "words",
    ),
    ("a cat in her kitchen", "a dog in her living room", "swap_attr", "words"),
    ("a cat on a red chair", "a red cat on a brown dog", "replace_attr", "words"),
    ("a dog next to a street", "a dog next to a road", "replace_obj", "synonym"),
    ("a man sits on a sofa", "a man sits on a couch", "replace_obj", "synonym"),
    ("a red cat chasing a blue dog", "a red blue chasing a cat dog", "swap_attr", "broken"),
    ("a red car and a red bus", "a red bus and a red car", "swap_attr", "meaning"),  # equal properties
    *(
        (f"a boy {word} a dog", f"a dog {word} a boy", "swap_rel", "meaning")
        for word in ("beside", "near", "with", "and", "or")
    ),
    ("a teddy bear and a red dog", "a red bear and a teddy dog", "swap_attr", "compound"),
    ("a row of red chairs and a blue table", "a blue row of red chairs and a table", "swap_attr", "compound"),
    ("a group of sheep near a dog", "a dog of sheep near a group", "swap_rel", "compound"),
    ("a cat on top of a car", "a top on cat of a car", "swap_rel", "compound"),
    ("a bird on the side of a house", "a bird on the house of a side", "swap_rel", "compound"),
    ("a cup of coffee on a book", "a book of coffee on a cup", "swap_rel", "compound"),
    # an answer that mends an unidiomatic caption gives the caption back
    ("a cat chasing dog", "A cat chasing dog!", "swap_role", "same"),
    # a swap of order only: the same in other words
    ("a sheep chases a goat", "a goat is chased by a sheep", "swap_role", "words"),
    ("a goat chased by a sheep", "a sheep chased by a goat", "swap_role", ""),
    ("a truck carries a box", "a truck carries a box and a man", "swap_role", "words"),  # adds
    ("a truck carries a box and a man", "a truck carries a man", "swap_role", "words"),  # drops
    ("two cats and three dogs", "three dogs and two cats", "swap_count", "meaning"),
]


@pytest.mark.parametrize(("caption", "text", "op", "reason"), FAILURES)
def test_every_kind_of_failure_is_turned_down_for_its_reason(caption, text, op, reason):
    assert reason_against(caption, text, op) == reason


def test_a_thing_that_lives_and_one_that_does_not_change_places_only_when_asked():
    text = "an umbrella holding a woman"
    plain = {n.text: n.reason for n in candidates("a woman holding an umbrella")}
    assert plain[text] == "implausible"
    assert text in {n.text for n in negatives("a woman holding an umbrella", mixed=True)}


def test_an_unknown_operation_is_named():
    with pytest.raises(InterplayError, match="no operation 'shuffle'"):
        negatives("a cat", ["shuffle"])


# --- properties -------------------------------------------------------------------------------------------------------

ANIMALS, COLOURS = ("cat", "dog", "elephant", "horse", "owl"), ("red", "orange", "blue", "white")
VERBS = ("chasing", "watching", "carrying", "pushing")


@st.composite
def captions(draw):
    one, two = draw(st.permutations(ANIMALS))[:2]
    first, second = draw(st.permutations(COLOURS))[:2]
    verb = draw(st.sampled_from(VERBS))
    place = draw(st.sampled_from(("", " in the snow", " on a beach")))
    return repaired(f"a {first} {one} {verb} a {second} {two}{place}")


def bag(text: str) -> Counter:
    return Counter(text.lower().replace("an ", "a ").split())


@settings(max_examples=25, deadline=None)
@given(captions())
def test_swaps_keep_the_words_and_come_back_when_made_twice(caption):
    found = negatives(caption)
    assert {"swap_attr", "swap_role"} <= {n.op for n in found}
    for n in found:
        assert articles_right(n.text)
        if n.op in SWAPS:
            assert bag(n.text) == bag(caption) and n.text != caption
        if n.op in ("swap_attr", "swap_role"):
            assert caption in {m.text for m in negatives(n.text, [n.op])}
        else:
            assert sum((bag(n.text) - bag(caption)).values()) <= 2


@settings(max_examples=15, deadline=None)
@given(captions())
def test_a_positive_is_never_a_negative(caption):
    same = hard_positives(caption)
    made = {n.text for n in negatives(caption, limit=50)}
    assert same and not made & set(same)
    for text in same:
        assert not {n.text for n in negatives(text, SWAPS, limit=50)} & {caption}


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=60))
def test_no_text_breaks_the_rules(text):
    for n in candidates(text):
        assert n.op in OPS
    order_perturbations(text)


def test_replacements_depend_on_their_seed_alone():
    caption = "a red cat chasing a blue dog"
    assert negatives(caption, seed=1) == negatives(caption, seed=1)
    assert len({tuple(n.text for n in negatives(caption, ["replace_attr"], seed=s)) for s in range(8)}) > 1


def test_repairs_and_synonyms():
    assert repaired("An red cat and a owl") == "A red cat and an owl"
    assert synonymous("roads", "street") and synonymous("cats", "cat") and not synonymous("cat", "dog")


def test_what_an_encoder_finds_too_near_is_left_out():
    vectors = {"a": [1.0, 0.0], "b": [0.99, 0.05], "c": [0.0, 2.0]}
    assert far_enough("a", ["b", "c"], lambda texts: [vectors[t] for t in texts], 0.1) == ["c"]


def test_a_clip_leaves_out_what_it_finds_too_near(tmp_path, capsys):
    """On a CLIP of random weights: the distances it finds are the bounds that let a negative pass, or not."""
    import tiny_models
    from interplay.cli import main
    from interplay.guidance.rewards.clip import load_clip, text_embeddings

    caption = "a red cat chasing a blue dog"
    folder = str(tiny_models.clip(tmp_path))
    made = [n.text for n in negatives(caption, limit=4)]
    own, *others = text_embeddings(load_clip(folder), [caption, *made])
    away = sorted((1 - float(own @ other), text) for other, text in zip(others, made, strict=True))
    bound = (away[1][0] + away[2][0]) / 2
    options = ["train", "negatives", "--text", caption, "--clip", folder, "--distance", str(bound)]
    assert main(options) == 0
    assert {n["text"] for n in json.loads(capsys.readouterr().out)["negatives"]} == {text for _, text in away[2:]}
    assert main([*options[:-1], "-1"]) == 2


# --- COCO-Order -------------------------------------------------------------------------------------------------------

CAPTION = "A brown cat is looking at a gray dog, sitting in a white bathtub."


def test_coco_orders_four_perturbations():
    assert pre_caption(CAPTION) == "a brown cat is looking at a gray dog sitting in a white bathtub"
    own = pre_caption(CAPTION).split()
    for seed in range(5):
        found = {name: text.split() for name, text in order_perturbations(CAPTION, seed).items()}
        assert len(found) == 4 and all(Counter(w) == Counter(own) for w in found.values())
        nouns, adjectives = {2, 8, 13}, {1, 7, 12}
        named = found["nouns and adjectives"]
        assert {named[i] for i in nouns} == {"cat", "dog", "bathtub"}
        assert {named[i] for i in adjectives} == {"brown", "gray", "white"}
        assert all(named[i] == own[i] for i in range(14) if i not in nouns | adjectives)
        rest = found["all but nouns and adjectives"]
        assert all(rest[i] == own[i] for i in nouns | adjectives)
        inside, trigrams = found["inside trigrams"], found["trigrams"]
        assert all(Counter(inside[i : i + 3]) == Counter(own[i : i + 3]) for i in range(0, 14, 3))
        parts = [" ".join(own[i : i + 3]) for i in range(0, 14, 3)]
        assert all(part in " ".join(trigrams) for part in parts)
    assert len({tuple(order_perturbations(CAPTION, seed).values()) for seed in range(5)}) > 1
    assert len(pre_caption("word " * 50).split()) == 30


# --- by a language model ----------------------------------------------------------------------------------------------


def reply(*rows) -> str:
    return json.dumps({"negatives": [{"text": t, "op": op, "changed": ["x", "y"]} for t, op in rows]})


def ask_in_turn(*replies):
    left, asked = list(replies), []

    def ask(messages):
        asked.append(messages)
        return left.pop(0)

    return ask, asked


def test_the_model_is_asked_once_more_with_the_reason():
    from interplay.guidance.training.negatives_llm import llm_negatives

    ask, asked = ask_in_turn(
        reply(("a dog next to a road", "replace_obj")), reply(("a street next to a dog walking", "swap_rel"))
    )
    found = llm_negatives("a dog next to a street", ask)
    assert [n.reason for n in found] == ["synonym", "words"] and len(asked) == 2
    assert "it takes a synonym" in asked[1][-1]["content"]


def test_what_holds_is_kept_and_asked_for_once(tmp_path):
    from interplay.guidance.training.negatives_llm import Answers, llm_negatives, with_model

    caption = "a red cat chasing a blue dog"
    text = reply(("a blue cat chasing a red dog", "swap_attr"), ("a red cat", "swap_role"), ("x", "fly"))
    ask, asked = ask_in_turn("```json\n" + text + "\n```")
    found = llm_negatives(caption, ask, Answers(tmp_path))
    assert [n.reason for n in found] == ["", "words", "op"] and len(asked) == 1
    again = llm_negatives(caption, ask, Answers(tmp_path))  # from disk: nothing is left to answer
    assert again == found and len(asked) == 1
    both = with_model(negatives(caption), found, 10)
    assert both[0].text == "a blue cat chasing a red dog" and len({n.text for n in both}) == len(both)


@pytest.mark.parametrize("answer", ["", "sorry, no", "[]", '{"negatives": "none"}', '{"negatives": [{"text": 3}]}'])
def test_nonsense_gives_nothing(answer):
    from interplay.guidance.training.negatives_llm import llm_negatives

    ask, _ = ask_in_turn(answer, answer)
    assert not [n for n in llm_negatives("a cat chasing a dog", ask) if not n.reason]


def test_a_real_address_is_asked_by_schema(monkeypatch):
    """A server on this machine; and none."""
    import http.server
    import threading

    from interplay.guidance.training.negatives_llm import endpoint_ask, llm_negatives

    bodies = []

    class Stub(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            content = reply(("a dog chasing a cat", "swap_role"))
            data = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("INTERPLAY_LLM_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("INTERPLAY_LLM_MODEL", "stub")
    try:
        ask, model = endpoint_ask()
        assert [n.text for n in llm_negatives("a cat chasing a dog", ask, model=model)] == ["a dog chasing a cat"]
    finally:
        server.shutdown()
        server.server_close()
    schema = bodies[0]["response_format"]["json_schema"]["schema"]
    assert "negatives" in schema["properties"] and bodies[0]["temperature"] == 0
    monkeypatch.setattr("interplay.guidance.grounding.llm_http.RETRIES", 0)
    assert llm_negatives("a cat chasing a dog", ask) == []


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_what_training_reads(tmp_path, capsys):
    from interplay.cli import main

    (tmp_path / "a.txt").write_text("a red cat chasing a blue dog\na cat\n")
    assert main(["train", "negatives", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out"), "--limit", "2"]) == 0
    assert "2 captions, " in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text().splitlines()]
    assert rows[0]["negatives"] == ["a blue cat chasing a red dog", "a blue dog chasing a red cat"]
    assert "a blue dog chased by a red cat" in rows[0]["positives"]
    assert main(["train", "negatives", "--text", "a cat next to a dog", "--ops", "swap_rel", "--why"]) == 0
    assert json.loads(capsys.readouterr().out)["negatives"] == []
    assert main(["train", "negatives", str(tmp_path / "none")]) == 2
    assert main(["train", "negative"]) == 2
    assert "There is no trainer 'negative'" in capsys.readouterr().err
