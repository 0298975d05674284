"""Collects the verbs and runs the one that is asked for.

Each verb imports what it needs when it is called, so that help is immediate.
"""

import io
import os
import sys

from embench.cli import data, models, predict, results, run
from embench.cli.apps import app
from embench.core.errors import BadInput, Diverged, Interrupted, TrialsFailed, TryAgain

__all__ = ["app", "data", "main", "models", "predict", "results", "run"]


def main() -> None:
    """Run the command line: 0 done, 1 diverged or a fault in code, 2 bad input (a line each), 75 again, 130 Ctrl-C."""
    import logging

    from embench.core import signals

    os.environ["MPLBACKEND"] = "agg"  # figures go into files; that of a notebook is not at hand in this process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without a letter loses the letter, not the run
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with signals.raised():
            app(standalone_mode=True)
    except BadInput as error:
        for line in error.lines:
            print(f"embench: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except TryAgain as error:
        print(f"embench: {error}", file=sys.stderr)
        raise SystemExit(75) from None
    except Interrupted as error:
        print(f"embench: {error}", file=sys.stderr)
        raise SystemExit(signals.exit_status(error.number)) from None
    except TrialsFailed as error:
        print(f"embench: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Diverged as error:
        print(f"embench: {error}; what was saved before is kept", file=sys.stderr)
        raise SystemExit(1) from None
