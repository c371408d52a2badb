"""Small random models of the real transformers classes, saved as folders with tokenizers and processors. No test."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from clip_vocabulary import clip_tokenizer

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

WORDS = (
    "a an the is are there in on of picture photo show figure does this please answer or what color how many robot box "
    "cat dog red blue green carrying pushing pulling yes no 1 2 3 4 forest something man riding wave plate food table "
    'train tracks station group people standing room with at by surfboard ? . , " :'
)
PIECES = tuple(
    dict.fromkeys(
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", *WORDS.split(), *"abcdefghijklmnopqrstuvwxyz")
    )
)
START, END, PAD = PIECES.index("[DEC]"), PIECES.index("[SEP]"), PIECES.index("[PAD]")
SIDE = 32


def bert_tokenizer(folder: Path) -> Any:
    """BERT's word pieces over a few words."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast
    if "vocab" in inspect.signature(tokenizer.__init__).parameters:  # transformers 5
        made = tokenizer(vocab={piece: i for i, piece in enumerate(PIECES)})
    else:
        made = tokenizer(vocab_file=str(folder / "vocab.txt"), do_lower_case=True)
    made.add_special_tokens({"additional_special_tokens": ["[DEC]", "[ENC]"]})
    return made


def _image_processor(name: str, **options: Any) -> Any:
    size = {"height": SIDE, "width": SIDE}
    cls = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return cls(size=size, **options)


def clip(folder: Path) -> Path:
    """CLIPModel with CLIP's tokenizer."""
    torch.manual_seed(3)
    tokenizer = clip_tokenizer()
    model = transformers.CLIPModel(_clip_config())
    images = _image_processor("CLIPImageProcessor", crop_size={"height": SIDE, "width": SIDE})
    return _saved(folder, model, transformers.CLIPProcessor(images, tokenizer))


def _clip_config() -> Any:
    text = {
        "hidden_size": 32,
        "projection_dim": 24,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 49408,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
    }
    return transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)


def _blip_config() -> Any:
    text = {
        "vocab_size": len(PIECES),
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": START,
        "eos_token_id": END,
        "sep_token_id": END,
        "pad_token_id": PAD,
        "projection_dim": 24,
        "initializer_range": 0.3,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
        "projection_dim": 24,
        "initializer_range": 0.3,
    }
    return transformers.BlipConfig(
        text_config=text, vision_config=vision, projection_dim=24, image_text_hidden_size=24, initializer_range=0.3
    )


def blip(folder: Path, name: str) -> Path:
    """A BLIP class: BlipForQuestionAnswering, BlipForConditionalGeneration or BlipForImageTextRetrieval."""
    torch.manual_seed(5)
    model = getattr(transformers, name)(_blip_config())
    processor = transformers.BlipProcessor(_image_processor("BlipImageProcessor"), bert_tokenizer(folder))
    return _saved(folder, model, processor)


def blip2(folder: Path, name: str) -> Path:
    """A BLIP-2 class: Blip2ForConditionalGeneration or Blip2ForImageTextRetrieval."""
    torch.manual_seed(7)
    generating = name == "Blip2ForConditionalGeneration"
    tokenizer = bert_tokenizer(folder)
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD, "vocab_size": len(PIECES) + 1}
    config = transformers.Blip2Config(
        vision_config={**common, "image_size": SIDE, "patch_size": 8, "initializer_range": 0.3},
        qformer_config={
            **common,
            "vocab_size": len(PIECES) + 1,
            "encoder_hidden_size": 32,
            "cross_attention_frequency": 1,
            "use_qformer_text_input": not generating,
            "initializer_range": 0.3,
        },
        text_config={
            "model_type": "opt",
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 128,
            "init_std": 0.3,
            **ids,
        },
        num_query_tokens=4,
        image_text_hidden_size=24,
        image_token_index=len(PIECES) if generating else None,
        initializer_range=0.3,
    )
    model = getattr(transformers, name)(config)
    with torch.no_grad():
        model.query_tokens.normal_()
    processor = transformers.Blip2Processor(_image_processor("BlipImageProcessor"), tokenizer, num_query_tokens=4)
    return _saved(folder, model, processor)


def bert(folder: Path) -> Path:
    """A sentence encoder whose tokens are to be averaged."""
    torch.manual_seed(11)
    config = transformers.BertConfig(
        vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = transformers.BertModel(config)
    return _saved(folder, model, bert_tokenizer(folder))


def vilt(folder: Path) -> Path:
    """ViLT with six answers."""
    torch.manual_seed(13)
    labels = dict(enumerate(("yes", "no", "red", "blue", "2", "pushing")))
    config = transformers.ViltConfig(
        vocab_size=len(PIECES),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        image_size=SIDE,
        patch_size=8,
        max_image_length=-1,
        id2label=labels,
        label2id={label: i for i, label in labels.items()},
        initializer_range=0.3,
    )
    model = transformers.ViltForQuestionAnswering(config)
    cls = getattr(transformers, "ViltImageProcessorPil", None) or transformers.ViltImageProcessor
    images = cls(size={"shortest_edge": SIDE}, size_divisor=8)
    return _saved(folder, model, transformers.ViltProcessor(images, bert_tokenizer(folder)))


def _saved(folder: Path, model: Any, processor: Any) -> Path:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
