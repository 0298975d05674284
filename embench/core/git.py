"""Git, asked about a checkout that may be anybody's: nothing that the checkout itself names is run.

A checkout that was handed over carries its own configuration, and that may name programs: a file-system monitor, hooks,
filters, helpers. The commands here switch off those that looking at a checkout can start.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from embench.core.errors import BadInput, TryAgain

SECONDS = 120.0
"""For which one command may take: a pipe called ``.gitignore`` never ends."""
_OFF = (
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    f"core.attributesFile={os.devnull}",
    "safe.bareRepository=explicit",
    "submodule.recurse=false",
)
_QUIET = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_ALLOW_PROTOCOL": "none",  # a missing object is not fetched: the address may be a command
    "GIT_NO_LAZY_FETCH": "1",
    "LC_ALL": "C",
}


def git(
    folder: Path, arguments: Sequence[str], given: bytes = b"", most: int = 2**30
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of git in a folder and return what it said, whatever its status.

    Parameters
    ----------
    folder : Path
    arguments : sequence of str
    given : bytes
        Its standard input.
    most : int
        Bytes that it may print.

    Raises
    ------
    BadInput
        There is no git, or it prints too much.
    TryAgain
        It does not end.
    """
    switches = [part for each in _OFF for part in ("-c", each)]
    try:
        done = subprocess.run(
            ["git", *switches, "-C", str(folder), *arguments],
            input=given,
            capture_output=True,
            check=False,
            timeout=SECONDS,
            env={**os.environ, **_QUIET},
        )
    except FileNotFoundError:
        raise BadInput("git: not found; install it") from None
    except subprocess.TimeoutExpired:
        raise TryAgain(f"{folder}: git {arguments[0]} did not end within {SECONDS:.0f} s") from None
    if len(done.stdout) > most:
        raise BadInput(f"{folder}: git {arguments[0]} prints more than {most} bytes")
    return done
