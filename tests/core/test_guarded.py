"""A reader that hangs, dies or takes too much costs one file and one line, and the next file is read."""

from __future__ import annotations

import math
import os
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embench.core import sandbox
from embench.core.errors import BadInput


@pytest.fixture(autouse=True)
def another_child() -> Iterator[None]:
    sandbox.close()
    yield
    sandbox.close()


@pytest.mark.parametrize(
    ("reader", "arguments", "said"),
    [
        (np.ones, (2**40,), "of memory to be read; refused"),
        (os.abort, (), "its reader crashed (SIGABRT); refused"),
        (os._exit, (3,), "its reader crashed (exit 3); refused"),
    ],
)
def test_what_a_reader_does_not_survive_is_one_line(
    reader: Callable[..., Any], arguments: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(BadInput) as caught:
        sandbox.call(reader, *arguments, where="a.tif")
    (line,) = caught.value.lines
    assert line.startswith("a.tif: ")
    assert line.endswith(said)
    assert sandbox.call(math.floor, 1.5, where="b.tif") == 1


def test_a_reader_that_hangs_is_stopped_when_its_time_is_over_and_not_seconds_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 1)

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    assert sandbox.call(math.floor, 1.5, where="a.tif") == 1
    child = sandbox._child
    assert child is not None
    start = spent() + int(Path(f"/proc/{child.process.pid}/schedstat").read_text().split()[0]) / 1e9  # its own start
    with pytest.raises(BadInput, match=r"a\.tif: its reader needed more than 1 s; refused"):
        sandbox.call(re.fullmatch, "(a+)+", "a" * 60 + "b", where="a.tif")
    assert spent() - start < 1.9
