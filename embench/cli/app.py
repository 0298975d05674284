"""Collects the verbs and runs the one that is asked for.

Each verb imports what it needs when it is called, so that help is immediate.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from embench.cli import data, models, predict, results, run
from embench.cli.apps import app
from embench.core.errors import BadInput, Diverged, Interrupted, TrialsFailed, TryAgain

__all__ = ["app", "data", "main", "models", "predict", "results", "run"]


def main() -> None:
    """Run the command line: 0 done, 1 diverged or a fault in code, 2 bad input (a line each), 75 again, 130 Ctrl-C."""
    import logging

    from embench.core import console, signals

    os.environ["MPLBACKEND"] = "agg"  # figures go into files; that of a notebook is not at hand in this process
    os.environ["PYTHONSAFEPATH"] = "1"  # no process of ours imports from the folder in which it is started
    console.take_over_streams()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.raiseExceptions = False
    try:
        try:
            with signals.raised():
                app(standalone_mode=True)
        except SystemExit:
            console.flush_streams()
            raise
        except OSError as error:
            if (known := _of_a_file(error)) is None:
                raise
            raise known from None
    except BadInput as error:
        for line in error.lines:
            _tell(line)
        raise SystemExit(2) from None
    except TryAgain as error:
        _tell(error)
        raise SystemExit(75) from None
    except Interrupted as error:
        _tell(error)
        raise SystemExit(signals.exit_status(error.number)) from None
    except TrialsFailed as error:
        _tell(error)
        raise SystemExit(1) from None
    except Diverged as error:
        _tell(f"{error}; what was saved before is kept")
        raise SystemExit(1) from None


def _tell(what: object) -> None:
    with suppress(TryAgain):  # nobody is there to be told
        print(f"embench: {what}", file=sys.stderr, flush=True)


def _of_a_file(error: OSError) -> BadInput | TryAgain | None:
    """Return the line for a file that could not be written, wherever that was met; ``None``: no such fault."""
    import errno

    from embench.core.files import explained

    passing = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EPIPE, errno.EFBIG)
    if error.errno not in passing and not (error.filename and error.errno in (errno.EACCES, errno.EPERM)):
        return None
    return explained(error, Path(os.fsdecode(error.filename)) if error.filename else Path("a file"))
