"""Small models of the classes that published scorers have (CLIP, BLIP, BLIP-2), as folders like theirs, for PixelWorld.

They are to the published ones what PixelWorld is to SD1.5: the same classes of ``transformers``, the same files, a
hundred times smaller. ``small_models_train`` teaches them; the pack reads them as it reads any folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..pixelworld.caption import WORDS as CAPTION_WORDS

CLASSES = {
    "clip": "CLIPModel",
    "blip-caption": "BlipForConditionalGeneration",
    "blip-itm": "BlipForImageTextRetrieval",
    "blip-vqa": "BlipForQuestionAnswering",
    "blip2-itm": "Blip2ForImageTextRetrieval",
    "blip2-caption": "Blip2ForConditionalGeneration",
}
SIDE, PATCH = 128, 16  # a patch is 4x4 of PixelWorld's own pixels, or 2x2 of its cells
WIDTH, HEADS, FURTHER = 128, 4, 256
EYE_LAYERS, TEXT_LAYERS = 4, 2
SPACE = 64  # length of the vectors that are compared
QUERIES = 12  # of BLIP-2's Q-Former
LENGTH = 64  # word pieces of the longest text
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_ASKED = (
    "are there what color how many something or no yes does this figure show please answer none standing man riding "
    "wave on surfboard plate food table train tracks at station group people room 1 2 3 4 5 6"
)
_MARKS = ("?", ".", '"', "'", ":")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
PIECES = tuple(dict.fromkeys((*_SPECIAL, *CAPTION_WORDS[4:], *_ASKED.split(), *_MARKS)))
PAD, END, START = (PIECES.index(name) for name in ("[PAD]", "[SEP]", "[DEC]"))


def build(name: str, seed: int = 0) -> nn.Module:
    """An untrained model of CLASSES.

    Raises:
        KeyError: there is none of that name.
    """
    import transformers

    torch.manual_seed(seed)
    model: nn.Module = getattr(transformers, CLASSES[name])(_config(name))
    if name.startswith("blip2"):
        nn.init.normal_(model.get_parameter("query_tokens"), std=0.5)
    return model


def save(name: str, model: nn.Module, folder: Path) -> None:
    """Write a model in half precision, with its tokenizer and processor, as ``from_pretrained`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    kept: Any = model
    state = {key: value.detach().half() for key, value in model.state_dict().items()}
    kept.save_pretrained(folder, state_dict=state)
    processor(name, folder).save_pretrained(folder)


def processor(name: str, folder: Path) -> Any:
    """Preparation of pictures and texts for a model of CLASSES; folder: where a vocabulary may be written."""
    import transformers

    kind = "CLIP" if name == "clip" else "Blip"
    cls = getattr(transformers, f"{kind}ImageProcessorPil", None) or getattr(transformers, f"{kind}ImageProcessor")
    size = {"height": SIDE, "width": SIDE}
    if name == "clip":
        return transformers.CLIPProcessor(cls(size=size, crop_size=size), tokenizer(name, folder))
    images, words = cls(size=size), tokenizer(name, folder)
    if name.startswith("blip2"):
        return transformers.Blip2Processor(images, words, num_query_tokens=QUERIES)
    return transformers.BlipProcessor(images, words)


def tokenizer(name: str, folder: Path) -> Any:
    """CLIP's own tokenizer for CLIP, BERT's over PixelWorld's words and those of the questions for the others."""
    import transformers

    if name == "clip":
        from ..pixelworld import weights_dir

        return transformers.CLIPTokenizer.from_pretrained(str(weights_dir() / "tokenizer"))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    made = transformers.BertTokenizer.from_pretrained(str(folder))
    made.add_special_tokens({"additional_special_tokens": ["[DEC]", "[ENC]"]})
    return made


def prepared(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, 32, 32) in 0..1 as the processors prepare them: (B, 3, 128, 128)."""
    mean, std = pictures.new_tensor(MEAN)[:, None, None], pictures.new_tensor(STD)[:, None, None]
    factor = SIDE // pictures.shape[-1]
    return ((pictures - mean) / std).repeat_interleave(factor, 2).repeat_interleave(factor, 3)


@torch.no_grad()
def open_eye(model: nn.Module, eye: nn.Module, pictures: Tensor) -> None:
    """Give a model the eye of another: BLIP and BLIP-2 all of it; CLIP as far as its own is the same, which is but for
    the norm that it has before the first layer and that gives each place the spread which ``pictures`` (B, 3, 128, 128)
    have there on average.
    """
    own = model.get_submodule("vision_model")
    state = eye.state_dict()
    if "pre_layrnorm.weight" not in own.state_dict():
        own.load_state_dict(state)
        return
    shapes = {key: value.shape for key, value in own.state_dict().items()}
    found = {key: value for key, value in state.items() if shapes.get(key) == value.shape}
    found["embeddings.class_embedding"] = state["embeddings.class_embedding"].flatten()
    places = state["embeddings.position_embedding"][0].clone()
    places[1:] += state["embeddings.patch_embedding.bias"]  # CLIP's patches have none
    found["embeddings.position_embedding.weight"] = places
    for key, value in state.items():
        if ".self_attn.qkv." in key:
            for part, name in zip(value.chunk(3), "qkv", strict=True):
                found[key.replace("qkv", f"{name}_proj")] = part
        elif ".self_attn.projection." in key:
            found[key.replace("projection", "out_proj")] = value
    found["pre_layrnorm.weight"] = eye.get_submodule("embeddings")(pictures).std(-1).mean().expand(WIDTH)
    own.load_state_dict(found, strict=False)


def _config(name: str) -> Any:
    import transformers

    layer = {"hidden_size": WIDTH, "intermediate_size": FURTHER, "num_attention_heads": HEADS}
    eye = {**layer, "num_hidden_layers": EYE_LAYERS, "image_size": SIDE, "patch_size": PATCH, "hidden_act": "gelu"}
    eye["initializer_range"] = 0.02  # BLIP's own, 1e-10, is meant for weights that are loaded at once
    text = {**layer, "num_hidden_layers": TEXT_LAYERS, "max_position_embeddings": LENGTH}
    ends = {"bos_token_id": START, "eos_token_id": END, "sep_token_id": END, "pad_token_id": PAD}
    if name == "clip":
        ids = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "max_position_embeddings": 77}
        return transformers.CLIPConfig(text_config={**text, **ids}, vision_config=eye, projection_dim=SPACE)
    if not name.startswith("blip2"):
        words = {**text, **ends, "vocab_size": len(PIECES), "encoder_hidden_size": WIDTH, "projection_dim": SPACE}
        return transformers.BlipConfig(text_config=words, vision_config=eye, image_text_hidden_size=SPACE)
    writes = name == "blip2-caption"
    former = {**text, "vocab_size": len(PIECES), "encoder_hidden_size": WIDTH, "cross_attention_frequency": 1}
    writer = {"model_type": "opt", "ffn_dim": FURTHER, "word_embed_proj_dim": WIDTH, "vocab_size": len(PIECES) + 1}
    return transformers.Blip2Config(
        vision_config=eye,
        qformer_config={**former, "use_qformer_text_input": not writes},
        text_config={**text, **ends, **writer},
        num_query_tokens=QUERIES,
        image_text_hidden_size=SPACE,
        image_token_index=len(PIECES) if writes else None,
    )
