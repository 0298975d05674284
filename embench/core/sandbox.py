"""Foreign files are read by a child process with limits on its memory and time.

The C libraries below image formats were not written for files from strangers: some files make them crash, hang, or fill
the memory. A child that dies or is stopped costs one file and one line that says so; the next file gets a new child.
One child serves a process for as long as that lives, so that a file costs a message and not a start. What comes back is
data (JSON and the bytes of an array), never anything that is run.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from embench.core import process, signals
from embench.core.errors import BadInput, TryAgain

log = logging.getLogger(__name__)

ROOM = 3 * 2**29
"""Bytes that the child may take for a file that needs little, beyond what it holds when it has started."""
SECONDS = 3
"""Of processor time for a file that needs little."""
_BYTES_PER_SECOND = 2**21
"""Of slow decompression on a slow machine: what large files get time for."""
_PATIENCE = 30
"""Times its processor time that a child may take by the clock: machines are shared, and disks are slow."""


def call(function: Callable[..., Any], *arguments: Any, where: object, size: int = 0) -> Any:
    """Call a function in the child.

    Parameters
    ----------
    function : callable
        Of a module; returns an array, or anything JSON-able.
    *arguments
        JSON-able, or bytes.
    where : object
        The file, for messages.
    size : int
        Bytes that are read or made: time and memory are allowed in proportion.

    Raises
    ------
    BadInput
        Whatever the function raises as such; a child that crashed, or went beyond its limits.
    """
    with _lock:
        return _child_of_this_process().call(function, arguments, where, size)


class _Child:
    def __init__(self) -> None:
        environment = os.environ | {
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TIFFFILE_NUM_THREADS"), "1"),
        }
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            # -P: what lies in the folder in which the command was given (numpy.py, say) is nothing to import
            [sys.executable, "-P", "-m", "embench.core.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.into: IO[bytes] = self.process.stdin
        self.out: Any = self.process.stdout

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], where: object, size: int) -> Any:
        seconds = SECONDS + size // _BYTES_PER_SECOND
        blob = next((each for each in arguments if isinstance(each, bytes)), b"")
        request = {
            "function": f"{function.__module__}:{function.__qualname__}",
            "arguments": [None if isinstance(each, bytes) else each for each in arguments],
            "bytes": len(blob),
            "seconds": seconds,
            "room": ROOM + 4 * size,
        }
        late = threading.Event()
        clock = threading.Timer(seconds * _PATIENCE, self._stop, [late])
        clock.daemon = True
        clock.start()
        try:
            self.into.write(json.dumps(request).encode() + b"\n" + blob)
            self.into.flush()
            answer = self._answer()
        except (OSError, EOFError):
            told = self._end(late.is_set(), seconds)
            if self.process.returncode == -9 and not late.is_set():
                # By somebody else, or for want of memory on the whole machine: that says nothing of the file.
                raise TryAgain(f"{where}: its reader was killed (out of memory?); run the same command again") from None
            raise BadInput(f"{where}: {told}; refused") from None
        except BaseException:  # interrupted: what the child would still answer is nobody's
            self._end(True, seconds)
            raise
        finally:
            clock.cancel()
        if "faults" in answer:
            raise BadInput(answer["faults"])
        if "memory" in answer:
            raise BadInput(f"{where}: needs more than {(ROOM + 4 * size) >> 20} MiB of memory to be read; refused")
        if "bug" in answer:
            raise RuntimeError(answer["bug"])
        return answer["array"] if "array" in answer else answer["value"]

    def _stop(self, late: threading.Event) -> None:
        late.set()
        self.process.kill()

    def _answer(self) -> dict[str, Any]:
        line = self.out.readline()
        if not line:
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        if "shape" in answer:
            array = np.empty(answer.pop("shape"), np.dtype(answer.pop("dtype")))
            view = array.reshape(-1).view(np.uint8).data
            while view:
                if not (got := self.out.readinto(view)):
                    raise EOFError
                view = view[got:]
            answer["array"] = array
        return answer

    def _end(self, late: bool, seconds: int) -> str:
        """Stop the child and say in words how it ended."""
        global _child
        _child = None
        if late:
            self.process.kill()
        code = self.process.wait()
        self.close()
        if late:
            return f"its reader did not answer for {seconds * _PATIENCE} s"
        how = signals.ended_by(code)
        return f"its reader needed more than {seconds} s" if how == "SIGPROF" else f"its reader crashed ({how})"

    def close(self) -> None:
        for pipe in (self.into, self.out):
            with contextlib.suppress(OSError):
                pipe.close()
        if self.owner == os.getpid():
            self.process.kill()  # it holds nothing
            self.process.wait()


_lock = threading.Lock()
_child: _Child | None = None


def _child_of_this_process() -> _Child:
    global _child
    if _child is None or _child.owner != os.getpid():  # a forked process starts its own
        if not process.CAN_LIMIT:
            log.warning("this system sets no limits on memory and processor time: foreign files are read without")
        _child = _Child()
    return _child


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # whoever held it is not here


process.after_fork(_after_fork)


@atexit.register
def close() -> None:
    """End the child of this process, if there is one."""
    global _child
    if _child is not None and _child.owner == os.getpid():
        _child.close()
    _child = None


# In the child


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    while line := requests.readline():
        request = json.loads(line)
        blob = requests.read(request["bytes"]) if request["bytes"] else b""
        module, _, name = request["function"].partition(":")
        arguments = [blob if each is None and blob else each for each in request["arguments"]]
        array = None
        answer: dict[str, Any]
        try:
            function = getattr(importlib.import_module(module), name)  # its libraries are within no limits
            _limit(request["seconds"], request["room"])
            found = function(*arguments)
            if isinstance(found, np.ndarray):
                array = np.ascontiguousarray(found)
                answer = {"shape": array.shape, "dtype": array.dtype.str}
            else:
                answer = {"value": found}
        except BadInput as error:
            answer = {"faults": error.lines}
        except MemoryError:
            answer = {"memory": True}
        except Exception as error:
            import traceback

            answer = {"bug": "".join(traceback.format_exception(error))}
        finally:
            _unlimit()
        answers.write(json.dumps(answer).encode() + b"\n")
        if array is not None:
            answers.write(array.reshape(-1).view(np.uint8).data)
        answers.flush()


def _limit(seconds: int, room: int) -> None:
    """Allow this process ``seconds`` more of processor time, and ``room`` more bytes of address space."""
    signals.end_after(seconds)
    if (used := process.address_space()) is not None:
        process.limit_memory(used + room)


def _unlimit() -> None:
    """Lift what :func:`_limit` set."""
    signals.end_after(0)
    process.limit_memory(None)


if __name__ == "__main__":
    process.no_core_file()
    signals.leave_interrupts_to_parent()
    signals.end_with_parent()
    # Answers have a descriptor of their own: what a library prints goes nowhere.
    answering = os.dup(sys.stdout.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with os.fdopen(answering, "wb") as answers:
        _serve(sys.stdin.buffer, answers)
