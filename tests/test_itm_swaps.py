"""Swapped captions: what changes places, and what must not."""

from __future__ import annotations

import re

import pytest
from interplay.guidance.pixelworld.world import PROMPT_SETS, request
from interplay.guidance.rewards.swaps import swapped_captions
from interplay.parsing import parse

CASES = {
    "a red robot carrying a blue box in the forest": {
        "roles": ["a blue box carrying a red robot in the forest"],
        "properties": ["a blue robot carrying a red box in the forest"],
    },
    "a sheep chases a goat": {"roles": ["a goat chases a sheep"]},
    "A white cat chasing an orange dog": {
        "roles": ["An orange dog chasing a white cat"],
        "properties": ["An orange cat chasing a white dog"],
    },
    "two cats chasing a dog": {"roles": ["a dog chasing two cats"]},
    "a robot pushing an old car": {
        "roles": ["an old car pushing a robot"],
        "properties": ["an old robot pushing a car"],
        "contrary": ["a robot pulling an old car"],
    },
    "a cup on a book": {"roles": ["a book on a cup"]},
    "two cats chase a dog": {},  # the verb would not agree
    "a cat next to a dog": {},  # means the same
    "a woman kissing a man": {},
    "a fire hydrant and a teddy bear": {},
    "a black and white cat and a dog": {},
    "a cat": {},
}


@pytest.mark.parametrize("prompt", CASES)
def test_what_changes_places(prompt):
    found: dict[str, list[str]] = {}
    for swap in swapped_captions(parse(prompt)):
        found.setdefault(swap.operation, []).append(swap.text)
    assert found == CASES[prompt]


def words(text: str) -> list[str]:
    return sorted(re.sub(r"\ban\b", "a", text.lower()).split())


@pytest.mark.parametrize("name", ["two objects", "actions", "attributes", "bystander"])
def test_swaps_of_the_small_world_say_the_same_words_and_ask_for_another_picture(name):
    prompts = PROMPT_SETS[name](25, 3)
    for prompt in prompts:
        swaps = swapped_captions(parse(prompt))
        assert swaps, prompt
        for swap in swaps:
            assert swap.operation == "contrary" or words(swap.text) == words(prompt)
            assert request(swap.text) != request(prompt)


def test_roles_come_back_when_swapped_twice():
    for prompt in PROMPT_SETS["actions"](20, 1):
        once = [s.text for s in swapped_captions(parse(prompt)) if s.operation == "roles"]
        assert [s.text for s in swapped_captions(parse(once[0])) if s.operation == "roles"] == [prompt]


def test_the_limit_keeps_the_roles():
    prompt = "a big striped red robot watching a small dog in the desert, a green cat nearby"
    assert [s.operation for s in swapped_captions(parse(prompt), limit=2)] == ["roles", "properties"]
