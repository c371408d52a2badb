"""The files of RAM, RAM++ and Tag2Text: published ones converted once, wrong ones refused in a sentence."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import ram_worlds  # noqa: E402
from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.grounding.ram_files import converted_path, open_model  # noqa: E402

KINDS = ("ram", "ram_plus", "tag2text")


def pixels() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_file_is_converted_once(kind: str, tmp_path: Path) -> None:
    shape = ram_worlds.SHAPES[kind]
    model = ram_worlds.model(shape)
    path = ram_worlds.write(tmp_path / "model.pth", ram_worlds.published(model), config=argparse.Namespace(lr=1))
    first = open_model(path, shape)
    half = tmp_path / "model.fp16.safetensors"
    assert converted_path(path) == half and sorted(tmp_path.iterdir()) == [half, path]
    for key, value in model.state_dict().items():
        assert torch.equal(first.state_dict()[key], value.half().float()), key
    assert half.stat().st_size < 0.55 * sum(4 * value.numel() for value in model.state_dict().values()) + 60_000
    path.unlink()
    second = open_model(path, shape)
    third = open_model(half, shape, torch.float16)
    assert torch.equal(first(pixels()), second(pixels()))
    torch.testing.assert_close(second(pixels()), model(pixels()), rtol=0.02, atol=0.02)
    assert {value.dtype for value in third.state_dict().values()} == {torch.float16}
    assert not any(p.requires_grad for p in second.parameters()) and not second.training


def test_the_conversion_says_what_it_is_and_holds_nothing_else(tmp_path: Path) -> None:
    from safetensors import safe_open

    shape = ram_worlds.SHAPES["ram_plus"]
    model = ram_worlds.model(shape)
    open_model(ram_worlds.write(tmp_path / "a.pth", ram_worlds.published(model)), shape)
    with safe_open(str(tmp_path / "a.fp16.safetensors"), "pt") as file:
        assert file.metadata()["kind"] == "ram_plus"
        assert set(file.keys()) == set(model.state_dict())


def test_a_newer_download_is_read_again(tmp_path: Path) -> None:
    shape = ram_worlds.SHAPES["ram"]
    path = tmp_path / "a.pth"
    for seed in (0, 1):
        model = ram_worlds.model(shape, seed)
        ram_worlds.write(path, ram_worlds.published(model))
        if seed:
            later = converted_path(path).stat().st_mtime + 10
            os.utime(path, (later, later))
        opened = open_model(path, shape)
        assert torch.equal(opened.fc.weight, model.fc.weight.half().float())


def test_old_names_and_ties_are_understood(tmp_path: Path) -> None:
    shape = ram_worlds.SHAPES["ram"]
    model = ram_worlds.model(shape)
    old = {k.replace("tagging_head", "vision_multi"): v for k, v in ram_worlds.published(model).items()}
    assert torch.equal(
        open_model(ram_worlds.write(tmp_path / "old.pth", old), shape).fc.weight, model.fc.weight.half().float()
    )
    shape = ram_worlds.SHAPES["tag2text"]
    model = ram_worlds.model(shape)
    words = model.text_decoder.bert.embeddings.word_embeddings.weight
    model.text_decoder.cls.predictions.decoder.weight.copy_(words)
    lowest = {
        key.replace("tagging_head", "tag_encoder"): value
        for key, value in model.state_dict().items()
        if key.startswith("tagging_head")
    }
    model.load_state_dict({**model.state_dict(), **lowest})
    tied = {k: v for k, v in ram_worlds.published(model).items() if not k.endswith("predictions.decoder.weight")}
    tied = {k: v for k, v in tied.items() if k not in lowest}
    opened = open_model(ram_worlds.write(tmp_path / "tied.pth", tied), shape)
    for key, value in model.state_dict().items():
        assert torch.equal(opened.state_dict()[key], value.half().float()), key


def test_a_folder_that_cannot_be_written_to_is_only_slower(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shape = ram_worlds.SHAPES["ram"]
    path = ram_worlds.write(tmp_path / "a.pth", ram_worlds.published(ram_worlds.model(shape)))
    (tmp_path / "a.fp16.safetensors").mkdir()  # in the way, whoever runs the test
    with caplog.at_level(logging.WARNING):
        found = open_model(path, shape)
    assert found(pixels()).shape == (1, 23)
    assert "will be read again every time" in caplog.text
    assert {file.name for file in tmp_path.iterdir()} == {"a.pth", "a.fp16.safetensors"}


# --- files that are refused -------------------------------------------------------------------------------------------


class Program:
    """What a hostile file holds: unpickled plainly, it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def test_no_program_in_a_file_is_run(tmp_path: Path) -> None:
    shape = ram_worlds.SHAPES["ram"]
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(Program(str(trap))))
    assert trap.is_dir()  # it would
    trap.rmdir()
    state = ram_worlds.published(ram_worlds.model(shape))
    path = ram_worlds.write(tmp_path / "a.pth", state, config=Program(str(trap)))
    assert torch.equal(open_model(path, shape).fc.bias, state["fc.bias"].half().float())
    assert not trap.exists()
    bare = tmp_path / "b.pth"
    bare.write_bytes(pickle.dumps(Program(str(trap))))
    with pytest.raises(InterplayError):
        open_model(bare, shape)
    assert not trap.exists()


