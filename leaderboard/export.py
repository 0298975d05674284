"""The board for a paper: one line per row, one column per benchmark, in Markdown or LaTeX; or box plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from embench.errors import BadInput
from embench.files import replacing
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
    means = table_1(_board(results, board))
    written = means.map(lambda mean: "–" if np.isnan(mean) else f"{mean:.3f}").reset_index(names="model")
    return _markdown(written) if style == "markdown" else _latex(written)


def figure(results: Sequence[Path], out: Path, board: str = "published") -> Path:
    """Draw a board in the layout of the paper's Figure 3b: a panel per benchmark, a box with points per row.

    Parameters
    ----------
    results : sequence of Path
    out : Path
        A .pdf, .svg or .png file, replaced atomically.
    board : str
        As in :func:`export`.

    Raises
    ------
    BadInput
        As :func:`export`, or another kind of file.
    """
    if out.suffix not in (".pdf", ".svg", ".png"):
        raise BadInput(f"--figure {out}: give a name that ends in .pdf, .svg or .png")
    chosen = _board(results, board)
    import seaborn
    from matplotlib.figure import Figure

    panels = len(chosen.columns)
    drawn = Figure(figsize=(4 + 3 * panels, 1 + 0.5 * len(chosen.rows)), layout="constrained")
    axes = drawn.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axis, column in zip(axes, chosen.columns, strict=True):
        scores = [(row, score) for row in chosen.rows for score in chosen.cell(row, column).scores]
        shown = pd.DataFrame(scores, columns=["model", "IoU"])
        seaborn.boxplot(shown, x="IoU", y="model", order=chosen.rows, color="0.85", fliersize=0, ax=axis)
        seaborn.stripplot(shown, x="IoU", y="model", order=chosen.rows, color="C0", jitter=False, ax=axis)
        axis.set(title=column.label, ylabel="")
    with replacing(out) as temporary:
        drawn.savefig(temporary, format=out.suffix[1:])
    return out


def _board(results: Sequence[Path], name: str) -> Board:
    trials, refused = table.read(results)
    if refused:
        raise BadInput(refused)
    boards = {each.slug: each for each in table.boards(trials)}
    if not boards:
        raise BadInput(f"{', '.join(map(str, results))}: no result files; run: embench run --results DIR")
    if name not in boards:
        raise unknown("board", name, boards)
    return boards[name]


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
