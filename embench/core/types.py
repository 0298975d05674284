"""Checked types of the fields of JSON files: names, digests, fractions, counts, facts."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from embench.core.names import is_name


def _checked_name(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text[:80]!r} is not a name ([a-z0-9._-], at most 80)")
    return text


def _checked_facts(facts: dict[str, Any]) -> dict[str, Any]:
    waiting: list[Any] = [facts]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError("NaN and infinity are no facts")
    return facts


Name = Annotated[str, AfterValidator(_checked_name)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""Whole numbers that every reader of JSON holds exactly."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Facts = Annotated[dict[str, Any], AfterValidator(_checked_facts)]
