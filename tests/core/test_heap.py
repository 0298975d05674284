"""What a process does with the memory that it has freed."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest
import torch

from embench.core.runtime import freed_memory_kept

SCRIPT = """
import json, torch
from embench.core.runtime import freed_memory_kept

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

def freed():
    before = resident()
    torch.ones(64 * 2**20)  # 256 MiB
    return resident() - before

freed()  # what torch starts with
told = {"outside": freed()}
before = resident()
with freed_memory_kept(torch.device("cpu")):
    told["inside"] = freed()
told["after"] = resident() - before
print(json.dumps(told))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is set")
def test_freed_memory_stays_in_the_block_and_is_given_back_after_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["outside"] == pytest.approx(0, abs=16)
    assert told["inside"] == pytest.approx(256, abs=16)
    assert told["after"] == pytest.approx(0, abs=16)


def test_on_a_gpu_and_with_another_c_library_the_heap_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("the C library was asked"))
    with freed_memory_kept(torch.device("cuda")):
        pass
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    with freed_memory_kept(torch.device("cpu")):
        pass
