"""The board for a paper, in the layouts of the RETINA paper: as a table, as data, or as a picture.

=============  ===========================================================================================
``table-1``    one line per row, one column per benchmark: means over seeds
``figure-3a``  score against iterations per benchmark: mean over seeds, band from the lowest to the highest
``figure-3b``  score of every seed per benchmark, as box plots
``figure-s1``  difference of the means from UNet-ResNet50 in percent (CREMI: from TransUNet)
=============  ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from embench.core.errors import BadInput
from embench.core.files import replacing
from embench.core.names import unknown
from leaderboard import boards as table
from leaderboard import trials as trials_module
from leaderboard.boards import Board
from leaderboard.stats import several

PEREZ = ("perez-lyso", "perez-mito", "perez-nuclei", "perez-nucleoli")
BASELINE, OTHERWISE = "unet-resnet50", "transunet"
"""What percent differences are taken from; the second where the first scores 0.000 (protocol 5: CREMI)."""
Layout = Literal["table-1", "figure-3a", "figure-3b", "figure-s1"]
Style = Literal["markdown", "latex", "csv", "json"]


def export(
    results: Sequence[Path],
    board: str = "published",
    style: Style = "markdown",
    layout: Layout = "table-1",
    runs: int | None = None,
) -> str:
    """Return a board as text in a layout of the paper.

    Parameters
    ----------
    results : sequence of Path
        Folders of result files.
    board : str
        ``published``, ``open``, ``synthetic``, or one of these with ``-2``, ``-3`` for further budgets or data.
    style : {"markdown", "latex", "csv", "json"}
        The first two round; the others have every digit.
    layout : {"table-1", "figure-3a", "figure-3b", "figure-s1"}
    runs : int, optional
        Take the first so many seeds of each row (the paper's Table 1: 3; default: all).

    Raises
    ------
    BadInput
        Unknown board, layout or style, no results, or result files that cannot be used.
    """
    for what, given, known in (("style", style, get_args(Style)), ("layout", layout, get_args(Layout))):
        if given not in known:
            raise unknown(what, given, known)
    frame = LAYOUTS[layout](_board(results, board, runs))
    if layout in DIGITS:
        return written(frame, style, DIGITS[layout])
    return written(frame.set_index("model"), style, "{:.3f}")


def table_1(board: Board) -> pd.DataFrame:
    """Return the mean over seeds per benchmark, shape (rows, benchmarks).

    Perez is the mean of its four tasks (protocol 1) where a row has all of them. NaN where a task lacks a finished
    trial. Ranked rows come first.
    """
    rows = _rows(board)
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


def figure_s1(board: Board) -> pd.DataFrame:
    """Return the difference of :func:`table_1` from a baseline in percent, shape (rows, benchmarks).

    The baseline is UNet-ResNet50; where it scores 0.000, as on CREMI, TransUNet, which the column then names. NaN
    where neither is there.
    """
    means = table_1(board)
    found: dict[str, list[float]] = {}
    for label in means.columns:
        scores = {str(row): float(mean) for row, mean in means[label].items()}
        baseline, otherwise = (row_of(board, model) or "" for model in (BASELINE, OTHERWISE))
        differences, against = several.percent_difference(scores, baseline, otherwise)
        title = f"{label} (from {against})" if against not in (baseline, None) else label
        found[title] = [differences.get(row, float("nan")) for row in scores]
    return pd.DataFrame(found, index=means.index)


def figure_3a(board: Board) -> pd.DataFrame:
    """Return model, task, iteration, mean, low, high, seeds: over the finished trials that have the snapshot."""
    lines: list[dict[str, Any]] = []
    for column in board.columns:
        for row in _rows(board):
            curves = [trial.curve for trial in board.cell(row, column).trials if trial.score is not None]
            for iteration in sorted({step for curve in curves for step, _ in curve}):
                scores = [score for curve in curves for step, score in curve if step == iteration]
                facts = {
                    "mean": sum(scores) / len(scores),
                    "low": min(scores),
                    "high": max(scores),
                    "seeds": len(scores),
                }
                lines.append({"model": row, "task": column.label, "iteration": iteration, **facts})
    return pd.DataFrame(lines, columns=["model", "task", "iteration", "mean", "low", "high", "seeds"])


def figure_3b(board: Board) -> pd.DataFrame:
    """Return model, task, seed, score of every finished trial."""
    lines = [
        (row, column.label, seed, float(score))
        for column in board.columns
        for row in _rows(board)
        for seed, score in zip(board.cell(row, column).seeds, board.cell(row, column).scores, strict=True)
    ]
    return pd.DataFrame(lines, columns=["model", "task", "seed", "score"])


LAYOUTS: dict[Layout, Callable[[Board], pd.DataFrame]] = {
    "table-1": table_1,
    "figure-3a": figure_3a,
    "figure-3b": figure_3b,
    "figure-s1": figure_s1,
}
DIGITS: dict[Layout, str] = {"table-1": "{:.3f}", "figure-s1": "{:+.1f}"}
"""Of the layouts with a line per row: how their fractions are written for reading."""


def figure(
    results: Sequence[Path],
    out: Path,
    board: str = "published",
    layout: Layout = "figure-3b",
    runs: int | None = None,
) -> Path:
    """Draw a board in the layout of a figure of the paper, a panel per benchmark.

    Parameters
    ----------
    results : sequence of Path
    out : Path
        A .pdf, .svg or .png file, replaced atomically.
    board, runs
        As in :func:`export`.
    layout : {"figure-3a", "figure-3b", "figure-s1"}

    Raises
    ------
    BadInput
        As :func:`export`, or another kind of file.
    """
    if out.suffix not in (".pdf", ".svg", ".png"):
        raise BadInput(f"--figure {out}: give a name that ends in .pdf, .svg or .png")
    if layout not in _DRAWN:
        raise BadInput(f"--layout {layout}: cannot be drawn; choose {', '.join(_DRAWN)}, or leave out --figure")
    chosen = _board(results, board, runs)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # No date in the file and the same ids: the same results give the same bytes.
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}[out.suffix]
    with mpl.rc_context({"svg.hashsalt": "embench"}):
        drawn = Figure(layout="constrained")
        _DRAWN[layout](drawn, chosen)
        with replacing(out) as temporary:
            drawn.savefig(temporary, format=out.suffix[1:], metadata=metadata)
    return out


_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#f0e442")
"""Okabe and Ito's palette, told apart by colour-blind readers."""


def _draw_curves(drawn: Any, board: Board) -> None:
    frame, rows = figure_3a(board), _rows(board)
    drawn.set_size_inches(1.5 + 3.2 * len(board.columns), 3.4 + 0.2 * len(rows))
    axes = drawn.subplots(1, len(board.columns), squeeze=False)[0]
    styles = ("-", "--", ":", "-.")
    for axis, column in zip(axes, board.columns, strict=True):
        for k, row in enumerate(rows):
            points = frame[(frame["model"] == row) & (frame["task"] == column.label)]
            style, colour = styles[k // len(_COLOURS) % len(styles)], _COLOURS[k % len(_COLOURS)]
            axis.plot(points["iteration"], points["mean"], style, color=colour, marker=".", label=row)
            axis.fill_between(points["iteration"], points["low"], points["high"], color=colour, alpha=0.15, lw=0)
        axis.set(title=column.label, xlabel="iterations", ylabel="IoU", xlim=(0, None), ylim=(0, None))
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=max(1, len(axes)))


def _draw_boxes(drawn: Any, board: Board) -> None:
    import seaborn

    frame, rows = figure_3b(board), _rows(board)
    drawn.set_size_inches(4 + 3 * len(board.columns), 1 + 0.5 * len(rows))
    axes = drawn.subplots(1, len(board.columns), sharey=True, squeeze=False)[0]
    for axis, column in zip(axes, board.columns, strict=True):
        shown = frame[frame["task"] == column.label].rename(columns={"score": "IoU"})
        seaborn.boxplot(shown, x="IoU", y="model", order=rows, color="0.85", fliersize=0, ax=axis)
        seaborn.stripplot(shown, x="IoU", y="model", order=rows, color=_COLOURS[0], jitter=False, ax=axis)
        axis.set(title=column.label, ylabel="")


def _draw_differences(drawn: Any, board: Board) -> None:
    frame = figure_s1(board)
    drawn.set_size_inches(4 + 3 * len(frame.columns), 1 + 0.4 * len(frame))
    axes = drawn.subplots(1, len(frame.columns), sharey=True, squeeze=False)[0]
    for axis, label in zip(axes, frame.columns, strict=True):
        axis.barh(list(frame.index), frame[label], color=_COLOURS[0])
        axis.axvline(0, color="0.3", lw=1)
        axis.set(title=label, xlabel="difference, %")
    axes[0].invert_yaxis()


_DRAWN: dict[str, Callable[[Any, Board], None]] = {
    "figure-3a": _draw_curves,
    "figure-3b": _draw_boxes,
    "figure-s1": _draw_differences,
}


def written(frame: pd.DataFrame, style: Style, digits: str) -> str:
    """Return a table, one line per index entry, called ``model``; ``digits`` formats fractions for reading."""
    if style == "csv":
        return frame.rename_axis("model").to_csv(lineterminator="\n")
    if style == "json":
        return frame.reset_index(names="model").to_json(orient="records", double_precision=15, indent=1) + "\n"

    def text(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return "–" if np.isnan(value) else digits.format(value)

    shown = frame.map(text).reset_index(names="model")
    return _markdown(shown) if style == "markdown" else _latex(shown)


def row_of(board: Board, model: str) -> str | None:
    """Return the row of a model under its own recipe: as published where there is one, else the first by name."""
    own = [row for row in board.rows if row.partition("@")[0] == model]
    return model if model in own else next(iter(own), None)


def _rows(board: Board) -> list[str]:
    return [*board.ranked, *(row for row in board.rows if row not in board.ranked)]


def _board(results: Sequence[Path], name: str, runs: int | None) -> Board:
    if runs is not None and runs < 1:
        raise BadInput(f"--runs {runs}: must be at least 1")
    trials, refused = trials_module.read(results)
    if refused:
        raise BadInput(refused)
    boards = {each.slug: each for each in table.boards(trials)}
    if not boards:
        raise BadInput(f"{', '.join(map(str, results))}: no result files; run: embench run --results DIR")
    if name not in boards:
        raise unknown("board", name, boards)
    return boards[name] if runs is None else first_runs(boards[name], runs)


def first_runs(board: Board, runs: int) -> Board:
    """Return the board with the first so many seeds of every cell."""
    return replace(board, cells={key: table.Cell(cell.trials[:runs]) for key, cell in board.cells.items()})


def _markdown(shown: pd.DataFrame) -> str:
    lines = [list(shown.columns), ["---", *["---:"] * (shown.shape[1] - 1)], *shown.to_numpy().tolist()]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _latex(shown: pd.DataFrame) -> str:
    columns = "l" + "r" * (shown.shape[1] - 1)
    lines = [list(shown.columns), *shown.to_numpy().tolist()]
    head, *body = ("  " + " & ".join(_escaped(str(cell)) for cell in line) + " \\\\\n" for line in lines)
    parts = [f"\\begin{{tabular}}{{{columns}}}\n  \\toprule\n", head, "  \\midrule\n", *body]
    return "".join([*parts, "  \\bottomrule\n\\end{tabular}\n"])


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    special |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
    return "".join(special.get(letter, letter) for letter in text)
