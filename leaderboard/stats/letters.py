"""Compact letter display: which rows differ, as letters beside them (Piepho 2004)."""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike

MOST_ROWS = 40
"""Rows up to which letters help a reader; a board of more shows ranks, intervals and the significance map."""


def letters(different: ArrayLike) -> list[str]:
    """Return the letters of every row: two rows share none exactly when they differ.

    Insert and absorb: one column of all rows is split by every pair that differs, and a column inside another one is
    dropped. What is left are the largest sets of rows of which no two differ, named from the first row on.

    Parameters
    ----------
    different : array_like of bool, shape (K, K)
        Symmetric, rows in the order of the ranking, best first.

    Returns
    -------
    list of str
        Each letter is one character: a to z, A to Z, then the letters of further alphabets.

    Raises
    ------
    ValueError
        Not a symmetric matrix, or a row that differs from itself.

    References
    ----------
    Piepho (2004), An algorithm for a letter-based representation of all-pairwise comparisons, J. Comput. Graph.
    Stat. 13:456.
    """
    table = np.asarray(different, bool)
    if table.ndim != 2 or (table != table.T).any() or table.diagonal().any():
        raise ValueError("the differences of rows are a symmetric matrix with nothing on its diagonal")
    columns = [(1 << len(table)) - 1]
    for first, second in zip(*np.nonzero(np.triu(table)), strict=True):
        pair = 1 << int(first) | 1 << int(second)
        split = [column for column in columns if column & pair == pair]
        if split:
            whole = [column for column in columns if column & pair != pair]
            halves = {column & ~(1 << int(row)) for column in split for row in (first, second)}
            columns = whole + [half for half in halves if not _inside_another(half, whole, halves)]
    columns.sort(key=lambda column: [row for row in range(len(table)) if column >> row & 1])
    names = dict(zip(columns, _alphabet(), strict=False))
    return ["".join(name for column, name in names.items() if column >> row & 1) for row in range(len(table))]


def _inside_another(column: int, whole: list[int], halves: set[int]) -> bool:
    return any(column & other == column for other in whole) or any(
        column & other == column for other in halves if other != column
    )


def _alphabet() -> Iterator[str]:
    return chain(string.ascii_letters, filter(str.isalpha, map(chr, range(0x3B1, 0x10000))))
