"""The static site: one folder that opens from ``file://`` and from any web host, and asks the network for nothing."""

from __future__ import annotations

import io
import re
import shutil
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray

from embench.files import write_atomic
from embench.results import ModelCard
from leaderboard import export, figures, sections, statistics, table, workers
from leaderboard.made import Arrays, Made, digest
from leaderboard.pairs import Pairings, said
from leaderboard.published import published_for
from leaderboard.statistics import Floats
from leaderboard.table import MEASURES, Board, Cell, Column, Measure, Trial

ASSETS = ("site.css", "site.js", "icon.svg")
_TEMPLATES = Path(__file__).parent / "templates"

Key = tuple[str, str]

MOST_IN_DIAGRAM = 24
SEED = 0
"""Of all bootstrap draws."""
FEW = 1000
"""Trials up to which a single process is quicker."""


@dataclass(frozen=True)
class Content:
    """Everything the pages are made from."""

    trials: Sequence[Trial]
    refused: Sequence[str]
    made: Made = field(default_factory=lambda: Made(Path()))

    @cached_property
    def record(self) -> str:
        """Digest of everything that pages are made from, pictures apart."""
        return digest([_records(self.trials), self.refused, list(self.facts.values())])

    @cached_property
    def boards(self) -> list[Board]:
        """Boards in reading order."""
        return table.boards(self.trials, self.cells)

    @cached_property
    def columns(self) -> list[Column]:
        """Every task under every fingerprint."""
        return table.columns_of(self.trials)

    @cached_property
    def cells(self) -> dict[tuple[str, tuple[str, str]], Cell]:
        """Trials by row and column."""
        return table.cells_of(self.trials)

    @cached_property
    def facts(self) -> dict[Key, list[Any]]:
        """Everything about a column that pages show."""
        return {
            column.key: [
                column.slug,
                column.label,
                column.synthetic,
                None if column.facts is None else asdict(column.facts),
            ]
            for column in self.columns
        }

    @cached_property
    def hours(self) -> dict[str, dict[str, float | None]]:
        """Hours of training by row."""
        return {row: _hours(trials) for row, trials in self.by_row.items()}

    @cached_property
    def by_column(self) -> dict[tuple[str, str], dict[str, Cell]]:
        """Rows and their trials by column."""
        found: dict[tuple[str, str], dict[str, Cell]] = {column.key: {} for column in self.columns}
        for (row, key), cell in sorted(self.cells.items(), key=lambda entry: entry[0]):
            found[key][row] = cell
        return found

    @cached_property
    def by_row(self) -> dict[str, list[Trial]]:
        """Trials by row."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(trial.row, []).append(trial)
        return found

    @cached_property
    def rankings(self) -> dict[tuple[str, Measure], pd.DataFrame]:
        """Ranking by board and measure."""
        return {
            (board.slug, measure): pd.DataFrame(self._figures["rank", board.slug, measure]).astype({"row": object})
            for board in self.boards
            for measure in MEASURES
        }

    def _drawn(self, board: Board, measure: Measure) -> dict[str, Arrays]:
        rows = board.ranked_by(measure)
        samples = [board.samples(row, measure) for row in rows]
        drawn = self.made.arrays(
            [["bootstrap", row, each] for row, each in zip(rows, samples, strict=True)],
            lambda k: table.bootstrap(rows[k], samples[k], SEED),
        )
        return dict(zip(rows, drawn, strict=True))

    @cached_property
    def standings(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Lines of the rankings by the protocol's score, by board and row."""
        return {
            board.slug: {str(line["row"]): line for line in _lines(self.rankings[board.slug, "score"])}
            for board in self.boards
        }

    @cached_property
    def rows(self) -> list[str]:
        """Every row, the ones that rank best on any board first: the order of the palette."""
        best: dict[str, int] = {}
        for board in self.boards:
            ranking = self.rankings[board.slug, "score"]
            for row, rank in zip(ranking["row"], ranking["rank"], strict=True):
                best[row] = min(rank, best.get(row, rank))
        return sorted({trial.row for trial in self.trials}, key=lambda row: (best.get(row, len(best) + 1), row))

    @cached_property
    def options(self) -> dict[str, tuple[str, str]]:
        """The HTML option of every row, before and after the place of its ``selected``."""
        return {row: (f'<option value="{escape(table.slug(row))}"', f">{escape(row)}</option>") for row in self.rows}

    @cached_property
    def pairs(self) -> dict[Measure, dict[Key, statistics.Pairs]]:
        """Every pair of rows compared over seeds, by measure and column; rows in the order of ``by_column``."""
        return {
            measure: {
                column.key: statistics.Pairs(**self._figures["pairs", measure, column.key]) for column in self.columns
            }
            for measure in MEASURES
        }

    @cached_property
    def pairings(self) -> Pairings:
        """The lines of the pairwise pages."""
        by_image = {key: (scores.shape[1], self._figures["images", key]["p"]) for key, scores in self._images.items()}
        return Pairings(self.columns, self.by_column, self.pairs["score"], by_image)

    @cached_property
    def _images(self) -> dict[Key, Floats]:
        """Scores of the rows of a column on its test images."""
        return {key: table.image_table(list(cells.values())) for key, cells in self.by_column.items()}

    @cached_property
    def _figures(self) -> dict[tuple[Any, ...], Arrays]:
        """What takes long, all of it shared out among the processors at once, the longest first."""
        asked: dict[tuple[Any, ...], tuple[Any, Callable[[], Arrays]]] = {}
        for board in self.boards:
            for measure in MEASURES:
                of = ["rank", measure, _of(board)]
                asked["rank", board.slug, measure] = of, partial(_ranked, board, measure, self._drawn(board, measure))
        for key, scores in self._images.items():
            asked["images", key] = ["images", scores], partial(_compared_by_image, scores)
        for measure in MEASURES:
            for key, cells in self.by_column.items():
                samples = [cell.values(measure) for cell in cells.values()]
                asked["pairs", measure, key] = ["pairs", samples], partial(_compared_by_seed, samples)
        work = list(asked.values())
        fewest = 2 if len(self.trials) > FEW else None
        return dict(zip(asked, self.made.arrays([of for of, _ in work], lambda k: work[k][1](), fewest), strict=True))


