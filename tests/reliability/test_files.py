"""Whatever happens to the writer at whichever operation: a name has the old content or the new, whole."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from embench.core.errors import BadInput, TryAgain
from embench.core.files import check_writable, remove, write_atomic
from embench.training.state import load_state, save_state
from tools.operations import Operation, watch

FORK = multiprocessing.get_context("fork")
OLD, NEW = b"old" * 5000, b"new" * 7000

Act = Callable[[Operation], None]


def ending(folder: Path, act: Act, then: Callable[[], None]) -> int:
    """Return how a process ends that does ``then`` under ``act``: 0, 75 or 2 as the command line would, or a signal."""

    def work() -> None:
        try:
            watch(folder, act)
            then()
        except TryAgain as error:
            os._exit(75 if f"{folder}/" in str(error) else 99)
        except BadInput as error:
            os._exit(2 if f"{folder}/" in str(error) else 99)
        os._exit(0)

    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def operations(folder: Path, then: Callable[[], None]) -> list[str]:
    kinds = folder.parent / f"{folder.name}.kinds"
    kinds.unlink(missing_ok=True)

    def note(operation: Operation) -> None:
        with kinds.open("a") as file:
            file.write(operation.kind + "\n")

    assert ending(folder, note, then) == 0
    return kinds.read_text().split()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "folder" / "file"
    made.parent.mkdir()
    made.write_bytes(OLD)
    return made


def test_the_writer_killed_at_any_operation_leaves_old_or_new_and_nothing_else(path: Path) -> None:
    kinds = operations(path.parent, lambda: write_atomic(path, NEW))
    assert {"open", "write", "close", "chmod", "fsync", "rename"} <= set(kinds)
    for place, kind in enumerate(kinds, start=1):
        for half in (False, True)[: 1 + (kind == "write")]:

            def kill(operation: Operation, place: int = place, half: bool = half) -> None:
                if operation.number == place:
                    if half:
                        operation.begin()
                    os.kill(os.getpid(), signal.SIGKILL)

            path.write_bytes(OLD)
            assert ending(path.parent, kill, lambda: write_atomic(path, NEW)) == -signal.SIGKILL
            assert path.read_bytes() == (NEW if "rename" in kinds[: place - 1] else OLD)
            assert ending(path.parent, lambda _: None, lambda: write_atomic(path, NEW)) == 0
            assert [each.name for each in path.parent.iterdir()] == ["file"]  # what the dead one left is gone
            assert path.read_bytes() == NEW


@pytest.mark.parametrize(("code", "status"), [(errno.ENOSPC, 75), (errno.EIO, 75), (errno.EROFS, 2), (errno.EACCES, 2)])
@pytest.mark.parametrize("for_ever", [False, True])
def test_any_operation_may_fail_and_the_old_survives(code: int, status: int, for_ever: bool, path: Path) -> None:
    kinds = operations(path.parent, lambda: write_atomic(path, NEW))
    for place in range(1, len(kinds) + 1):

        def fail(operation: Operation, place: int = place) -> None:
            if operation.number == place or (for_ever and operation.number > place):
                raise operation.error(code)

        path.write_bytes(OLD)
        ended = ending(path.parent, fail, lambda: write_atomic(path, NEW))
        done = "rename" in kinds[: place - 1]
        harmless = done or (kinds[place - 1] == "mkdir" and not for_ever)  # the folder is there
        assert ended in ((0, status) if harmless else (status,))
        assert path.read_bytes() == (NEW if done or ended == 0 else OLD)
        for left in path.parent.glob(".*.part"):  # where to remove it failed as well
            left.unlink()


@pytest.mark.parametrize("size", [0, 1, 4096, 20_999])
def test_a_file_that_the_kernel_cuts_off_is_not_taken_for_whole(size: int, path: Path) -> None:
    def limit(_: Operation) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    assert ending(path.parent, limit, lambda: write_atomic(path, NEW)) == 75
    assert path.read_bytes() == OLD
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_a_folder_that_cannot_take_a_block_is_found_by_asking(tmp_path: Path) -> None:
    for code, status in ((errno.ENOSPC, 75), (errno.EROFS, 2), (errno.EACCES, 2)):
        for place in range(1, 1 + len(operations(tmp_path, lambda: check_writable(tmp_path / "results")))):

            def fail(operation: Operation, place: int = place, code: int = code) -> None:
                if operation.number >= place:
                    raise operation.error(code)

            assert ending(tmp_path, fail, lambda: check_writable(tmp_path / "results")) == status


def test_a_file_that_cannot_be_removed_is_named(path: Path) -> None:
    def fail(operation: Operation) -> None:
        raise operation.error(errno.EROFS)

    assert ending(path.parent, fail, lambda: remove(path)) == 2
    assert path.exists()


def test_a_training_state_fails_like_any_file_whatever_torch_makes_of_it(path: Path) -> None:
    old, new = {"weights": torch.zeros(1000)}, {"weights": [torch.ones(3000) for _ in range(6)], "iteration": 1}
    kinds = operations(path.parent, lambda: save_state(new, path))
    assert kinds.count("write") > 5
    for place, kind in enumerate(kinds, start=1):

        def fail(operation: Operation, place: int = place) -> None:
            if operation.number == place:
                raise operation.error(errno.ENOSPC)

        save_state(old, path)
        ended = ending(path.parent, fail, lambda: save_state(new, path))
        assert ended == (0 if kind in ("mkdir", "unlink") else 75)  # the folder is there; a leftover is swept later
        state = load_state(path)
        assert state is not None
        assert ("iteration" in state) == (ended == 0 or "rename" in kinds[: place - 1])