def refused(path: Path, kind: str = "ram") -> str:
    with pytest.raises(InterplayError) as error:
        open_model(path, ram_worlds.SHAPES[kind])
    said = str(error.value)
    assert path.name in said and "\n" not in said and said.endswith(".")
    assert not converted_path(path).exists() or converted_path(path) == path
    return said


def test_wrong_files_are_refused_in_one_sentence_and_not_converted(tmp_path: Path) -> None:
    state = ram_worlds.published(ram_worlds.model(ram_worlds.SHAPES["ram"]))
    other = ram_worlds.write(tmp_path / "sd.pth", {"model.diffusion_model.out.weight": torch.zeros(3)})
    assert "none of RAM, RAM++ and Tag2Text" in refused(other)
    lacking = {key: value for key, value in state.items() if not key.endswith("fc1.weight")}
    assert "6 of " in (said := refused(ram_worlds.write(tmp_path / "lacking.pth", lacking))) and "too few" in said
    small = {**state, "fc.weight": torch.zeros(1, 8)}
    assert "'fc.weight'" in (said := refused(ram_worlds.write(tmp_path / "small.pth", small))) and "(1, 8)" in said
    huge = {**state, "image_proj.bias": torch.full((12,), 1e6)}
    assert "half precision" in refused(ram_worlds.write(tmp_path / "huge.pth", huge))
    broken = {**state, "image_proj.bias": torch.full((12,), torch.nan)}
    assert "not finite" in refused(ram_worlds.write(tmp_path / "nan.pth", broken))
    whole = ram_worlds.write(tmp_path / "half.pth", state).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    assert "download it again" in refused(tmp_path / "half.pth")
    (tmp_path / "page.pth").write_text("<!doctype html><title>Not found</title>", encoding="utf-8")
    assert "cannot be read" in refused(tmp_path / "page.pth")
    (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not json")
    assert "damaged" in refused(tmp_path / "x.safetensors")


def test_a_file_of_published_size_is_wanted_unless_told_otherwise(tmp_path: Path) -> None:
    path = ram_worlds.write(tmp_path / "a.pth", ram_worlds.published(ram_worlds.model(ram_worlds.SHAPES["ram"])))
    with pytest.raises(InterplayError, match="weights too few, such as"):
        open_model(path)
    good = open_model(path, ram_worlds.SHAPES["ram"])
    assert good.shape.kind == "ram"
    with pytest.raises(InterplayError, match="is a ram model and not ram_plus"):
        open_model(path, ram_worlds.SHAPES["ram_plus"])
