"""Two dozen checkpoints that would run code: none does, and each is refused in one line."""

from __future__ import annotations

import builtins
import io
import math
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines import published_weights, safe_load
from embench.core import sandbox
from embench.core.errors import BadInput

NORM = "transformer.encoder.encoder_norm.weight"


class Calls:
    """Unpickled without care, this calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


class Holds:
    """Unpickled, this becomes an ordered dictionary, with one thing in it that is not harmless."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter([("b", self.held)])


def _state(payload: Any) -> dict[str, Any]:
    return {NORM: torch.zeros(4), "more": payload}


def torch_zip(payload: Any, **options: Any) -> bytes:
    torch.save(_state(payload), buffer := io.BytesIO(), **options)
    return buffer.getvalue()


def torch_zip_with(pickled: bytes) -> bytes:
    """Return a torch file whose pickle is replaced."""
    with zipfile.ZipFile(io.BytesIO(torch_zip(0))) as old, zipfile.ZipFile(buffer := io.BytesIO(), "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


def torch_tar(payload: Any) -> bytes:
    """Return a file as torch wrote them until 2017: a tar archive of pickles."""
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as archive:
        members = {"storages": [0, []], "tensors": [0], "pickle": [{"more": payload}]}
        for name, contents in members.items():
            pickled = b"".join(pickle.dumps(each, protocol=2) for each in contents)
            info = tarfile.TarInfo(name)
            info.size = len(pickled)
            archive.addfile(info, io.BytesIO(pickled))
    return buffer.getvalue()


def npz(payload: Any, *, compressed: bool = False) -> bytes:
    save = np.savez_compressed if compressed else np.savez
    save(buffer := io.BytesIO(), kernel=np.zeros(3), conv_root=np.array([payload, 1], dtype=object))
    return buffer.getvalue()


def module_zip() -> bytes:
    """Return a compiled torch program, which holds code."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer := io.BytesIO())
    return buffer.getvalue()


PAYLOADS: dict[str, tuple[str, Callable[[str], bytes], str]] = {
    "os.system": ("a.pt", lambda c: torch_zip(Calls(os.system, c)), "asks for posix.system"),
    "os.system, older format": (
        "a.pth",
        lambda c: torch_zip(Calls(os.system, c), _use_new_zipfile_serialization=False),
        "asks for posix.system",
    ),
    "eval": ("a.pth.tar", lambda c: torch_zip(Calls(eval, f"__import__('os').system({c!r})")), "asks for eval"),
    "exec": ("a.pth.tar", lambda c: torch_zip(Calls(exec, f"import os; os.system({c!r})")), "asks for exec"),
    "subprocess": ("a.pt", lambda c: torch_zip(Calls(subprocess.getoutput, c)), "getoutput"),
    "Popen": ("a.pt", lambda c: torch_zip(Calls(subprocess.Popen, ["sh", "-c", c])), "Popen, which could run code"),
    "getattr": ("a.pt", lambda c: torch_zip(Calls(getattr, Calls(__import__, "os"), "system")), "asks for getattr"),
    "__import__": ("a.pth", lambda c: torch_zip(Calls(__import__, "antigravity")), "asks for __import__"),
    "map": ("a.pt", lambda c: torch_zip(Calls(list, Calls(map, os.system, [c]))), "asks for list"),
    "open for writing": ("a.pt", lambda c: torch_zip(Calls(builtins.open, c.split()[-1], "w")), "asks for io.open"),
    "deep inside": ("a.pt", lambda c: torch_zip({"a": [({"b": [Calls(os.system, c)]},)]}), "asks for posix.system"),
    "in the items of an ordered dictionary": (
        "a.pt",
        lambda c: torch_zip(Holds(Calls(os.system, c))),
        "asks for posix.system",
    ),
    "protocol 0": ("a.pt", lambda c: pickle.dumps(Calls(os.system, c), 0), "not a published checkpoint"),
    "protocol 2": ("a.pth.tar", lambda c: pickle.dumps(Calls(os.system, c), 2), "asks for posix.system"),
    "protocol 4": ("a.pt", lambda c: pickle.dumps(_state(Calls(os.system, c)), 4), "not a torch checkpoint"),
    "protocol 5 inside a torch file": (
        "a.pt",
        lambda c: torch_zip_with(pickle.dumps({"a": Calls(os.system, c)}, 5)),
        "not a torch checkpoint",
    ),
    "protocol 0 inside a torch file": (
        "a.pt",
        lambda c: torch_zip_with(f"cos\nsystem\n(S'{c}'\ntR.".encode()),
        "asks for os.system",
    ),
    "INST and BUILD": (
        "a.pt",
        lambda c: torch_zip_with(f"\x80\x02(S'{c}'\nios\nsystem\n.".encode("latin-1")),
        "not a torch checkpoint",
    ),
    "torch's tar format": ("a.pth.tar", lambda c: torch_tar(Calls(os.system, c)), "not a published checkpoint"),
    "a compiled program": ("a.pt", lambda c: module_zip(), "TorchScript"),
    "an object array": ("a.npz", lambda c: npz(Calls(os.system, c)), "Object arrays"),
    "a compressed object array": (
        "a.npz",
        lambda c: npz(Calls(os.system, c), compressed=True),
        "Object arrays",
    ),
    "a bare pickle called .npz": ("a.npz", lambda c: pickle.dumps(Calls(os.system, c)), "not a torch checkpoint"),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_is_refused_in_one_line_and_does_not_run(name: str, tmp_path: Path) -> None:
    called, make, asked = PAYLOADS[name]
    canary, path = tmp_path / "canary", tmp_path / called
    path.write_bytes(make(f"touch {canary}"))
    for read in (
        published_weights.read,
        published_weights.inspect,
        lambda path: published_weights.import_published(path, "cem500k", folder=tmp_path),
    ):
        with pytest.raises(BadInput) as caught:
            read(path)
        [line] = caught.value.lines
        assert line.startswith(f"{path}: ")
        assert asked in line
        assert "refused" in line
    assert sorted(each.name for each in tmp_path.iterdir()) == [called]


def test_the_payloads_are_real(tmp_path: Path) -> None:
    """Where pickles are trusted they run: a refusal of harmless files would show nothing."""
    harmless = {"getattr", "__import__", "a compiled program"}
    for number, name in enumerate(PAYLOADS):
        called, make, _ = PAYLOADS[name]
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / called).write_bytes(make(f"touch {tmp_path / f'{number}' / 'canary'}"))
    program = """
import sys, warnings
import numpy, torch
for path in sys.argv[1:]:
    try:
        found = numpy.load(path, allow_pickle=True) if path.endswith(".npz") else torch.load(path, weights_only=False)
        if isinstance(found, numpy.lib.npyio.NpzFile):
            dict(found)
    except Exception as error:
        print(path, error)
"""
    files = sorted(str(path) for path in tmp_path.glob("*/*"))
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    silent = {name for number, name in enumerate(PAYLOADS) if not (tmp_path / f"{number}" / "canary").exists()}
    assert silent == harmless, done.stdout


def test_a_checkpoint_is_read_by_the_child_that_has_served_a_smaller_file(tmp_path: Path) -> None:
    """What that file was allowed does not hold while the libraries of the next are loaded."""
    sandbox.close()
    assert sandbox.call(math.floor, 1, where="a number") == 1
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    assert list(safe_load.content(tmp_path / "a.pt")) == ["a"]
