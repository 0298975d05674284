"""Numbers and names as the pages print them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isnan
from typing import Any

from markupsafe import Markup, escape


def harmless(value: Any) -> Any:
    """Keep a text from being run as a formula by a spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def score(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or isnan(value) else f"{value:.{digits}f}"


def count(value: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {letter}"
    return str(value)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def memory(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def breakable(text: str) -> Markup:
    """Let a long name break after its joints, where words do not."""
    return Markup("<wbr>").join(re.split(r"(?<=[+_@,=-])", text))


def described(facts: Mapping[Any, Any]) -> Markup:
    """Return facts as entries of a description list. A model's page has hundreds: a template takes longer."""
    return Markup("").join(
        Markup(f"<div><dt>{escape(str(name).replace('_', ' '))}</dt><dd><bdi>{escape(_facts(value))}</bdi></dd></div>")
        for name, value in facts.items()
    )


def _facts(value: Any) -> str:
    """Write a nested value as short text: ``window 224, batch 4``."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_facts(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_facts(each) for each in value)
    return "–" if value is None else str(value)
