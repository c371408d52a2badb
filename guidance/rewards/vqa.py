"""Questions answered by a visual-question-answering model: the choice it finds likeliest.

BLIP is asked how likely it finds each choice (the sum of its tokens' log-probabilities, as its own ranking mode does);
ViLT by its classes; a chat model by its answer, which has to be one of the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .answers import Answerer, plain_answer, scorer
from .caption import instruct
from .loading import Loaded, Source, load
from .questions import Question
from .scorer import Scorer

MODELS = {"blip": "BlipForQuestionAnswering", "vilt": "ViltForQuestionAnswering"}
EXAMPLE = "Salesforce/blip-vqa-capfilt-large (1.5 GB)"


def tifa_scorer(place: str, device: str = "cpu", download: bool = False) -> Scorer:
    """The scorer "tifa" on a model's answers."""
    loaded = load_vqa(place, device, download)
    return scorer(answerer(loaded), f"{type(loaded.model).__name__} of {Source(place, '', '').name()}")


def load_vqa(place: str, device: str = "cpu", download: bool = False, dtype: torch.dtype | None = None) -> Loaded:
    """A model that answers questions, from its folder."""
    source = Source(place, "answering questions", EXAMPLE, download)
    return load(source, MODELS, "AutoModelForImageTextToText", device, dtype=dtype)


def answerer(loaded: Loaded) -> Answerer:
    """How this kind of model is asked."""
    ways: dict[str, Callable[[Loaded, Any, Sequence[Question]], list[str]]] = {
        "blip": _by_likelihood,
        "vilt": _by_class,
    }
    way = ways.get(loaded.kind, _by_chat)
    return lambda image, asked: way(loaded, image, asked) if asked else []


# --- BLIP -------------------------------------------------------------------------------------------------------------


def _by_likelihood(loaded: Loaded, image: Any, asked: Sequence[Question]) -> list[str]:
    seen = look(loaded, image)
    scores = [log_likelihood(loaded, seen, question.text, question.choices) for question in asked]
    return [question.choices[int(found.argmax())] for question, found in zip(asked, scores, strict=True)]


@torch.no_grad()
def look(loaded: Loaded, image: Any) -> Tensor:
    """What BLIP's vision model sees, (1, places, D)."""
    return loaded.model.vision_model(pixel_values=loaded.pixels([image]))[0]


@torch.no_grad()
def log_likelihood(loaded: Loaded, seen: Tensor, question: str, answers: Sequence[str]) -> Tensor:
    """log P(answer | picture, question) of BLIP's decoder, (N,): from its start token to the separator.

    One question at a time: BLIP's decoder reads the padding of a question as if it were words (transformers 5.23).
    """
    model = loaded.model
    everywhere = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
    asked = loaded.tokens([question])
    hidden = model.text_encoder(
        **asked, encoder_hidden_states=seen, encoder_attention_mask=everywhere, return_dict=True
    ).last_hidden_state
    said = loaded.tokens(answers)
    ids, mask = said["input_ids"].clone(), said["attention_mask"]
    ids[:, 0] = model.config.text_config.bos_token_id  # [CLS] becomes the decoder's start; [SEP] ends the answer
    logits = model.text_decoder(
        input_ids=ids,
        attention_mask=mask,
        encoder_hidden_states=hidden.expand(len(answers), -1, -1),
        encoder_attention_mask=asked["attention_mask"].expand(len(answers), -1),
        return_dict=True,
    ).logits
    steps = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (steps * mask[:, 1:]).sum(-1)


# --- others -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _by_class(loaded: Loaded, image: Any, asked: Sequence[Question]) -> list[str]:
    """ViLT: the choice of the greatest logit; a choice that is none of its classes cannot be chosen."""
    classes = {plain_answer(label): int(i) for label, i in loaded.model.config.label2id.items()}
    answers = []
    for question in asked:
        found = loaded.processor(images=[image], text=[question.text], return_tensors="pt")
        logits = loaded.model(**{name: value.to(loaded.device) for name, value in found.items()}).logits[0]
        known = [c for c in question.choices if plain_answer(c) in classes]
        best = max(known, key=lambda c: float(logits[classes[plain_answer(c)]]), default="")
        answers.append(best)
    return answers


@torch.no_grad()
def _by_chat(loaded: Loaded, image: Any, asked: Sequence[Question]) -> list[str]:
    """A chat model: its words, or the one choice that stands in them."""
    answers = []
    for question in asked:
        text = f"{question.text} Answer with one of: {', '.join(question.choices)}."
        inputs, start = instruct(loaded, [image], [text])
        ids = loaded.model.generate(**inputs, max_new_tokens=10, do_sample=False, num_beams=1)
        said = loaded.tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)[0]
        answers.append(choice_in(said, question.choices))
    return answers


def choice_in(said: str, choices: Sequence[str]) -> str:
    """The choice that an answer means; the answer itself when it means none or several."""
    if plain_answer(said) in map(plain_answer, choices):
        return plain_answer(said)
    words = plain_answer(said).replace("-", " ").split()
    named = [choice for choice in choices if plain_answer(choice) in [plain_answer(word) for word in words]]
    return named[0] if len(named) == 1 else " ".join(said.split())
