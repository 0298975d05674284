"""What others add: installed packages under an entry-point group, users in a file of their own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embench.core.errors import BadInput
from embench.core.names import unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def points_of(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, looked up once for what is installed: that takes tens of milliseconds."""
    from importlib import metadata

    return _points_of(group, metadata.entry_points, tuple(sys.path))


@cache
def _points_of(group: str, look_up: Callable[..., Any], path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(look_up(group=group))


def registered_under(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in points_of(group):
        if point.name in found and found[point.name].value != point.value:
            raise BadInput(
                f"two installed packages register {point.name!r} under {group}: "
                f"{found[point.name].value} and {point.value}; uninstall one"
            )
        found[point.name] = point
    return found


def from_file(spec: str, what: str) -> Any:
    """Return what ``FILE.py:NAME`` names. Such a file is code and is run: it is imported only because it was named.

    Parameters
    ----------
    spec : str
    what : str
        What is looked for, for the message.

    Raises
    ------
    BadInput
        No such file or name in it.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {what} is given as path/to/file.py:NAME")
    module_spec = importlib.util.spec_from_file_location(f"embench_user_{path.stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise unknown(f"name in {path}", name, own or ["(the file defines nothing)"])
    return getattr(module, name)
