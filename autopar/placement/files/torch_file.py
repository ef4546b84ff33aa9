"""The counts in a file of torch.save, without torch and without running anything in it.

A file of torch.save is a zip archive with data.pkl, a pickle of the structure, and one entry of raw
numbers per tensor (pytorch/pytorch, torch/serialization.py). SGLang's recorder writes such dumps.
The reader below builds dicts, lists and numbers, and tensors as numpy arrays; every other name in
the pickle is refused, so that a hostile file can do nothing.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from autopar.errors import SpecError

_STORAGES = {
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
}
_MOST_NUMBERS = 200_000_000


def read_torch(path: Path, label: str) -> dict[str, Any]:
    """Return the mapping that a dump holds, its tensors as arrays.

    Raises SpecError for what is no such dump, or holds more than mappings, lists and numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            data = _unpickled(archive, label)
    except SpecError:
        raise
    except (zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
        raise SpecError(f"{label}: no file of torch.save: {error}") from None
    except Exception as error:  # noqa: BLE001  a damaged pickle or archive raises anything
        raise SpecError(f"{label}: not read: {str(error) or type(error).__name__}") from None
    if not isinstance(data, dict):
        raise SpecError(
            f"{label}: found {type(data).__name__}, expected a mapping with logical_count"
        )
    if "records" in data:
        raise SpecError(
            f"{label}: a dump per pass (`records`); expected one of SGLang's mode `stat`, with "
            "logical_count"
        )
    return {str(key): value for key, value in data.items()}


def _unpickled(archive: zipfile.ZipFile, label: str) -> Any:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise SpecError(f"{label}: no file of torch.save: it has no data.pkl")
    with archive.open(names[0]) as stream:
        content = io.BytesIO(stream.read(1 << 24))
    return _Reader(content, archive, names[0].removesuffix("data.pkl"), label).load()


class _Storage:
    """The name of a storage type; instances are never made."""

    def __init__(self, name: str) -> None:
        self.kind = _STORAGES[name]


class _Reader(pickle.Unpickler):
    """Reads dicts, lists, numbers and tensors."""

    def __init__(
        self, stream: io.BytesIO, archive: zipfile.ZipFile, folder: str, label: str
    ) -> None:
        super().__init__(stream)
        self._archive, self._folder, self._label = archive, folder, label

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Storage(name)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise SpecError(
            f"{self._label}: holds {module}.{name}, which is not read; expected tensors alone"
        )

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, size = pid
        if kind != "storage" or not isinstance(storage, _Storage) or not 0 <= size <= _MOST_NUMBERS:
            raise SpecError(f"{self._label}: a storage of another form")
        content = self._archive.read(f"{self._folder}data/{key}")
        return np.frombuffer(content, dtype=storage.kind)


def _tensor(
    storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Any:
    """Return the array that a tensor is: contiguous, as counts are."""
    length = int(np.prod(size, dtype=np.int64))
    steps = np.cumprod((1, *size[:0:-1]))[::-1].tolist() if size else []
    if list(stride) != steps or not 0 <= offset <= offset + length <= len(storage):
        raise ValueError("a tensor that is not contiguous, or longer than its storage")
    return storage[offset : offset + length].reshape(size)
