"""Scorers on small random models of the real classes, held against plain computations of the same thing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tiny_models as tiny
import torch
from interplay.errors import InterplayError
from interplay.guidance.rewards import Reading, Scorer, caption, clip, command, loading, matching, vqa
from interplay.guidance.rewards.answers import questions_of
from PIL import Image
from safetensors.torch import load_file, save_file

PROMPTS = ("a red robot carrying a blue box in the forest", "a cat and a dog", "a man pushing a cart")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40 + 8 * i, 48, 3), dtype=np.uint8))
        for i in range(3)
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def clip_folder(root):
    return tiny.clip(root / "clip")


@pytest.fixture(scope="module")
def vqa_folder(root):
    return tiny.blip(root / "vqa", "BlipForQuestionAnswering")


@pytest.fixture(scope="module")
def blip2_matcher(root):
    return tiny.blip2(root / "blip2-itm", "Blip2ForImageTextRetrieval")


def opened(folder, name: str):
    """The model and processor as a user of transformers opens them."""
    from transformers import AutoProcessor

    model = getattr(tiny.transformers, name).from_pretrained(folder).eval()
    return model, AutoProcessor.from_pretrained(folder)


def one(processor, image: Image.Image, text: str):
    return processor(images=image, text=text, return_tensors="pt")


# --- CLIP -------------------------------------------------------------------------------------------------------------


def test_clip_score_is_the_cosine_that_the_whole_model_gives(clip_folder, pictures):
    model, processor = opened(clip_folder, "CLIPModel")
    readings = clip.clip_scorer(str(clip_folder)).score(pictures, PROMPTS)
    for image, prompt, reading in zip(pictures, PROMPTS, readings, strict=True):
        with torch.no_grad():
            found = model(**one(processor, image, prompt))
        a, b = found.image_embeds[0].numpy().astype(float), found.text_embeds[0].numpy().astype(float)
        cosine = float(a @ b / math.sqrt((a @ a) * (b @ b)))
        assert reading.value == pytest.approx(cosine, abs=1e-5)
        assert reading.parts["hessel"] == pytest.approx(2.5 * max(cosine, 0), abs=1e-5)
        assert reading.parts["torchmetrics"] == pytest.approx(100 * max(cosine, 0), abs=1e-3)


def test_clip_least_is_the_worst_of_the_noun_groups(clip_folder, pictures):
    assert clip.noun_groups(PROMPTS[0]) == ["a red robot", "a blue box"]
    model, processor = opened(clip_folder, "CLIPModel")
    reading = clip.clip_scorer(str(clip_folder)).score(pictures[:1], PROMPTS[:1])[0]
    with torch.no_grad():
        cosines = [
            float((f.image_embeds * f.text_embeds).sum())
            for group in ("a red robot", "a blue box")
            for f in [model(**one(processor, pictures[0], group))]
        ]
    assert reading.parts["least"] == pytest.approx(min(cosines), abs=1e-5)
    assert max(cosines) - min(cosines) > 1e-3


def test_texts_beyond_77_tokens_are_cut_where_the_model_ends(clip_folder, pictures):
    scorer = clip.clip_scorer(str(clip_folder))
    long = "a red robot " + "and a blue box " * 40
    a, b = scorer.score(pictures[:1] * 2, [long, long + "and a green cat " * 5])
    assert a.value == pytest.approx(b.value, abs=1e-6)


# --- captions ---------------------------------------------------------------------------------------------------------


def greedy(step, start: list[int], end: int, count: int) -> list[int]:
    """Greedy decoding, one token at a time: step(ids) -> logits of the next token."""
    ids = list(start)
    for _ in range(count):
        token = int(step(ids).argmax())
        if token == end:
            break
        ids.append(token)
    return ids[len(start) :]


def test_blip_captions_are_greedy(root, pictures):
    folder = tiny.blip(root / "captioner", "BlipForConditionalGeneration")
    model, processor = opened(folder, "BlipForConditionalGeneration")
    said = caption.captions(caption.load_captioner(str(folder), "cpu"), caption.Style(max_new_tokens=12))(pictures)
    assert len(set(said)) > 1
    for image, text in zip(pictures, said, strict=True):
        pixels = processor.image_processor(images=image, return_tensors="pt").pixel_values

        @torch.no_grad()
        def step(ids, pixels=pixels):
            return model(pixel_values=pixels, input_ids=torch.tensor([ids])).logits[0, -1]

        # A caption starts from the start token; ``generate`` leaves the separator of its prompt out.
        ids = greedy(step, [tiny.START], tiny.END, 12)
        assert processor.tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_caption_reward_is_the_cosine_of_blip2s_text_halves(root, pictures, blip2_matcher):
    """Eq. 4 with the text tower of the retrieval checkpoint, whose own forward gives the reference embedding."""
    captioner = tiny.blip2(root / "blip2-captioner", "Blip2ForConditionalGeneration")
    readings = caption.caption_scorer(str(captioner), str(blip2_matcher)).score(pictures, PROMPTS)
    model, processor = opened(blip2_matcher, "Blip2ForImageTextRetrieval")
    pixels = processor.image_processor(images=pictures[0], return_tensors="pt").pixel_values

    def embed(text: str) -> np.ndarray:
        tokens = processor.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            found = model(
                pixel_values=pixels,
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                use_image_text_matching_head=False,
            )
        return found.text_embeds[0].numpy()

    for prompt, reading in zip(PROMPTS, readings, strict=True):
        wanted = embed(prompt)
        value = float(embed(reading.notes["caption"]) @ wanted)
        chance = np.mean([embed(other) @ wanted for other in caption.DISTRACTORS])
        assert reading.value == pytest.approx(value, abs=1e-5)
        assert reading.parts["above"] == pytest.approx(value - chance, abs=1e-5)


def test_a_caption_that_is_the_prompt_scores_one(blip2_matcher):
    embed = caption.sentence_encoder(caption.load_encoder(str(blip2_matcher), "cpu"))
    assert float((embed(PROMPTS) * embed(PROMPTS)).sum(-1).min()) == pytest.approx(1.0, abs=1e-5)


def test_sentence_encoders_average_the_tokens_that_are_there(root):
    from transformers import AutoModel

    folder = tiny.bert(root / "bert")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), tiny.bert_tokenizer(root / "plain")
    found = caption.sentence_encoder(caption.load_encoder(str(folder), "cpu"))(PROMPTS)
    for text, ours in zip(PROMPTS, found, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids  # alone, so without padding
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0)
        assert torch.allclose(ours, mean / mean.norm(), atol=1e-5)


def test_clips_text_half_compares_captions_as_clip_does(clip_folder):
    encoder = caption.sentence_encoder(caption.load_encoder(str(clip_folder), "cpu"))
    whole = loading.load(loading.Source(str(clip_folder), "", ""), {"clip": "CLIPModel"}, None, "cpu")
    assert torch.allclose(encoder(PROMPTS), clip.text_embeddings(whole, PROMPTS), atol=1e-6)


# --- questions --------------------------------------------------------------------------------------------------------


def stepwise(model, processor, image: Image.Image, question: str, answer: str) -> float:
    """log P(answer | picture, question), token by token, each from a forward of its own, nothing padded."""
    asked = one(processor, image, question)
    with torch.no_grad():
        seen = model.vision_model(pixel_values=asked.pixel_values)[0]
        hidden = model.text_encoder(
            input_ids=asked.input_ids, encoder_hidden_states=seen, return_dict=True
        ).last_hidden_state
        ids, total = [tiny.START], 0.0
        for token in [*processor.tokenizer(answer, add_special_tokens=False).input_ids, tiny.END]:
            logits = model.text_decoder(
                input_ids=torch.tensor([ids]), encoder_hidden_states=hidden, return_dict=True
            ).logits[0, -1]
            total += float(logits.double().log_softmax(-1)[token])
            ids.append(token)
    return total


def test_blip_finds_answers_as_likely_as_token_by_token(vqa_folder, pictures):
    model, processor = opened(vqa_folder, "BlipForQuestionAnswering")
    loaded = vqa.load_vqa(str(vqa_folder))
    seen = vqa.look(loaded, pictures[1])
    for asked in ("is there a robot ?", "what color is the box in the picture ?"):
        answers = ["yes", "a red robot", "blue"]
        found = vqa.log_likelihood(loaded, seen, asked, answers)
        expected = [stepwise(model, processor, pictures[1], asked, answer) for answer in answers]
        assert found.tolist() == pytest.approx(expected, abs=1e-3)


def test_blip_answers_with_its_likeliest_choice(vqa_folder, pictures):
    model, processor = opened(vqa_folder, "BlipForQuestionAnswering")
    asked = questions_of(PROMPTS[0])
    found = vqa.answerer(vqa.load_vqa(str(vqa_folder)))(pictures[0], asked)
    for question, answer in zip(asked, found, strict=True):
        odds = [stepwise(model, processor, pictures[0], question.text, choice) for choice in question.choices]
        assert answer == question.choices[int(np.argmax(odds))]
    assert len(set(found)) > 1


def test_vilt_answers_with_its_likeliest_class(root, pictures):
    folder = tiny.vilt(root / "vilt")
    model, processor = opened(folder, "ViltForQuestionAnswering")
    asked = questions_of(PROMPTS[0])
    found = vqa.answerer(vqa.load_vqa(str(folder)))(pictures[0], asked)
    for question, answer in zip(asked, found, strict=True):
        with torch.no_grad():
            logits = model(**one(processor, pictures[0], question.text)).logits[0]
        known = {label: float(logits[i]) for label, i in model.config.label2id.items() if label in question.choices}
        assert answer == max(known, key=known.get)


def test_tifa_counts_the_models_answers(vqa_folder, pictures):
    loaded = vqa.load_vqa(str(vqa_folder))
    asked = questions_of(PROMPTS[0])
    answers = vqa.answerer(loaded)(pictures[2], asked)
    reading = vqa.tifa_scorer(str(vqa_folder)).score([pictures[2]], [PROMPTS[0]])[0]
    assert reading.parts["all"] == pytest.approx(
        sum(a == q.answer for a, q in zip(answers, asked, strict=True)) / len(asked)
    )


def test_words_around_a_choice_are_understood():
    assert vqa.choice_in("Yes.", ("yes", "no")) == "yes"
    assert vqa.choice_in("There are two of them", ("1", "2", "3")) == "2"
    assert vqa.choice_in("The man is pulling it", ("pulling", "pushing")) == "pulling"
    assert vqa.choice_in("pulling or pushing", ("pulling", "pushing")) == "pulling or pushing"


# --- matching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["blip", "blip-2"])
def test_itm_and_itc_are_the_models_own(root, pictures, blip2_matcher, name):
    if name == "blip":
        folder = tiny.blip(root / "blip-itm", "BlipForImageTextRetrieval")
        model, processor = opened(folder, "BlipForImageTextRetrieval")
        flag = "use_itm_head"
    else:
        folder = blip2_matcher
        model, processor = opened(folder, "Blip2ForImageTextRetrieval")
        flag = "use_image_text_matching_head"
    readings = matching.itm_scorer(str(folder)).score(pictures, PROMPTS)
    for image, prompt, reading in zip(pictures, PROMPTS, readings, strict=True):
        tokens = processor.tokenizer(prompt, return_tensors="pt")
        given = {
            "pixel_values": processor.image_processor(images=image, return_tensors="pt").pixel_values,
            "input_ids": tokens.input_ids,
            "attention_mask": tokens.attention_mask,
        }
        with torch.no_grad():
            itm, itc = (model(**given, **{flag: which}) for which in (True, False))
        logits = (itm.itm_score if name == "blip" else itm.logits_per_image)[0].double()
        cosine = (itc.itm_score if name == "blip" else itc.logits_per_image)[0, 0]
        assert reading.value == pytest.approx(float(1 / (1 + torch.exp(logits[0] - logits[1]))), abs=1e-5)
        assert reading.parts["itc"] == pytest.approx(float(cosine), abs=1e-5)


def test_blip2_checkpoints_with_image_tokens_match_as_those_without(blip2_matcher, pictures):
    """Newer checkpoints name an image token, for which the model cuts places off the text."""
    plain = loading.load(loading.Source(str(blip2_matcher), "", ""), matching.MATCHERS, None, "cpu")
    newer = loading.load(loading.Source(str(blip2_matcher), "", ""), matching.MATCHERS, None, "cpu")
    newer.model.config.image_token_index = len(tiny.PIECES)
    for a, b in zip(*(matching.blip2_match(m, pictures, PROMPTS) for m in (plain, newer)), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_vqascore_is_the_probability_of_yes(vqa_folder, pictures):
    model, processor = opened(vqa_folder, "BlipForQuestionAnswering")
    reading = matching.vqascore_scorer(str(vqa_folder)).score(pictures[:1], PROMPTS[:1])[0]
    text = f'Does this figure show "{PROMPTS[0]}"? Please answer yes or no.'
    yes, no = (math.exp(stepwise(model, processor, pictures[0], text, word)) for word in ("yes", "no"))
    assert reading.value == pytest.approx(yes, rel=1e-3)
    assert reading.parts["ratio"] == pytest.approx(yes / (yes + no), rel=1e-3)


# --- the door ---------------------------------------------------------------------------------------------------------


def test_a_missing_model_is_said_in_one_sentence_with_what_to_put_where(tmp_path):
    for build, example in (
        (lambda place: clip.clip_scorer(place), "openai/clip-vit-large-patch14"),
        (lambda place: vqa.tifa_scorer(place), "Salesforce/blip-vqa-capfilt-large"),
        (lambda place: matching.itm_scorer(place), "Salesforce/blip2-itm-vit-g"),
        (lambda place: caption.caption_scorer(place, place), "Salesforce/blip2-opt-2.7b"),
    ):
        with pytest.raises(InterplayError, match=r"no config\.json") as raised:
            build(str(tmp_path / "nowhere"))
        said = str(raised.value)
        assert example in said and str(tmp_path) in said and said.count(". ") == 0


def test_a_model_of_another_kind_is_refused(vqa_folder):
    with pytest.raises(InterplayError, match="of the kind 'blip'; for the CLIP score use one of clip"):
        clip.clip_scorer(str(vqa_folder))


def test_damaged_weights_are_refused(tmp_path, clip_folder):
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(clip_folder, folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InterplayError, match="cannot be loaded"):
        clip.clip_scorer(str(folder))


def test_a_half_of_a_model_is_refused_where_the_rest_would_be_random(tmp_path):
    """SD's text encoder is CLIP's without the projection: cosines through a random one would look like scores."""
    whole = tiny.clip(tmp_path / "clip")
    model, processor = opened(whole, "CLIPModel")
    part = tiny.transformers.CLIPTextModel(model.config.text_config)
    part.save_pretrained(tmp_path / "part")
    processor.tokenizer.save_pretrained(tmp_path / "part")
    with pytest.raises(InterplayError, match=r"lacks weights for comparing captions, such as text_projection.weight"):
        caption.load_encoder(str(tmp_path / "part"), "cpu")


def test_a_sentence_encoder_without_pooler_is_whole_enough(tmp_path):
    folder = tiny.bert(tmp_path / "bert")
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "pooler" not in k}, folder / "model.safetensors", {"format": "pt"})
    assert caption.sentence_encoder(caption.load_encoder(str(folder), "cpu"))(PROMPTS).shape == (3, 32)


def test_a_scorer_wants_a_prompt_for_each_picture(pictures):
    scorer = Scorer("x", "nothing", (), lambda images, prompts: [])
    with pytest.raises(InterplayError, match="3 pictures and 1 prompts"):
        scorer.score(pictures, ["a"])
    assert scorer.score([], []) == []


def test_the_command_builds_what_was_asked_for(clip_folder, vqa_folder, blip2_matcher):
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--clip", str(clip_folder), "--vqascore", str(vqa_folder), "--itm", str(blip2_matcher)])
    assert [s.name for s in command.scorers(args)] == ["clip", "itm", "vqascore"]
    assert [s.name for s in command.scorers(args, pixelworld=True)] == ["clip", "tifa", "itm", "vqascore"]
    with pytest.raises(InterplayError, match="needs both --captioner"):
        command.scorers(parser.parse_args(["--captioner", "x"]))
    with pytest.raises(InterplayError, match="not 0 and 40"):
        command.scorers(parser.parse_args(["--captioner", "x", "--caption-encoder", "y", "--beams", "0"]))


# --- how captions are written -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captioner(root):
    return tiny.blip(root / "captioner-styles", "BlipForConditionalGeneration")


def blip_step(model, processor, image: Image.Image):
    """ids -> logits of the next token, each from a forward of its own."""
    pixels = processor.image_processor(images=image, return_tensors="pt").pixel_values

    @torch.no_grad()
    def step(ids):
        return model(pixel_values=pixels, input_ids=torch.tensor([ids])).logits[0, -1]

    return step


def test_photo_captions_go_on_after_the_words_and_leave_them_out(captioner, pictures):
    model, processor = opened(captioner, "BlipForConditionalGeneration")
    said = caption.captions(caption.load_captioner(str(captioner), "cpu"), caption.Style("photo", 1, 9))(pictures)
    words = processor.tokenizer("a photo of", add_special_tokens=False).input_ids
    for image, text in zip(pictures, said, strict=True):
        ids = greedy(blip_step(model, processor, image), [tiny.START, *words], tiny.END, 9)
        assert processor.tokenizer.decode(ids, skip_special_tokens=True).strip() == text
        assert not text.startswith("a photo of")


def test_blip2_goes_on_after_the_words_behind_its_queries(root, pictures):
    folder = tiny.blip2(root / "blip2-photo", "Blip2ForConditionalGeneration")
    model, processor = opened(folder, "Blip2ForConditionalGeneration")
    said = caption.captions(caption.load_captioner(str(folder), "cpu"), caption.Style("photo", 1, 9))(pictures)
    for image, text in zip(pictures, said, strict=True):
        given = processor(images=image, text="a photo of", return_tensors="pt")
        start = given.input_ids[0].tolist()
        assert start[:4] == [len(tiny.PIECES)] * 4  # the places of the queries

        @torch.no_grad()
        def step(ids, given=given):
            return model(pixel_values=given.pixel_values, input_ids=torch.tensor([ids])).logits[0, -1]

        ids = greedy(step, start, tiny.END, 9)
        assert processor.tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_beams_find_captions_at_least_as_likely_as_greed(captioner, pictures):
    model, processor = opened(captioner, "BlipForConditionalGeneration")
    loaded = caption.load_captioner(str(captioner), "cpu")

    def mean_log(image: Image.Image, text: str, count: int = 6) -> float:
        step, ids, total = blip_step(model, processor, image), [tiny.START], []
        for token in [*processor.tokenizer(text, add_special_tokens=False).input_ids, tiny.END][:count]:
            total.append(float(step(ids).log_softmax(-1)[token]))
            ids.append(token)
        return sum(total) / len(total)

    one, many = (caption.captions(loaded, caption.Style("short", beams, 6))(pictures) for beams in (1, 5))
    assert one != many
    gains = [mean_log(p, b) - mean_log(p, a) for p, a, b in zip(pictures, one, many, strict=True)]
    assert sum(gains) > 0


def test_detailed_captions_are_longer_and_end_at_three_times_the_tokens(captioner, pictures):
    loaded, style = caption.load_captioner(str(captioner), "cpu"), caption.Style("detailed", 1, 8)
    ids = loaded.model.generate(pixel_values=loaded.pixels(pictures), **style.options("blip"))
    made = [(row != tiny.PAD).sum().item() - 1 for row in ids]  # without the start
    assert all(20 <= count <= 24 for count in made)
    said = [text.strip() for text in loaded.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    assert caption.captions(loaded, style)(pictures) == said


def test_florence_is_asked_for_a_caption_in_its_own_words(root, pictures):
    florence = pytest.importorskip("objects_models")
    if not hasattr(tiny.transformers, "Florence2ForConditionalGeneration"):
        pytest.skip("this transformers has no Florence-2")
    folder = florence.florence(root / "florence", seed=2)
    model, processor = opened(folder, "Florence2ForConditionalGeneration")
    loaded = caption.load_captioner(str(folder), "cpu")
    asked = {"short": "What does the image describe?", "detailed": "Describe in detail what is shown in the image."}
    for mode, words in asked.items():
        said = caption.captions(loaded, caption.Style(mode, 1, 4))(pictures)
        for image, text in zip(pictures, said, strict=True):
            given = processor(text=words, images=image, return_tensors="pt")

            @torch.no_grad()
            def step(ids, given=given):
                pixels = torch.as_tensor(given["pixel_values"])
                return model(
                    input_ids=given["input_ids"], pixel_values=pixels, decoder_input_ids=torch.tensor([ids])
                ).logits[0, -1]

            start, end = model.config.text_config.decoder_start_token_id, model.config.text_config.eos_token_id
            ids = greedy(step, [start], end, 12 if mode == "detailed" else 4)
            assert processor.tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_what_is_cut_is_said(clip_folder, blip2_matcher, pictures):
    long = "a red robot " + "and a blue box " * 40
    short, cut = clip.clip_scorer(str(clip_folder)).score(pictures[:2], [PROMPTS[0], long])
    assert "cut" not in short.notes
    assert cut.notes["cut"] == "The prompt has 165 tokens and 77 are read: its end is not compared."
    loaded = caption.load_encoder(str(clip_folder), "cpu")
    readings = caption.noted(short_readings := [Reading(0.5)], loaded, [PROMPTS[0]], [long])
    assert readings[0].notes["cut"].startswith("The caption has 165") and not short_readings[0].notes


@pytest.mark.parametrize("wrong", [("long", 1, 40), ("short", 0, 40), ("short", 1, 0)])
def test_styles_that_cannot_be_are_refused(wrong):
    with pytest.raises(InterplayError, match=r"mode is one of|need a beam"):
        caption.Style(*wrong)


# --- pre-processing, as the published folders have it -----------------------------------------------------------------

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_NORMAL = {"do_normalize": True, "do_resize": True, "image_mean": MEAN, "image_std": STD, "resample": 3}
_BLIP = {**_NORMAL, "do_convert_rgb": True, "do_rescale": True, "image_processor_type": "BlipImageProcessor"}
PUBLISHED = {  # preprocessor_config.json of openai/clip-vit-large-patch14, Salesforce/blip-itm-base-coco, blip2-*
    "clip": {**_NORMAL, "crop_size": 224, "do_center_crop": True, "feature_extractor_type": "CLIPFeatureExtractor",
             "size": 224},
    "blip": {**_BLIP, "processor_class": "BlipProcessor", "size": {"height": 384, "width": 384}},
    "blip2": {**_BLIP, "processor_class": "Blip2Processor", "size": {"height": 224, "width": 224}},
}  # fmt: skip


def by_hand(picture: Image.Image, kind: str) -> np.ndarray:
    """(3, H, W): bicubic; CLIP's shorter side to 224 and the middle cut out, BLIP's squashed to its square."""
    if kind == "clip":
        factor = 224 / min(picture.size)
        wide = picture.resize([int(n * factor) for n in picture.size], Image.Resampling.BICUBIC)
        left, top = (wide.width - 224) // 2, (wide.height - 224) // 2
        small = wide.crop((left, top, left + 224, top + 224))
    else:
        side = PUBLISHED[kind]["size"]["height"]
        small = picture.resize((side, side), Image.Resampling.BICUBIC)
    return ((np.asarray(small, np.float64) / 255 - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_pictures_are_prepared_as_the_published_folders_say(tmp_path, kind):
    made = {
        "clip": lambda folder: tiny.clip(folder),
        "blip": lambda folder: tiny.blip(folder, "BlipForImageTextRetrieval"),
        "blip2": lambda folder: tiny.blip2(folder, "Blip2ForImageTextRetrieval"),
    }[kind](tmp_path / kind)
    (made / "processor_config.json").unlink(missing_ok=True)  # the newer file; published folders have the older one
    (made / "preprocessor_config.json").write_text(json.dumps(PUBLISHED[kind]), encoding="utf-8")
    loaded = (clip.load_clip if kind == "clip" else matching.load_matcher)(str(made))
    smooth = np.indices((300, 500)).sum(0)[..., None] * np.array([0.3, 0.2, 0.1]) % 200
    picture = Image.fromarray(smooth.astype(np.uint8))
    found = loaded.pixels([picture])[0].numpy()
    expected = by_hand(picture, kind)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 0.01