def _ranked(board: Board, measure: Measure, drawn: Mapping[str, Arrays]) -> Arrays:
    ranking = table.rank(board, SEED, measure=measure, drawn=drawn)
    return {str(name): values.to_numpy(str if name == "row" else None) for name, values in ranking.items()}


def _compared_by_image(scores: Floats) -> Arrays:
    return {"p": statistics.signed_rank_all(scores)}


def _compared_by_seed(samples: Sequence[Floats]) -> Arrays:
    return vars(statistics.compare_all(samples))


def build(trials: Sequence[Trial], refused: Sequence[str], out: Path, data: Path | None = None) -> list[str]:
    """Write the site into ``out``; files already there with the same content are left alone.

    Parameters
    ----------
    trials : sequence of Trial
    refused : sequence of str
        Result files left out, with reasons; the page lists them.
    out : Path
    data : Path, optional
        Folder of prepared files, for the raw test sections (default: the user's).

    Returns
    -------
    list of str
        Faults found on the way (section pictures that could not be used).
    """
    with Made(out) as made:
        content = Content(trials, refused, made)
        whole = digest([content.record, sections.sources(content.columns, trials, data)])
        faults = made.facts("site", whole)
        if faults is not None and made.is_whole():
            return list(faults)
        pictures = {
            column.key: sections.make(column, content.by_column[column.key], out, data) for column in content.columns
        }
        faults = [fault for each in pictures.values() for fault in each.faults]
        parts = _parts(content, pictures, faults)
        left = [part for part in parts if made.facts(part.name, part.key) is None]
        if left:
            content.pairings.lines(content.rows[0])  # so that what all of them need is there before they part
        site = _Site(out)
        for part, files in zip(left, workers.each(lambda part: site.write(part), left), strict=True):
            made.note(part.name, part.key, files)
        made.note("site", whole, [file for each in pictures.values() for file in each.files], faults)
        made.keep_only(["site", *(part.name for part in parts)])
    return faults


@dataclass(frozen=True)
class _Part:
    """A page or a file of its own: ``of`` is everything it is made from, ``write`` writes it and its downloads."""

    name: str
    of: Any
    write: Callable[[_Site], Any]

    @cached_property
    def key(self) -> str:
        """Digest of ``of``."""
        return digest(self.of)


