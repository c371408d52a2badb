"""Questions made from hypergraphs by rule: golden cases, and what they find in PixelWorld pictures."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from corpus import PAPER, gold
from interplay.guidance.pixelworld import world
from interplay.guidance.pixelworld.render import render
from interplay.guidance.rewards import answers, pixelworld, wording
from interplay.guidance.rewards.answers import questions_of
from interplay.guidance.rewards.questions import KINDS, Question, questions
from interplay.parsing.hypergraph import Hypergraph
from PIL import Image


def asked(prompt: str) -> list[tuple[str, str, str]]:
    return [(q.kind, q.text, q.answer) for q in questions_of(prompt)]


def test_every_element_of_a_prompt_is_asked_for():
    assert asked("a red robot pushing two blue boxes in the forest") == [
        ("object", "Is there a robot in the picture?", "yes"),
        ("attribute", "What color is the robot?", "red"),
        ("object", "Are there boxes in the picture?", "yes"),
        ("attribute", "What color are the boxes?", "blue"),
        ("counting", "How many boxes are there in the picture?", "2"),
        ("environment", "Is this in a forest?", "yes"),
        ("action", "Is the robot pushing something?", "yes"),
        ("contrary", "Is the robot pulling or pushing the boxes?", "pushing"),
        ("roles", "Is the robot pushing the boxes?", "yes"),
        ("swapped", "Are the boxes pushing the robot?", "no"),
    ]


@pytest.mark.parametrize(
    ("prompt", "roles", "swapped"),
    [
        ("Cat chasing mouse under tree", "Is the cat chasing the mouse?", "Is the mouse chasing the cat?"),
        ("A cat is chased by a dog in the park", "Is the dog chasing the cat?", "Is the cat chasing the dog?"),
        (
            "a red book to the left of a yellow pen",
            "Is the book to the left of the pen?",
            "Is the pen to the left of the book?",
        ),
        ("two dogs carry a stick", "Are the dogs carrying the stick?", "Is the stick carrying the dogs?"),
        (
            "a black dog chasing a white dog",
            "Is the black dog chasing the white dog?",
            "Is the white dog chasing the black dog?",
        ),
        ("a cat sleeping on a sofa", "Is the cat sleeping on the sofa?", "Is the sofa sleeping on the cat?"),
        ("Old fisherman reeling fish", "Is the fisherman reeling the fish?", "Is the fish reeling the fisherman?"),
    ],
)  # fmt: skip
def test_an_edge_is_asked_with_its_swapped_twin(prompt, roles, swapped):
    found = asked(prompt)
    assert ("roles", roles, "yes") in found
    assert ("swapped", swapped, "no") in found


@pytest.mark.parametrize(
    "prompt", ["a white dog plays with a ginger cat", "a man hugging a woman", "a red cup next to a blue bowl"]
)
def test_what_both_do_to_each_other_has_no_twin(prompt):
    kinds = [kind for kind, _, _ in asked(prompt)]
    assert "roles" in kinds and "swapped" not in kinds


def test_push_and_pull_differ():
    push, pull = (questions_of(f"a man {verb} a cart") for verb in ("pushing", "pulling"))
    contrary = [next(q for q in some if q.kind == "contrary") for some in (push, pull)]
    assert contrary[0].text == contrary[1].text == "Is the man pulling or pushing the cart?"
    assert [q.answer for q in contrary] == ["pushing", "pulling"]
    assert contrary[0].choices == ("pulling", "pushing")


def test_recipients_and_instruments_keep_their_preposition():
    assert ("roles", "Is the cat giving the bone to the dog?", "yes") in asked("a cat gives a dog a bone")
    found = asked("a man hits a ball with a bat")
    assert ("roles", "Is the man hitting the ball with the bat?", "yes") in found
    assert ("roles", "Is the man hitting the ball?", "yes") in found
    assert not any("hitting the bat?" in text for _, text, _ in found)


def test_names_are_whole_and_properties_are_asked():
    found = asked("A photo of a stop sign in front of a graffitied truck")
    assert ("object", "Is there a stop sign in the picture?", "yes") in found
    assert ("attribute", "Is the truck graffitied?", "yes") in found
    assert not any("stop?" in text for _, text, _ in found)
    assert ("attribute", "Is the statue marble?", "yes") in asked(PAPER[-1])


def test_a_colour_is_chosen_among_those_that_could_leak():
    found = [q for q in questions_of("a green balloon and a pink bowl") if q.kind == "attribute"]
    assert [q.answer for q in found] == ["green", "pink"]
    for question in found:
        assert {"green", "pink"} <= set(question.choices) and len(question.choices) == 4
        assert list(question.choices) == sorted(question.choices)


def test_things_of_one_name_are_told_apart_and_counted():
    found = asked("a black dog chasing a white dog")
    assert ("attribute", "Is there a black dog?", "yes") in found
    assert ("attribute", "Is there a white dog?", "yes") in found
    assert ("counting", "How many dogs are there in the picture?", "2") in found


@pytest.mark.parametrize("prompt", PAPER)
def test_the_papers_prompts_ask_for_both_parties_the_place_and_the_action(prompt):
    kinds = [q.kind for q in questions_of(prompt)]
    assert kinds.count("object") == 2 and kinds.count("environment") == 1
    assert kinds.count("action") == kinds.count("roles") == kinds.count("swapped") == 1
    nouns = {w.lower() for w in prompt.split()}
    for question in questions_of(prompt):
        assert question.answer in question.choices
        assert not question.noun or set(question.noun.split()) <= nouns


def test_every_gold_hypergraph_gives_well_formed_questions():
    for line in gold():
        for question in questions(Hypergraph.from_dict(line)):
            assert question.kind in KINDS and question.answer in question.choices
            assert len(set(question.choices)) == len(question.choices) > 1
            assert question.text.endswith("?") and question.text[0].isupper()
            assert "  " not in question.text and " ?" not in question.text


@pytest.mark.parametrize(
    ("name", "said"),
    [("robot", "a robot"), ("orange box", "an orange box"), ("unicorn", "a unicorn"), ("hour", "an hour"),
     ("glasses", "glasses"), ("fish", "a fish"), ("children", "children")],
)  # fmt: skip
def test_articles(name, said):
    assert wording.with_article(name, name.split()[-1]) == said


@pytest.mark.parametrize(
    ("verb", "form"), [("plays", "playing"), ("chased", "chasing"), ("sits", "sitting"), ("carrying", "carrying"),
                       ("lies", "lying"), ("bring", "bringing")],
)  # fmt: skip
def test_gerunds(verb, form):
    assert wording.gerund(verb) == form


# --- answers ----------------------------------------------------------------------------------------------------------


def test_shares_are_counted_by_kind():
    """A plain count over a made-up list, every answer given by hand."""
    some = [
        Question("1?", ("yes", "no"), "yes", "object"),
        Question("2?", ("yes", "no"), "yes", "object"),
        Question("3?", ("blue", "red"), "red", "attribute"),
        Question("4?", ("yes", "no"), "yes", "action", "cat", verb="chasing"),
        Question("5?", ("yes", "no"), "yes", "roles", "cat", verb="chasing", other="dog"),
        Question("6?", ("yes", "no"), "no", "swapped", "dog", verb="chasing", other="cat"),
        Question("7?", ("1", "2"), "2", "counting"),
    ]
    reading = answers.read(some, ["Yes", "no", "The red.", "yes", "yes", "yes", "two"])
    assert reading.value == pytest.approx(4 / 5)
    assert reading.parts["object"] == 0.5 and reading.parts["attribute"] == 1 and reading.parts["counting"] == 1
    assert reading.parts["roles"] == 1 and reading.parts["swapped"] == 0 and reading.parts["edges"] == 0.5
    assert reading.parts["pairs"] == 0
    assert reading.parts["all"] == pytest.approx(5 / 7)
    assert reading.parts["environment"] is None and reading.parts["contrary"] is None


def test_a_prompt_without_content_has_no_score():
    reading = answers.read([], [])
    assert reading.value is None and set(reading.parts.values()) == {None}


def drawn(scene: world.Scene) -> Image.Image:
    return Image.fromarray(render(scene)[0])


def scenes(count: int) -> list[world.Scene]:
    """Scenes with an action and no bystander, all things of different kinds."""
    rng, found = Random(5), list[world.Scene]()
    while len(found) < count:
        scene = world.sample_scene(rng, "action")
        if scene.target and scene.target.object != scene.subject.object:
            found.append(scene)
    return found


def plain_prompt(scene: world.Scene) -> str:
    names = [f"{t.colour} {t.object}" for t in scene.things[:2]]
    return f"a {names[0]} {scene.action} a {names[1]} in the {scene.environment}"


def test_true_pictures_answer_every_question_as_the_prompt_does():
    scorer = pixelworld.pixelworld_scorer()
    for scene in scenes(12):
        reading = scorer.score([drawn(scene)], [plain_prompt(scene)])[0]
        assert reading.value == 1 and reading.parts["all"] == 1 and reading.parts["pairs"] == 1, reading.notes


def test_exchanged_parties_escape_tifas_questions_but_not_the_twins():
    """The picture shows B doing it to A: every thing, colour and place is right."""
    scorer = pixelworld.pixelworld_scorer()
    for scene in scenes(6):
        a, b = (f"{t.colour} {t.object}" for t in scene.things[:2])
        reading = scorer.score([drawn(scene)], [f"a {b} {scene.action} a {a} in the {scene.environment}"])[0]
        assert reading.parts["object"] == reading.parts["attribute"] == reading.parts["environment"] == 1
        assert reading.parts["swapped"] == reading.parts["roles"] == reading.parts["pairs"] == 0


def test_other_things_colours_and_places_are_wrong():
    scene = scenes(1)[0]
    first, second = scene.things[:2]
    image = drawn(scene)
    colour = next(c for c in world.COLOURS if c not in (first.colour, second.colour))
    thing = next(o for o in world.OBJECTS if o not in (first.object, second.object))
    place = next(e for e in world.ENVIRONMENTS if e != scene.environment)
    scorer = pixelworld.pixelworld_scorer()
    read = lambda prompt: scorer.score([image], [prompt])[0].parts  # noqa: E731
    assert read(f"a {colour} {first.object} in the {scene.environment}")["attribute"] == 0
    assert read(f"a {first.colour} {thing} in the {scene.environment}")["object"] == 0
    assert read(f"a {first.colour} {first.object} in the {place}")["environment"] == 0


def test_an_empty_picture_says_no_to_everything():
    blank = Image.fromarray(np.full((32, 32, 3), 128, np.uint8))
    found = pixelworld.answers(blank, questions_of("two red robots pushing a blue box in the cave"))
    asked_for = questions_of("two red robots pushing a blue box in the cave")
    by_kind = {q.kind: a for q, a in zip(asked_for, found, strict=True)}
    assert by_kind["object"] == "no" and by_kind["counting"] == "0" and by_kind["attribute"] == "none"
    assert by_kind["roles"] == by_kind["swapped"] == by_kind["action"] == "no" and by_kind["contrary"] == "none"
