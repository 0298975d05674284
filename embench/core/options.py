"""The options of a command as the fields of a dataclass: name, type, default and help stand in one place.

The command line makes its options from the fields (:mod:`embench.cli.verbs`); Python code makes the object itself.
"""

from dataclasses import field
from typing import Any


def option(
    default: Any,
    help: str,
    *flags: str,
    panel: str = "",
    environment: str | None = None,
    names: bool = False,
    choices: str | None = None,
) -> Any:
    """Return a dataclass field that is also an option of the command line.

    Parameters
    ----------
    default : Any
    help : str
        One line for ``--help``.
    *flags : str
        How it is written; default ``--`` and the field's name.
    panel : str
        The heading under which ``--help`` lists it.
    environment : str, optional
        The variable that gives it where the command line does not.
    names : bool
        Whether commas separate several values in one.
    choices : str, optional
        What ``--help`` prints in place of the type.
    """
    about = {"help": help, "flags": flags, "panel": panel, "envvar": environment, "names": names, "metavar": choices}
    return field(default=default, metadata=about)