def _parts(content: Content, pictures: dict[Key, sections.Sections], faults: list[str]) -> list[_Part]:
    def index(site: _Site) -> None:
        site.page("index.html", "index.html", **_index(content, site))

    def about(site: _Site) -> None:
        limits = {"fewest": table.FEWEST_SEEDS, "matters": table.THRESHOLD_MATTERS}
        site.page("about.html", "about.html", **limits, faults=faults, refused=content.refused)

    palette = figures.palette(content.rows)

    def assets(site: _Site) -> None:
        for name in ASSETS:
            site.put(name, (_TEMPLATES / name).read_bytes())

    def task(column: Column) -> _Part:
        name, shown = f"task/{column.slug}.html", pictures[column.key]
        cells = [[row, *_records(cell.trials)] for row, cell in content.by_column[column.key].items()]
        rows = [{**_row(content, row), "hours": None, "gpu_hours": None} for row, *_ in cells]
        of = [content.facts[column.key], cells, rows, asdict(shown)]
        return _Part(name, of, lambda site: site.page(name, "task.html", **_task(content, site, column, shown)))

    def model(row: str) -> _Part:
        name, trials = f"model/{table.slug(row)}.html", content.by_row[row]
        columns = [content.facts[column.key] for column in content.columns if row in content.by_column[column.key]]
        of = [row, _records(trials), columns, _standing_on_boards(content, row)]
        return _Part(name, of, lambda site: site.page(name, "model.html", **_model(content, row)))

    def downloads(row: str) -> _Part:
        def write(site: _Site) -> None:
            for trial in content.by_row[row]:
                site.copy(trial.path, _copy_of(trial))
            site.table(f"model-{table.slug(row)}", table.frame(content.by_row[row]))

        return _Part(f"model/{table.slug(row)}", [row, _records(content.by_row[row])], write)

    def compare(row: str) -> _Part:
        name = f"compare/{table.slug(row)}.html"
        of = [content.record, row]
        return _Part(name, of, lambda site: site.page(name, "compare.html", **_compare(content, row)))

    def board(board: Board) -> _Part:
        return _Part(f"data/{board.slug}", content.record, lambda site: _downloads(content, site, board))

    return [
        _Part("index.html", content.record, index),
        *map(task, content.columns),
        *map(board, content.boards),
        _Part("data/trials", content.record, lambda site: site.table("trials", table.frame(content.trials))),
        *map(model, content.rows),
        *map(downloads, content.rows),
        *map(compare, content.rows),
        _Part("palette.css", palette, lambda site: site.put("palette.css", palette)),
        _Part("about.html", [faults, list(content.refused)], about),
        _Part("assets", [], assets),
    ]


def _of(board: Board) -> list[Any]:
    """Return everything that a board's rankings are computed from."""
    cells = [[row, *key, *_records(cell.trials)] for (row, key), cell in board.cells.items()]
    return [[column.key for column in board.columns], cells]


def _records(trials: Iterable[Trial]) -> list[str]:
    return [trial.record for trial in trials]


# ---- pages


def _index(content: Content, site: _Site) -> dict[str, Any]:
    return {
        "boards": [_board(content, site, board) for board in content.boards],
        "refused": content.refused,
        "trials": len(content.trials),
        "tasks": [_column(column) for column in content.columns],
        "filters": _filters(content),
        "any_real": any(board.kind != "synthetic" for board in content.boards),
        "everything": site.paths("trials"),
    }


def _board(content: Content, site: _Site, board: Board) -> dict[str, Any]:
    ranked = {measure: _standing(content.rankings[board.slug, measure]) for measure in MEASURES}
    ranking = content.rankings[board.slug, "score"]
    order = _order(ranked["score"], board.rows)
    reference = export.row_of(board, export.BASELINE) or order[0]
    marks = {
        measure: {column.slug: _marks(content, column, order, measure) for column in board.columns}
        for measure in MEASURES
    }
    usual = Counter(len(cell.scores) for cell in board.cells.values()).most_common(1)[0][0]
    lines = [
        {
            **_row(content, row),
            "published": row in board.published_rows,
            "ranks": {measure: ranked[measure].get(row) for measure in MEASURES},
            "missing": {measure: board.missing(row, measure) for measure in MEASURES},
            "cells": [
                {
                    **board.cell(row, column).summary,
                    "diverged_seeds": board.cell(row, column).diverged,
                    "by": _by_measure(board.cell(row, column)),
                    "mark": _mark_words(marks["score"][column.slug], order, row, reference),
                    "column": column.slug,
                }
                for column in board.columns
            ],
        }
        for row in order
    ]
    published = [
        {
            "title": row.title,
            "source": row.source,
            "scores": [row.scores.get(column.task) for column in board.columns],
        }
        for row in published_for([column.task for column in board.columns])
    ]
    return {
        "slug": board.slug,
        "kind": board.kind,
        "title": board.title,
        "synthetic": board.kind == "synthetic",
        "columns": [_column(column) for column in board.columns],
        "rows": lines,
        "ranked": len(ranked["score"]),
        "image_tasks": int(ranking["image_tasks"].iloc[0]) if len(ranking) else 0,
        "usual": usual,
        "reference": reference,
        "references": order,
        "data": {"rows": order, "marks": marks},
        "diagram": _diagram(board, site, ranking),
        "published": published,
        "files": {
            **{name: site.paths(f"{board.slug}-{name}") for name in (*_RANKINGS.values(), "matrix")},
            **{name: site.paths(f"{board.slug}-{name}", readable=name in export.DIGITS) for name in export.LAYOUTS},
        },
    }


