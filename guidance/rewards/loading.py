"""Models from local folders, in ``transformers`` classes; downloaded only where the user says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ...errors import InterplayError

_UNUSED = ("pooler", "position_ids", "logit_scale")  # parts of names of weights that no scorer reads


@dataclass(frozen=True)
class Source:
    """A folder, or with ``download`` a repository of huggingface.co; role: what it is for, in a sentence; example: a
    repository that fits, and its size.
    """

    place: str
    role: str
    example: str
    download: bool = False

    def check(self) -> str:
        """The place, when it can be opened.

        Raises:
            InterplayError: it is no folder with a model, and downloading was not allowed.
        """
        folder = Path(self.place).expanduser()
        if (folder / "config.json").is_file():
            return str(folder)
        if self.download and not folder.exists():
            return self.place
        raise InterplayError(
            f"There is no model for {self.role} in {self.place} (no config.json); put the files of {self.example} of "
            "huggingface.co into that folder, or name the repository and add --download."
        )

    def name(self) -> str:
        """For tables: the folder's own name."""
        return Path(self.place).name


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, frozen, and what prepares its input; kind: ``model_type`` of its configuration."""

    model: Any
    processor: Any
    kind: str
    device: str

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer, or the processor itself when it is one."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def images(self) -> Any:
        """The processor's image half."""
        return getattr(self.processor, "image_processor", self.processor)

    def pixels(self, images: Sequence[Any]) -> torch.Tensor:
        """Pictures as the model wants them, (B, 3, H, W)."""
        values = self.images(images=list(images), return_tensors="pt")["pixel_values"]
        return values.to(self.device, self.model.dtype)

    def tokens(self, texts: Sequence[str], **options: Any) -> dict[str, torch.Tensor]:
        """Texts as ids and mask, padded to the longest, cut at what the model can read."""
        limit = {"truncation": True, "max_length": text_limit(self)}
        found = self.tokenizer(list(texts), return_tensors="pt", padding=True, **{**limit, **options})
        return {name: found[name].to(self.device) for name in ("input_ids", "attention_mask")}


def text_limit(loaded: Loaded) -> int:
    """Tokens of the longest text, from the configuration; 512 where none is given."""
    config = loaded.model.config
    for part in (getattr(config, "text_config", None), getattr(config, "qformer_config", None), config):
        found = getattr(part, "max_position_embeddings", None)
        if found:
            return int(found)
    return 512


def too_long(loaded: Loaded, text: str, name: str) -> str:
    """A notice when the model reads only the beginning of a text; name: what the text is. Empty otherwise."""
    limit, count = text_limit(loaded), len(loaded.tokenizer(text)["input_ids"])
    return f"The {name} has {count} tokens and {limit} are read: its end is not compared." if count > limit else ""


def load(
    source: Source,
    classes: dict[str, str],
    default: str | None,
    device: str,
    text_only: bool = False,
    dtype: torch.dtype | None = None,
) -> Loaded:
    """Open a model. classes: ``model_type`` to the name of a class of transformers; default: class of all other types,
    None to refuse them; dtype: of its weights, half precision on an accelerator where none is given.

    Raises:
        InterplayError: there is nothing there, it is of another kind, or it cannot be loaded.
    """
    place = source.check()
    local = not source.download
    try:
        import transformers
        from transformers import AutoConfig, AutoProcessor, AutoTokenizer

        config = AutoConfig.from_pretrained(place, local_files_only=local)
        kind = str(config.model_type)
        wanted = classes.get(kind, default)
        if wanted is None:
            raise InterplayError(
                f"The model in {source.place} is of the kind '{kind}'; for {source.role} use one of "
                f"{', '.join(classes)}, such as {source.example}."
            )
        opener: Any = AutoTokenizer if text_only else AutoProcessor
        dtype = dtype or (torch.float16 if device.startswith("cuda") else torch.float32)
        with _quiet():
            processor = opener.from_pretrained(place, local_files_only=local)
            model, told = getattr(transformers, wanted).from_pretrained(
                place, local_files_only=local, dtype=dtype, output_loading_info=True
            )
        _check_whole(source, told["missing_keys"])
    except InterplayError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError) as error:
        cause = error.__cause__ or error
        raise InterplayError(f"The model for {source.role} in {source.place} cannot be loaded: {cause}") from error
    return Loaded(model.to(device).eval().requires_grad_(False), processor, kind, device)


def _check_whole(source: Source, missing: Iterable[str]) -> None:
    """InterplayError when weights that are used were not in the folder: they would be random ones."""
    lacking = sorted(name for name in missing if not any(part in name for part in _UNUSED))
    if lacking:
        raise InterplayError(
            f"The model in {source.place} lacks weights for {source.role}, such as {lacking[0]} ({len(lacking)} in "
            f"all); take all files of {source.example} or of another model of that kind."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars, and its list of the weights that a half of a model does not need."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def batches(count: int, size: int = 16) -> list[slice]:
    """Slices of at most ``size`` that cover ``count`` items."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
