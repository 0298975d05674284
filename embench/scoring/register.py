"""Noting the test sets of prepared data in the registry of a folder of results."""

from __future__ import annotations

from pathlib import Path

from embench.data.store import Prepared
from embench.scoring import external, score, test_sets, verify
from embench.scoring.test_sets import TestSet, Truth


def truth_in(prepared: Prepared) -> Truth:
    """Return what the truth of a prepared task gives: it is scored against itself."""
    found: Truth = {}
    for part in external.expected(prepared):
        found[part.name] = verify.truth_of(score.image_counts(prepared.task, part.name, part.truth(), part.truth()))
    return found


def register(prepared: Prepared, folder: Path) -> Path:
    """Add the test set of a prepared task to the registry of a folder of results, and return the file."""
    known = dict(test_sets.load(folder))
    entry = TestSet(data_hash=prepared.hash, images=truth_in(prepared))
    others = tuple(each for each in known.get(prepared.task.name, ()) if each.data_hash != entry.data_hash)
    known[prepared.task.name] = (*others, entry)
    return test_sets.save(known, folder)