def _downloads(content: Content, site: _Site, board: Board) -> None:
    """Write the files of a board."""
    for measure, name in _RANKINGS.items():
        site.table(f"{board.slug}-{name}", content.rankings[board.slug, measure])
    ranked = content.standings[board.slug]
    matrix = [
        {
            "row": row,
            "task": column.task,
            "fingerprint": column.digest,
            "ranked": row in ranked,
            **board.cell(row, column).summary,
        }
        for row in _order(ranked, board.rows)
        for column in board.columns
    ]
    site.table(f"{board.slug}-matrix", pd.DataFrame(matrix))
    for layout, frame in export.LAYOUTS.items():
        name = f"{board.slug}-{layout}"
        if layout in export.DIGITS:
            site.layout(name, frame(board), export.DIGITS[layout])
        else:
            site.table(name, frame(board))


_RANKINGS: dict[Measure, str] = {"score": "ranking", "average_precision": "ranking-average-precision"}
"""Names of their files."""


def _order(ranked: Iterable[str], rows: Iterable[str]) -> list[str]:
    """Return the ranked rows, best first, and the others behind them."""
    return list(dict.fromkeys([*ranked, *rows]))


def _standing(ranking: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the lines of a ranking by row, best first, with letter of the tie group and bar of the intervals."""
    span = _span(ranking)
    return {
        line["row"]: {
            **line,
            "letter": _letters(line["group"]),
            "bar": figures.interval_bar(
                line["mean"], (line["low"], line["high"]), (line["image_low"], line["image_high"]), span
            ),
        }
        for line in _lines(ranking)
    }


def _lines(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dict("records")  # type: ignore[return-value]


def _by_measure(cell: Cell) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation over seeds of every measure."""
    found: dict[str, dict[str, float]] = {}
    for measure in MEASURES:
        values = cell.values(measure)
        found[measure] = {
            "mean": float(values.mean()) if len(values) else nan,
            "spread": float(values.std(ddof=1)) if len(values) > 1 else nan,
        }
    return found


def _task(content: Content, site: _Site, column: Column, pictures: sections.Sections) -> dict[str, Any]:
    cells = content.by_column[column.key]
    alone = Board("open", 0, (column,), {(row, column.key): cell for row, cell in cells.items()}, frozenset())
    drawn = {
        measure: {row: table.bootstrap(row, [cell.values(measure)], SEED) for row, cell in cells.items()}
        for measure in MEASURES
    }
    ranked = {
        measure: _standing(table.rank(alone, SEED, measure=measure, drawn=each)) for measure, each in drawn.items()
    }
    order = _order(ranked["score"], cells)
    reference = export.row_of(alone, export.BASELINE) or order[0]
    marks = {measure: {column.slug: _marks(content, column, order, measure)} for measure in MEASURES}
    spreads = table.intervals(cells, SEED, drawn["score"])
    lines = [
        {
            **_row(content, row),
            **cells[row].summary,
            "published": any(table.is_published_pairing(trial) for trial in cells[row].trials),
            **spreads.loc[row].to_dict(),
            "ranks": {measure: ranked[measure].get(row) for measure in MEASURES},
            "missing": {measure: alone.missing(row, measure) for measure in MEASURES},
            "mark": _mark_words(marks["score"][column.slug], order, row, reference),
            "classes": _class_scores(cells[row], column),
            "diagnostics": _diagnostics(cells[row], column),
        }
        for row in order
    ]
    boxes = [figures.Series(row, cells[row].scores.tolist(), cells[row].seeds) for row in order]
    converged = [curve for row in order if (curve := _curve(row, cells[row])) is not None]
    where = "synthetic data" if column.synthetic else "real data"
    curve_frame = pd.DataFrame(
        [
            {"row": row, "seed": trial.result.seed, "iteration": iteration, "score": score}
            for row in order
            for trial in cells[row].trials
            for iteration, score in trial.curve
        ],
        columns=["row", "seed", "iteration", "score"],
    )
    published = [
        {"title": row.title, "source": row.source, "score": row.scores[column.task]}
        for row in published_for([column.task])
    ]
    return {
        "column": _column(column),
        "facts": column.facts,
        "fingerprint": column.fingerprint,
        "classes": _scored_classes(column),
        "rows": lines,
        "reference": reference,
        "references": order,
        "data": {"rows": order, "marks": marks},
        "boxes": figures.box_plot(boxes, f"Scores on {column.label} over seeds ({where})"),
        "curves": figures.curves(converged, f"Score against iterations on {column.label} ({where})"),
        "published": published,
        "pictures": pictures,
        "viewer": _viewer(pictures, order),
        "legend": [
            {"name": name, "index": (label - 1) % 7} for label, name in enumerate(column.fingerprint.classes) if label
        ],
        "files": {
            "scores": site.table(
                f"{column.slug}-scores",
                pd.DataFrame(
                    [
                        {"row": row, "seed": trial.result.seed, "score": trial.score}
                        for row in order
                        for trial in cells[row].trials
                    ],
                    columns=["row", "seed", "score"],
                ),
            ),
            "table": site.table(
                f"{column.slug}-table",
                pd.DataFrame(
                    [
                        {
                            "row": line["label"],
                            **cells[line["label"]].summary,
                            **spreads.loc[line["label"]].to_dict(),
                            **line["classes"],
                        }
                        for line in lines
                    ]
                ),
            ),
            "curves": site.table(f"{column.slug}-curves", curve_frame),
            "classes": site.table(
                f"{column.slug}-classes",
                pd.DataFrame(
                    [
                        {"row": line["label"], "artefacts": line["artefacts"], **each}
                        for line in lines
                        for each in line["diagnostics"]
                    ]
                ),
            ),
            "sections": site.table(f"{column.slug}-sections", _section_scores(pictures)),
            "published": site.table(f"{column.slug}-published", pd.DataFrame(published)),
        },
    }


def _model(content: Content, row: str) -> dict[str, Any]:
    lines = []
    trials = content.by_row[row]
    for column in content.columns:
        cell = content.by_column[column.key].get(row)
        if cell is None:
            continue
        lines.append(
            {
                "column": _column(column),
                **cell.summary,
                "diverged_seeds": cell.diverged,
                "published": any(table.is_published_pairing(trial) for trial in cell.trials),
                "iterations": column.fingerprint.iterations,
                "seconds": _mean_or_nan([trial.result.seconds_training for trial in cell.trials]),
                "seconds_prediction": _mean_or_nan([trial.result.seconds_prediction for trial in cell.trials]),
                "memory": max(trial.result.peak_memory_bytes for trial in cell.trials),
                "command": table.command(cell.trials),
                "duplicates": _duplicates(cell.trials[-1].result.leakage),
                "recipe": cell.trials[0].result.recipe,
                "environment": cell.trials[0].result.environment,
                "seeds": [
                    {
                        "seed": trial.result.seed,
                        "score": trial.score,
                        "status": trial.result.status,
                        "message": trial.result.message,
                        "done": trial.result.iterations_done,
                        "file": _copy_of(trial),
                    }
                    for trial in cell.trials
                ],
            }
        )
    return {
        **{"row": _row(content, row)},
        "cards": _distinct([trial.result.model for trial in trials]),
        "tasks": lines,
        "standing": _standing_on_boards(content, row),
        "files": _Site.paths(f"model-{table.slug(row)}"),
    }


def _copy_of(trial: Trial) -> str:
    """Return where in the site a copy of the result file is."""
    return f"results/{'-'.join(trial.column)}/{table.slug(trial.row)}/seed-{trial.result.seed}.json"


def _standing_on_boards(content: Content, row: str) -> list[dict[str, Any]]:
    """Return the line of the row in every ranking that has it."""
    return [
        {
            "title": board.title,
            "slug": board.slug,
            "synthetic": board.kind == "synthetic",
            **{name: line[name] for name in _SHOWN},
        }
        for board in content.boards
        if (line := content.standings[board.slug].get(row)) is not None
    ]


_SHOWN = ("rank", "rank_low", "rank_high", "mean", "interquartile_mean", "interquartile_low", "interquartile_high")
"""Of a row's line in a ranking, on its own page."""


def _compare(content: Content, row: str) -> dict[str, Any]:
    """Everything about one row against every other, on the tasks that both have under one fingerprint."""
    lines, words = content.pairings.lines(row), content.pairings.words
    others = [other for other in content.rows if other != row]
    compared = {content.pairings.rows[k] for k in np.unique(lines["other"])}
    shown = next((other for other in others if other in compared), others[0] if others else None)
    tests = [] if shown is None else _against(lines, words, shown)
    return {
        "row": _row(content, row),
        "said": "There is no other model." if shown is None else said(row, shown, tests),
        "shown": shown,
        "firsts": _options(content.options, row),
        "seconds": _options({other: content.options[other] for other in others}, shown),
        "lines": tests,
        "words": words,
        **_packed(lines, words),
    }


def _against(lines: Mapping[str, NDArray[Any]], words: Mapping[str, Sequence[str]], other: str) -> list[dict[str, Any]]:
    chosen = np.flatnonzero(lines["other"] == words["other"].index(other))
    return [
        {name: words[name][value] if name in words else value for name, value in zip(lines, line, strict=True)}
        for line in zip(*(each[chosen].tolist() for each in lines.values()), strict=True)
    ]


def _options(options: Mapping[str, tuple[str, str]], chosen: str | None) -> Markup:
    """Return the options of a choice of rows. The pages have as many as there are pairs: a template takes longer."""
    return Markup(
        "".join(before + (" selected" if row == chosen else "") + after for row, (before, after) in options.items())
    )


def _packed(lines: Mapping[str, NDArray[Any]], words: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return a table as numbers for the page's script: as text it takes longer to write than to compute.

    ``fields`` are names with what their values are: a ``number`` (NaN for none), a ``count``, a ``flag`` or a ``text``
    (its place in the field's words). ``values`` has them field by field, little-endian, in base64.
    """
    fields, columns = [], []
    for name, values in lines.items():
        kind = "text" if name in words else {"b": "flag", "f": "number"}.get(values.dtype.kind, "count")
        fields.append((name, kind))
        columns.append(values.astype(_TYPES[kind]).tobytes())
    return {"fields": fields, "values": Markup(b64encode(b"".join(columns)).decode())}  # escaping would look at all


_TYPES = {"number": "<f8", "count": "<u4", "flag": "u1", "text": "<u2"}
"""As the page's script reads them."""


# ---- parts of pages


def _row(content: Content, row: str) -> dict[str, Any]:
    name, _, changed = row.partition("@")
    trials = content.by_row[row]
    card = trials[0].result.model
    return {
        "label": row,
        "name": name,
        "changed": changed.replace(",", ", "),
        "slug": table.slug(row),
        "title": card.title,
        "family": card.family,
        "pretraining": card.pretraining,
        "parameters": card.parameters or None,
        "licence": card.licence,
        **content.hours[row],
    }


def _hours(trials: Sequence[Trial]) -> dict[str, float | None]:
    """Return the hours that training took over all tasks and seeds, and those of them on a GPU.

    ``None`` where predictions were made elsewhere: nothing is known of their training.
    """
    if any(trial.result.status == "submitted" for trial in trials):
        return {"hours": None, "gpu_hours": None}
    seconds = [(trial.result.seconds_training, trial.result.environment.get("device")) for trial in trials]
    on_gpu = sum(each for each, device in seconds if str(device).startswith("cuda"))
    return {"hours": sum(each for each, _ in seconds) / 3600, "gpu_hours": on_gpu / 3600}


def _column(column: Column) -> dict[str, Any]:
    return {
        "label": column.label,
        "title": column.title,
        "slug": column.slug,
        "task": column.task,
        "digest": column.digest,
        "synthetic": column.synthetic,
        "iterations": column.fingerprint.iterations,
    }


def _scored_classes(column: Column) -> list[dict[str, Any]]:
    names = column.fingerprint.classes
    return [
        {"label": label, "name": names[label] if label < len(names) else str(label)}
        for label in column.fingerprint.scoring["classes"]
    ]


def _class_scores(cell: Cell, column: Column) -> dict[str, float]:
    finals = [trial.result.final for trial in cell.trials if trial.result.final is not None]
    return {
        f"iou {each['name']}": _mean_or_nan([final.class_iou.get(each["label"]) for final in finals])
        for each in _scored_classes(column)
    }


def _duplicates(leakage: dict[str, Any] | None) -> list[str]:
    """Return, one line per pair of sets, the test and training patches that stand in another set as well."""
    lines = []
    for name, found in (leakage or {}).items():
        if isinstance(found, dict) and {"patches", "exact", "near"} <= found.keys():
            lines.append(
                f"{name}: {found['exact']} exact and {found['near']} near duplicates of {found['patches']} patches"
            )
    if leakage and leakage.get("checked") is False:
        lines.append(f"{leakage.get('pretraining')}: not compared, its images were not at hand")
    if leakage and leakage.get("note"):
        lines.append(str(leakage["note"]))
    return lines


def _diagnostics(cell: Cell, column: Column) -> list[dict[str, Any]]:
    """Return the threshold-free figures per class, each a mean over seeds."""
    finals = [trial.result.final for trial in cell.trials if trial.result.final is not None]
    return [
        {
            "name": each["name"],
            "iou": _mean_or_nan([final.class_iou.get(each["label"]) for final in finals]),
            **{
                name: _mean_or_nan(
                    [(getattr(final.diagnostics, name, None) or {}).get(each["label"]) for final in finals]
                )
                for name in ("average_precision", "tuned_iou", "threshold", "largest_score")
            },
        }
        for each in _scored_classes(column)
    ]


def _curve(row: str, cell: Cell) -> figures.Curve | None:
    """Return the curve over the snapshots that every finished trial has."""
    finished = [dict(trial.curve) for trial in cell.trials if trial.score is not None]
    if not finished:
        return None
    iterations = sorted(set.intersection(*(set(each) for each in finished)))
    if not iterations:
        return None
    values = np.array([[each[i] for i in iterations] for each in finished])
    return figures.Curve(row, np.array(iterations), values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _section_scores(pictures: sections.Sections) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"item": section.item, "section": section.index, "row": row, "seed": each.seed, "iou": each.iou}
            for section in pictures.sections
            for row, each in section.predictions.items()
        ],
        columns=["item", "section", "row", "seed", "iou"],
    )


def _viewer(pictures: sections.Sections, order: Sequence[str]) -> dict[str, Any] | None:
    if not pictures.sections:
        return None
    rows = [row for row in order if any(row in section.predictions for section in pictures.sections)]
    return {
        "rows": rows,
        "sections": [
            {
                "item": section.item,
                "index": section.index,
                "image": section.image,
                "truth": section.truth,
                "step": section.step,
                "size": section.size,
                "predictions": {row: asdict(each) for row, each in section.predictions.items()},
            }
            for section in pictures.sections
        ],
    }


def _diagram(board: Board, site: _Site, ranking: pd.DataFrame) -> dict[str, Any] | None:
    """Return Friedman, Nemenyi and the critical-difference diagram where there are enough rows and tasks."""
    rows = list(ranking["row"])
    if not 3 <= len(rows) <= MOST_IN_DIAGRAM or len(board.columns) < 2:
        return None
    scores = np.array([[board.cell(row, column).mean for row in rows] for column in board.columns])
    test = statistics.friedman(scores)
    nemenyi = statistics.nemenyi(test.mean_ranks, len(board.columns))
    title = f"Mean ranks over {len(board.columns)} tasks: {board.title}"
    return {
        "p": test.p,
        "difference": test.critical_difference,
        "figure": figures.critical_difference(rows, test.mean_ranks, test.critical_difference, title),
        "rows": [
            {"label": row, "rank": rank, "p": found}
            for row, rank, found in zip(rows, test.mean_ranks.tolist(), nemenyi.tolist(), strict=True)
        ],
        "files": site.table(
            f"{board.slug}-mean-ranks",
            pd.DataFrame({"row": rows, "mean_rank": test.mean_ranks})
            .assign(friedman_p=test.p, critical_difference=test.critical_difference)
            .join(pd.DataFrame(nemenyi, columns=[f"nemenyi p against {row}" for row in rows])),
        ),
    }


def _marks(content: Content, column: Column, order: Sequence[str], measure: Measure) -> str:
    """Return one character per ordered pair of rows: the verdict of row i against row j at ``i * K + j``.

    ``2``/``1`` better with two stars or one, ``B``/``A`` worse, ``0`` not distinguished, ``t`` n too small, ``-`` no
    comparison.
    """
    cells = content.by_column[column.key]
    pairs = content.pairs[measure][column.key]
    codes = np.select(
        [
            np.isnan(pairs.p),
            pairs.smallest_p >= statistics.LEVEL,
            pairs.p >= statistics.LEVEL,
            pairs.delta > 0,
        ],
        ["-", "t", "0", np.where(pairs.p < 0.01, "2", "1")],
        np.where(pairs.p < 0.01, "B", "A"),
    )
    np.fill_diagonal(codes, "-")
    # A last line and column of nothing stand for rows without a trial here.
    padded = np.pad(codes, (0, 1), constant_values="-")
    place = {row: k for k, row in enumerate(cells)}
    chosen = [place.get(row, len(cells)) for row in order]
    return "".join(padded[np.ix_(chosen, chosen)].ravel().tolist())


MARKS = {
    "2": ("▲**", "better, p < 0.01"),
    "1": ("▲*", "better, p < 0.05"),
    "B": ("▼**", "worse, p < 0.01"),
    "A": ("▼*", "worse, p < 0.05"),
    "0": ("ns", "not distinguished"),
    "t": ("n!", "n too small to tell"),
    "-": ("", ""),
}
"""Sign and words of every mark; the script of the page has the same table from the page itself."""


def _mark_words(marks: str, order: Sequence[str], row: str, reference: str) -> tuple[str, str]:
    return MARKS[marks[order.index(row) * len(order) + order.index(reference)]]


def _filters(content: Content) -> dict[str, list[str]]:
    cards = [trial.result.model for trial in content.trials]
    return {
        "family": sorted({card.family for card in cards}),
        "pretraining": sorted({card.pretraining for card in cards}),
        "licence": sorted({card.licence for card in cards}),
    }


def _span(ranking: pd.DataFrame) -> tuple[float, float]:
    if ranking.empty:
        return 0.0, 1.0
    values = ranking[["mean", "low", "high", "image_low", "image_high"]].to_numpy(float)
    return float(np.nanmin(values)), float(np.nanmax(values))


def _letters(group: int) -> str:
    """Return A, B, … Z, AA, … for 1, 2, …"""
    name = ""
    while group:
        group, rest = divmod(group - 1, 26)
        name = chr(65 + rest) + name
    return name


def _mean_or_nan(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else nan


def _distinct(cards: Sequence[ModelCard]) -> list[ModelCard]:
    objects = {id(card): card for card in cards}  # trials of a model on a task share theirs
    return list({card.model_dump_json(): card for card in objects.values()}.values())


# ---- writing


class _Site:
    """The folder being written."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._files: list[str] = []
        self._templates = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "score": _score,
            "count": _count,
            "duration": _duration,
            "memory": _memory,
            "p": statistics.as_text,
            "described": _described,
            "breakable": _breakable,
        }
        self._templates.globals |= {"MARKS": MARKS, "MEASURES": MEASURES}

    def write(self, part: _Part) -> list[str]:
        """Write a part; return the names of its files."""
        self._files = []
        part.write(self)
        return self._files

    def put(self, name: str, content: bytes | str) -> None:
        """Write a file unless it is there already with this content."""
        self._files.append(name)
        path = self.out / name
        encoded = content.encode() if isinstance(content, str) else content
        if not path.is_file() or path.read_bytes() != encoded:
            write_atomic(path, encoded, durable=False)  # the next build compares, and writes it again

    def page(self, name: str, template: str, **context: Any) -> None:
        """Render a template; ``root`` leads from the page to the site's folder."""
        root = "../" * name.count("/")
        self.put(name, self._templates.get_template(template).render(root=root, page=name, **context))

    @staticmethod
    def paths(name: str, *, readable: bool = False) -> dict[str, str]:
        """Return where a table is in the site, and where it is written for reading."""
        return {kind: f"data/{name}.{kind}" for kind in ("csv", "json", *(("md", "tex") if readable else ()))}

    def table(self, name: str, frame: pd.DataFrame) -> dict[str, str]:
        """Write a table as CSV and JSON and return their paths in the site."""
        paths = self.paths(name)
        buffer = io.StringIO()
        texts = frame.select_dtypes(exclude=["number", "bool"]).columns
        harmless = {name: frame[name].map({value: _harmless(value) for value in set(frame[name])}) for name in texts}
        frame.assign(**harmless).to_csv(buffer, index=False, lineterminator="\n")
        self.put(paths["csv"], buffer.getvalue())
        self.put(paths["json"], frame.to_json(orient="records", double_precision=15, indent=0) + "\n")
        return paths

    def layout(self, name: str, frame: pd.DataFrame, digits: str) -> None:
        """Write a table in a layout of the paper: as it is in CSV and JSON, rounded in Markdown and LaTeX."""
        paths = self.paths(name, readable=True)
        self.put(paths["md"], export.written(frame, "markdown", digits))
        self.put(paths["tex"], export.written(frame, "latex", digits))
        self.table(name, frame.reset_index(names="model"))

    def copy(self, source: Path, name: str) -> str:
        """Copy a result file into the site unless an equally old one of its size is there."""
        self._files.append(name)
        path = self.out / name
        facts = source.stat()
        if not path.is_file() or (path.stat().st_size, path.stat().st_mtime_ns) != (facts.st_size, facts.st_mtime_ns):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, path)
        return name


def _harmless(value: Any) -> Any:
    """Keep a text from being run as a formula by a spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _score(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or isnan(value) else f"{value:.{digits}f}"


def _count(value: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {letter}"
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _memory(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _breakable(text: str) -> Markup:
    """Let a long name break after its joints, where words do not."""
    return Markup("<wbr>").join(re.split(r"(?<=[+_@,=-])", text))


def _described(facts: Mapping[Any, Any]) -> Markup:
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
