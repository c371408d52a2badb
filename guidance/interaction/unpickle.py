"""Reading torch files without trusting them: only tensors come out, whatever else a file names stays inert.

Published training files hold OmegaConf objects beside their weights, which torch's own safe reader refuses.
"""

from __future__ import annotations

import collections
import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import torch

from ...errors import InterplayError

_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
}
_STORAGES = ("torch", "torch.storage", "torch.cuda")


class Inert:
    """What any other object of a file becomes: it takes everything and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


class TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers. No other name that a file mentions is ever imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in _STORAGES and name.endswith("Storage") and name.isidentifier():
            storage = getattr(torch, name, None) or getattr(torch.storage, name, None)
            if isinstance(storage, type):
                return storage
        return type(name.rpartition(".")[2] or "Inert", (Inert,), {"__module__": module})


def _load(file: Any, **kwargs: Any) -> Any:
    return TensorUnpickler(file, **kwargs).load()


def _module() -> Any:
    """What torch.load takes for the pickle module."""
    module: Any = types.ModuleType("interplay_pickle")
    module.Unpickler, module.load = TensorUnpickler, _load
    module.UnpicklingError = pickle.UnpicklingError
    return module


def read_torch(path: Path) -> Any:
    """The content of a torch file, its tensors on the CPU. InterplayError for one that is damaged or is a program."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile):
        pass  # holds more than tensors, or is damaged: the reader below tells which
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise InterplayError(f"'{path.name}' is a TorchScript program, not weights: choose another file.")
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_module())
    except Exception as error:
        raise InterplayError(
            f"'{path.name}' cannot be read as a torch file ({type(error).__name__}), most likely because its download "
            "stopped half-way: download it again."
        ) from error
