"""The hypergraph in CONDITIONING, with ComfyUI's real tokenizers."""

from __future__ import annotations

import comfy_tiny as tiny
import pytest
import torch
from interplay.errors import InterplayError

pytestmark = pytest.mark.comfy


class Clip:
    """A CLIP with a real tokenizer and an encoder that gives each token its place as a vector."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def tokenize(self, text):
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens_scheduled(self, tokens):
        chunks = next(iter(tokens.values()))
        length = sum(len(chunk) for chunk in chunks)
        return [[torch.arange(float(length))[None, :, None].expand(1, -1, 4), {"pooled_output": torch.zeros(1, 4)}]]


def clip(kind):
    if kind == "SDXL":
        from comfy.sdxl_clip import SDXLTokenizer as Tokenizer
    else:
        from comfy.sd1_clip import SD1Tokenizer as Tokenizer
    return Clip(Tokenizer())


@pytest.mark.parametrize("kind, encoders", [("SD15", ["l"]), ("SDXL", ["g", "l"])])
def test_words_stand_where_the_encoder_puts_them(kind, encoders):
    from interplay.guidance.hosts.comfyui.conditioning import encode, find_graph

    conditioning = encode(clip(kind), tiny.PROMPT, tiny.hypergraph())
    (carried,) = find_graph(conditioning)
    assert sorted(carried.tables) == encoders and carried.length == 77
    graph = carried.token_graph()
    # start token, then a red cat chases a dog
    places = {"red": (2,), "cat": (3,), "chases": (4,), "dog": (6,)}
    assert {word.text: word.positions for word in graph.words} == places
    assert "pooled_output" in conditioning[0][1]


def test_a_long_prompt_has_several_chunks():
    from interplay.guidance.hosts.comfyui.conditioning import encode, find_graph
    from interplay.parsing.hypergraph import Hypergraph, Vertex

    filler = "very " * 80
    prompt = filler + "old cat"
    start = prompt.index("cat")
    graph = Hypergraph(prompt, (Vertex("v0", "cat", (start, start + 3)),), ())
    (carried,) = find_graph(encode(clip("SD15"), prompt, graph))
    assert carried.length == 154
    (word,) = carried.token_graph().words
    assert word.positions == (77 + 1 + 80 + 1 - 75,)


def test_joined_conditioning_is_told_from_plain_one():
    from interplay.guidance.hosts.comfyui.conditioning import encode, find_graph

    conditioning = encode(clip("SD15"), tiny.PROMPT, tiny.hypergraph())
    assert find_graph(tiny.text(1) + conditioning)[0].prompt == tiny.PROMPT
    with pytest.raises(InterplayError, match="carries no hypergraph"):
        find_graph(tiny.text(1))


def test_the_hypergraph_does_not_change_the_conditioning():
    from interplay.guidance.hosts.comfyui.conditioning import KEY, attach

    plain = tiny.text(1)
    carried = attach(plain, tiny.hypergraph(), {"l": tiny.table()})
    assert carried[0][0] is plain[0][0] and KEY not in plain[0][1]
    assert {key: value for key, value in carried[0][1].items() if key != KEY} == plain[0][1]
