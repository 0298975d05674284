"""The board as a table for a paper: one line per row, one column per benchmark, in Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from embench.errors import BadInput
from embench.names import unknown
from leaderboard import table
from leaderboard.table import Board

PEREZ = ("perez-lyso", "perez-mito", "perez-nuclei", "perez-nucleoli")
Style = Literal["markdown", "latex"]


def export(results: Sequence[Path], board: str = "published", style: Style = "markdown") -> str:
    """Return a board in the layout of the paper's Table 1.

    Parameters
    ----------
    results : sequence of Path
        Folders of result files.
    board : str
        ``published``, ``open``, ``synthetic``, or one of these with ``-2``, ``-3`` for further budgets or data.
    style : {"markdown", "latex"}

    Raises
    ------
    BadInput
        Unknown board or style, no results, or result files that cannot be used.
    """
    if style not in ("markdown", "latex"):
        raise unknown("style", style, ("markdown", "latex"))
    trials, refused = table.read(results)
    if refused:
        raise BadInput(refused)
    boards = {each.slug: each for each in table.boards(trials)}
    if not boards:
        raise BadInput(f"{', '.join(map(str, results))}: no result files; run: embench run --results DIR")
    if board not in boards:
        raise unknown("board", board, boards)
    means = table_1(boards[board])
    written = means.map(lambda mean: "–" if np.isnan(mean) else f"{mean:.3f}").reset_index(names="model")
    return _markdown(written) if style == "markdown" else _latex(written)


def table_1(board: Board) -> pd.DataFrame:
    """Return the mean over seeds per benchmark, shape (rows, benchmarks).

    Perez is the mean of its four tasks (protocol 1) where a row has all of them. NaN where a task lacks a finished
    trial. Ranked rows come first.
    """
    rows = [*board.ranked, *(row for row in board.rows if row not in board.ranked)]
    means = pd.DataFrame(
        {column.label: [board.cell(row, column).mean for row in rows] for column in board.columns}, index=rows
    )
    labels = {column.task.removeprefix("mini-"): column.label for column in board.columns}
    if set(PEREZ) <= labels.keys():
        perez = [labels[task] for task in PEREZ]
        place = min(list(means.columns).index(label) for label in perez)
        joined = means[perez].mean(axis=1, skipna=False)
        means = means.drop(columns=perez)
        means.insert(place, "mini-perez" if board.kind == "synthetic" else "perez", joined)
    return means


def _markdown(written: pd.DataFrame) -> str:
    lines = [list(written.columns), ["---", *["---:"] * (written.shape[1] - 1)], *written.to_numpy().tolist()]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _latex(written: pd.DataFrame) -> str:
    columns = "l" + "r" * (written.shape[1] - 1)
    lines = [list(written.columns), *written.to_numpy().tolist()]
    head, *body = ("  " + " & ".join(_escaped(str(cell)) for cell in line) + " \\\\\n" for line in lines)
    parts = [f"\\begin{{tabular}}{{{columns}}}\n  \\toprule\n", head, "  \\midrule\n", *body]
    return "".join([*parts, "  \\bottomrule\n\\end{tabular}\n"])


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    special |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
    return "".join(special.get(letter, letter) for letter in text)
