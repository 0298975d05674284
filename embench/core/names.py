"""Names that are safe as file names and table rows, and help for misspelt ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from embench.core.errors import BadInput

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){0,79}")


def is_name(text: str) -> bool:
    """Whether ``text`` may name a task, a model or a recipe: ``[a-z0-9._-]``, at most 80, never a path."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str, what: str = "name") -> str:
    """Return ``text`` when it is a name; raise :class:`BadInput` otherwise."""
    if not is_name(text):
        raise BadInput(f"{what} {text[:200]!r}: use lower-case letters, digits, '.', '_' and '-' (80 at most)")
    return text


def unknown(what: str, name: str, known: Iterable[str]) -> BadInput:
    """Return the error for an unknown ``name``, with the nearest known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
    return BadInput(f"unknown {what} {name!r}: did you mean {', '.join(near)}?")
