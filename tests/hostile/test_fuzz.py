"""A few hundred mutants of every parser; ten thousand of each by ``python -m tests.hostile.fuzz --mutants 10000``."""

from __future__ import annotations

import pytest

from . import fuzz

TORCH = {"plan", "card", "task", "safetensors", "training-state", "checkpoint", "prints", "prepared"}
"""Their mutants take longer."""


@pytest.mark.parametrize("parser", fuzz.PARSERS)
def test_mutants_are_taken_or_refused_by_name(parser: str) -> None:
    report = fuzz.fuzz(parser, 40 if parser in TORCH else 100, seed=1)
    assert not report.findings, report.findings[:5]
    assert report.memory < fuzz.MEMORY
    assert sum(report.outcomes.values()) == report.mutants


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("parser", fuzz.PARSERS)
def test_two_thousand_mutants_are_taken_or_refused_by_name(parser: str) -> None:
    report = fuzz.fuzz(parser, 2000, seed=2)
    assert not report.findings, report.findings[:5]
    assert report.memory < fuzz.MEMORY


def test_the_fuzzer_finds_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that raises, one that dies, and one that names no file are findings."""
    import os
    from dataclasses import replace

    from embench.core.errors import BadInput

    def raises(path: object) -> None:
        raise IndexError("in the parser")

    def dies(path: object) -> None:
        os._exit(3)

    def mumbles(path: object) -> None:
        raise BadInput("something is wrong")

    for read, said in ((raises, "IndexError"), (dies, "exit 3"), (mumbles, "does not name")):
        monkeypatch.setitem(fuzz.PARSERS, "note", replace(fuzz.PARSERS["note"], read=read))
        report = fuzz.fuzz("note", 3)
        assert len(report.findings) == 3
        assert all(said in finding for finding in report.findings)
