"""Being asked to stop: Slurm's pre-emption (SIGTERM, SIGUSR1) and Ctrl-C (SIGINT).

Anywhere in a command the signal ends it with :class:`Interrupted`. Inside :func:`deferred` it is only noted: the work
there looks at ``asked`` between its steps, saves, and raises. Work that cannot come to such a point within
:data:`GRACE` seconds is ended where it is, from the state that it last saved.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from embench.core.errors import Interrupted

if TYPE_CHECKING:
    import subprocess

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
GRACE = 15.0
"""Seconds between the signal and the end of the process; Slurm kills 30 s after its signal, unless set otherwise."""


@dataclass
class Interrupt:
    """Whether this process has been asked to stop, and by which signal."""

    asked: signal.Signals | None = None

    def check(self) -> None:
        """Raise :class:`Interrupted` when asked to stop: only where nothing is left to save."""
        if self.asked:
            raise Interrupted(self.asked)


_current: Interrupt | None = None


@contextmanager
def raised() -> Iterator[None]:
    """Let the signals raise :class:`Interrupted` wherever the main thread is: for a whole command."""
    with _handlers(_raise):
        yield


@contextmanager
def deferred(grace: float = GRACE) -> Iterator[Interrupt]:
    """Note the signals in what is given, instead of obeying them; blocks inside this one share it.

    Parameters
    ----------
    grace : float
        Seconds after which a process that has not stopped by itself is ended, with exit status 75.

    Notes
    -----
    Python runs a signal's handler when the main thread comes back to it, which may be long after (a backward pass is
    one call). The byte that the interpreter writes at once wakes a thread that counts. A second Ctrl-C ends at once.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Interrupt()
        return
    interrupt, asked_before = Interrupt(), False
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        while not ended.is_set():
            (number,) = os.read(reading, 1)
            if number not in SIGNALS:
                continue
            interrupt.asked = interrupt.asked or signal.Signals(number)
            if not ended.wait(grace):
                _end(interrupt.asked)

    def again(number: int, _: FrameType | None) -> None:
        nonlocal asked_before
        if number == signal.SIGINT and asked_before:
            raise Interrupted(signal.SIGINT)
        asked_before = True
        interrupt.asked = interrupt.asked or signal.Signals(number)

    watcher = threading.Thread(target=watch, name="interrupt", daemon=True)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _current = interrupt
    watcher.start()
    try:
        with _handlers(again):
            yield interrupt
    finally:
        _current = None
        signal.set_wakeup_fd(before)
        ended.set()
        os.write(writing, b"\0")  # a forked data worker may have the other end too, so closing would not wake it
        watcher.join()
        os.close(reading)
        os.close(writing)


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore Ctrl-C; processes started by the block do so for all their life."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def left_to_parent(_: int = 0) -> None:
    """Ignore the signals in a helper process whose parent will end it: a data worker."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def leave_interrupts_to_parent() -> None:
    """Ignore Ctrl-C in a process that serves its parent, which handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_after(seconds: float) -> None:
    """End this process after so much more of its processor time, in the middle of any library; 0 lifts the limit.

    To the millisecond, where RLIMIT_CPU has whole seconds. Without such a timer (Windows) nothing is limited.
    """
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)


def ended_by(code: int) -> str:
    """Return how a process ended, by what ``Popen.wait`` gave: a signal's name, or ``exit 3``."""
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def end_group(child: subprocess.Popen[bytes], grace: float) -> None:
    """End a process begun in a session of its own, and whatever it started: asked first, then killed.

    Where there are no groups of processes (Windows) it alone is ended.
    """
    if not hasattr(os, "killpg"):
        child.kill()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGTERM)
        end = time.monotonic() + grace
        while time.monotonic() < end:
            child.poll()
            os.killpg(child.pid, 0)  # raises when nobody is left
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGKILL)


def end_with_parent() -> None:
    """Let this process, a helper that nobody else needs, end within a second or so of its parent."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(exit_status(signal.SIGTERM))

    threading.Thread(target=watch, name="parent", daemon=True).start()


def exit_status(number: signal.Signals) -> int:
    """Return 75 (the same command goes on), and for Ctrl-C what shells expect of it, so that no loop retries."""
    return 130 if number == signal.SIGINT else 75


def _raise(number: int, _: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number))


def _end(number: signal.Signals) -> None:
    message = f"embench: {Interrupted(number)}; the step under way did not end in time and will be done again\n"
    with suppress(OSError):
        os.write(sys.stderr.fileno(), message.encode())
    os._exit(exit_status(number))


@contextmanager
def _handlers(handler: object) -> Iterator[None]:
    """Set a handler for each signal that is not ignored (as for a process started by nohup or by a pool)."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
