"""Dumps of torch.save, made by hand: counts are read, and nothing in them is run."""

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from autopar.errors import SpecError
from autopar.placement.files.loads import read_loads

COUNTS = np.arange(12).reshape(3, 4)


class Global:
    """Pickles as a name: module.name."""

    def __init__(self, name):
        self.name = name


class Tensor:
    """Pickles as torch pickles a tensor: a call of a name on a storage that lies beside it."""

    def __init__(self, array, *, storage="LongStorage", offset=0, size=None, stride=None):
        self.array = np.ascontiguousarray(array)
        self.storage, self.offset = storage, offset
        self.size = self.array.shape if size is None else size
        steps = tuple(step // self.array.itemsize for step in self.array.strides)
        self.stride = steps if stride is None else stride


class Call:
    """Pickles as a call of a name."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class Writer(pickle._Pickler):
    """Protocol 2, as torch.save writes it."""

    def __init__(self, stream):
        super().__init__(stream, protocol=2)
        self.storages = []

    def persistent_id(self, value):
        if isinstance(value, tuple) and value and value[0] == "storage":
            return value
        return None

    def save(self, value, *args, **kwargs):
        if isinstance(value, Global):
            module, name = value.name.rsplit(".", 1)
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        elif isinstance(value, Call):
            self.save(Global(value.name))
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(value, Tensor):
            key = str(len(self.storages))
            self.storages.append(value.array.tobytes())
            kind = Global(f"torch.{value.storage}")
            place = ("storage", kind, key, "cpu", value.array.size)
            self.save(
                Call(
                    "torch._utils._rebuild_tensor_v2",
                    place, value.offset, value.size, value.stride, False, OrderedDict(),
                )
            )  # fmt: skip
        else:
            super().save(value, *args, **kwargs)


def archive(data=None, *, pickled=None, storages=None, folder="dump/"):
    stream = io.BytesIO()
    writer = Writer(stream)
    if pickled is None:
        writer.dump(data)
        pickled = stream.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr(f"{folder}data.pkl", pickled)
        out.writestr(f"{folder}version", "3\n")
        for key, content in enumerate(writer.storages if storages is None else storages):
            out.writestr(f"{folder}data/{key}", content)
    return file.getvalue()


def read(tmp_path, content):
    file = tmp_path / "dump.pt"
    file.write_bytes(content)
    return read_loads(str(file))


@pytest.mark.parametrize(
    ("storage", "kind"),
    [
        ("LongStorage", "<i8"),
        ("IntStorage", "<i4"),
        ("ShortStorage", "<i2"),
        ("DoubleStorage", "<f8"),
        ("FloatStorage", "<f4"),
        ("HalfStorage", "<f2"),
    ],
)
def test_a_dump_of_the_recorder_is_read(tmp_path, storage, kind):
    """The fields of SGLang's recorder in mode `stat` (0.5.23)."""
    dump = {
        "rank": 0,
        "logical_count": Tensor(COUNTS.astype(kind), storage=storage),
        "average_utilization_rate_over_window": None,
    }
    assert read(tmp_path, archive(dump)).counts[0].tolist() == COUNTS.tolist()


def test_steps_are_windows_and_a_part_of_a_storage_is_a_tensor(tmp_path):
    steps = np.arange(24).reshape(2, 3, 4)
    found = read(tmp_path, archive({"logical_count": Tensor(steps)}))
    assert found.counts.tolist() == steps.tolist()
    part = Tensor(np.arange(20), offset=8, size=(3, 4), stride=(4, 1))
    found = read(tmp_path, archive({"logical_count": part}))
    assert found.counts[0].tolist() == np.arange(8, 20).reshape(3, 4).tolist()


def test_a_real_dump_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    file = tmp_path / "real.pt"
    torch.save({"rank": 0, "logical_count": torch.from_numpy(COUNTS)}, file)
    assert read_loads(str(file)).counts[0].tolist() == COUNTS.tolist()


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.exec", "posix.system", "subprocess.Popen"]
)
def test_a_hostile_dump_is_refused_and_not_run(tmp_path, name):
    mark = tmp_path / "ran"
    code = f"touch {mark}" if name.endswith(("system", "Popen")) else f"open({str(mark)!r}, 'w')"
    content = archive({"logical_count": Call(name, code)})
    with pytest.raises(SpecError, match=f"holds {name}, which is not read"):
        read(tmp_path, content)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no file of torch.save"),
        (b"PK\x03\x04", "no file of torch.save"),
        (pickle.dumps({"logical_count": [[1]]}), "no file of torch.save"),
        (archive({"logical_count": Tensor(COUNTS)}, storages=[]), "no file of torch.save"),
        (archive({"logical_count": Tensor(COUNTS)}, storages=[b"abc"]), "not read"),
        (archive({"logical_count": Tensor(COUNTS)}, storages=[b"abcdefgh"]), "not contiguous"),
        (archive({"logical_count": Tensor(COUNTS, stride=(1, 3))}), "not contiguous"),
        (archive({"logical_count": Tensor(COUNTS, size=(30, 4))}), "not contiguous"),
        (archive({"logical_count": Tensor(COUNTS, offset=-4)}), "not contiguous"),
        (archive({"logical_count": Tensor(COUNTS, offset=4)}), "not contiguous"),
        (archive({"logical_count": Tensor(COUNTS, size=(2**70, 4), stride=(4, 1))}), "not read"),
        (archive({"logical_count": Tensor(COUNTS, size=("a", 4), stride=(4, 1))}), "not read"),
        (archive({"logical_count": Tensor(COUNTS, storage="BFloat16Storage")}), "BFloat16Storage"),
        (archive({"logical_count": Call("torch._utils._rebuild_tensor_v2", 1)}), "not read"),
        (archive({"logical_count": ("storage", 1, "0", "cpu", 1)}), "storage of another form"),
        (archive({"records": [], "last_physical_to_logical_map": None}), "a dump per pass"),
        (archive([1, 2]), "found list, expected a mapping with logical_count"),
        (archive(Tensor(COUNTS)), "found ndarray, expected a mapping"),
        (archive({"logical_count": Tensor(-COUNTS)}), "found -1, which is negative"),
        (archive({"logical_count": "text"}), "expected a number"),
        (archive({"logical_count": {}}), "expected a number"),
        (archive({"other": 1}), "other: unknown field"),
        (archive(pickled=b""), "no file of torch.save"),
        (archive(pickled=b"\x80\x02}q"), "no file of torch.save|not read"),
        (archive(pickled=b"\x80\x02K\x01r\xff\xff\xff\xff."), "dump.pt"),
        (archive(pickled=b"not a pickle"), "not read"),
        (archive({"logical_count": Tensor(COUNTS)}, folder=""), "it has no data.pkl"),
    ],
)  # fmt: skip
def test_what_is_no_dump_of_counts_is_refused(tmp_path, content, said):
    with pytest.raises(SpecError, match=said) as caught:
        read(tmp_path, content)
    assert "dump.pt" in str(caught.value)


def test_a_dump_that_is_damaged_anywhere_is_read_or_refused(tmp_path):
    """Every byte in turn: a wrong count may come out, but no other error."""
    file = io.BytesIO()
    stored = zipfile.ZipFile(io.BytesIO(archive({"logical_count": Tensor(COUNTS)})))
    with stored, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name in stored.namelist():
            out.writestr(name, stored.read(name))
    content, read_ones = file.getvalue(), 0
    for at in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        try:
            read_ones += read(tmp_path, bytes(damaged)).counts.shape == (1, 3, 4)
        except SpecError as error:
            assert "dump.pt" in str(error)  # noqa: PT017
    assert 0 < read_ones < len(content) // 3
