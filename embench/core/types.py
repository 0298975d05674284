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


MOST_FACTS = 10_000
"""Values in one dictionary of facts, those inside others among them."""
MOST_LETTERS = 200_000
"""In all of its texts together."""


def _checked_facts(facts: dict[str, Any]) -> dict[str, Any]:
    waiting: list[Any] = [facts]
    count = letters = 0
    while waiting:
        value = waiting.pop()
        count += 1
        letters += len(value) if isinstance(value, str) else sum(map(len, value)) if isinstance(value, dict) else 0
        if count > MOST_FACTS or letters > MOST_LETTERS:
            raise ValueError(f"more than {MOST_FACTS} values or {MOST_LETTERS} letters")
        if isinstance(value, dict | list | tuple):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError("NaN and infinity are no facts")
    return facts


def _checked_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(texts)) < len(texts):
        raise ValueError("one of them stands there twice")
    return texts


Name = Annotated[str, AfterValidator(_checked_name)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""Whole numbers that every reader of JSON holds exactly."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=4000)]
"""For people: longer than any licence line or citation."""
Label = Annotated[str, Field(max_length=400)]
"""What an image or a class is called."""
Labels = Annotated[tuple[Label, ...], Field(max_length=256)]
"""Of the classes of a task: label values are bytes."""
Different = AfterValidator(_checked_texts)
Facts = Annotated[dict[str, Any], AfterValidator(_checked_facts)]
