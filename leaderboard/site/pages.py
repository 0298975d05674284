"""What each template is given."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from embench.scoring.schema import ModelCard
from leaderboard import boards, paper
from leaderboard import ranking as ranking_module
from leaderboard.boards import Board, Cell, Column
from leaderboard.reference_scores import published_for
from leaderboard.site import charts, overlays
from leaderboard.site.content import SEED, Content, Key, lines
from leaderboard.site.writer import ASSETS, MARKS, TEMPLATES, Site
from leaderboard.stats import several
from leaderboard.stats import tests as statistics
from leaderboard.stats.pairwise import said
from leaderboard.trials import MEASURES, Measure, Trial, command, is_published_pairing, slug

MOST_IN_DIAGRAM = 24


def writers(
    content: Content, pictures: Mapping[Key, overlays.Sections], faults: Sequence[str]
) -> list[Callable[[Site], Any]]:
    """Return what writes the site, each a page or a few files."""

    def index(site: Site) -> None:
        site.page("index.html", "index.html", **index_page(content, site))

    def about(site: Site) -> None:
        limits = {"fewest": boards.FEWEST_SEEDS, "matters": boards.THRESHOLD_MATTERS}
        site.page("about.html", "about.html", **limits, faults=faults, refused=content.refused)

    def assets(site: Site) -> None:
        for name in ASSETS:
            site.put(name, (TEMPLATES / name).read_bytes())
        site.put("palette.css", charts.palette(content.rows))

    def trials(site: Site) -> None:
        site.table("trials", ranking_module.frame(content.trials))

    def task(column: Column, site: Site) -> None:
        site.page(f"task/{column.slug}.html", "task.html", **task_page(content, site, column, pictures[column.key]))

    def board(board: Board, site: Site) -> None:
        _downloads(content, site, board)

    def model(row: str, site: Site) -> None:
        site.page(f"model/{slug(row)}.html", "model.html", **model_page(content, row))
        for trial in content.by_row[row]:
            site.copy(trial.path, _copy_of(trial))
        site.table(f"model-{slug(row)}", ranking_module.frame(content.by_row[row]))

    def compare(row: str, site: Site) -> None:
        site.page(f"compare/{slug(row)}.html", "compare.html", **compare_page(content, row))

    return [
        index,
        *(partial(task, column) for column in content.columns),
        *(partial(board, each) for each in content.boards),
        trials,
        *(partial(model, row) for row in content.rows),
        *(partial(compare, row) for row in content.rows),
        assets,
        about,
    ]


# ---- pages


def index_page(content: Content, site: Site) -> dict[str, Any]:
    return {
        "boards": [_board(content, site, board) for board in content.boards],
        "refused": content.refused,
        "trials": len(content.trials),
        "tasks": [_column(column) for column in content.columns],
        "filters": _filters(content),
        "any_real": any(board.kind != "synthetic" for board in content.boards),
        "everything": site.paths("trials"),
    }


def _board(content: Content, site: Site, board: Board) -> dict[str, Any]:
    ranked = {measure: _standing(content.rankings[board.slug, measure]) for measure in MEASURES}
    ranking = content.rankings[board.slug, "score"]
    order = _order(ranked["score"], board.rows)
    reference = paper.row_of(board, paper.BASELINE) or order[0]
    marks = {
        measure: {column.slug: _marks(content, column, order, measure) for column in board.columns}
        for measure in MEASURES
    }
    usual = Counter(len(cell.scores) for cell in board.cells.values()).most_common(1)[0][0]
    lines = [
        {
            **board_row(content, row),
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
            **{name: site.paths(f"{board.slug}-{name}", readable=name in paper.DIGITS) for name in paper.LAYOUTS},
        },
    }


def _downloads(content: Content, site: Site, board: Board) -> None:
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
    for layout, frame in paper.LAYOUTS.items():
        name = f"{board.slug}-{layout}"
        if layout in paper.DIGITS:
            site.layout(name, frame(board), paper.DIGITS[layout])
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
            "bar": charts.interval_bar(
                line["mean"], (line["low"], line["high"]), (line["image_low"], line["image_high"]), span
            ),
        }
        for line in lines(ranking)
    }


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


def task_page(content: Content, site: Site, column: Column, pictures: overlays.Sections) -> dict[str, Any]:
    cells = content.by_column[column.key]
    alone = Board("open", 0, (column,), {(row, column.key): cell for row, cell in cells.items()}, frozenset())
    drawn = {
        measure: {row: ranking_module.bootstrap(row, [cell.values(measure)], SEED) for row, cell in cells.items()}
        for measure in MEASURES
    }
    ranked = {
        measure: _standing(ranking_module.rank(alone, SEED, measure=measure, drawn=each))
        for measure, each in drawn.items()
    }
    order = _order(ranked["score"], cells)
    reference = paper.row_of(alone, paper.BASELINE) or order[0]
    marks = {measure: {column.slug: _marks(content, column, order, measure)} for measure in MEASURES}
    spreads = ranking_module.intervals(cells, SEED, drawn["score"])
    lines = [
        {
            **board_row(content, row),
            **cells[row].summary,
            "published": any(is_published_pairing(trial) for trial in cells[row].trials),
            **spreads.loc[row].to_dict(),
            "ranks": {measure: ranked[measure].get(row) for measure in MEASURES},
            "missing": {measure: alone.missing(row, measure) for measure in MEASURES},
            "mark": _mark_words(marks["score"][column.slug], order, row, reference),
            "classes": _class_scores(cells[row], column),
            "diagnostics": _diagnostics(cells[row], column),
        }
        for row in order
    ]
    boxes = [charts.Series(row, cells[row].scores.tolist(), cells[row].seeds) for row in order]
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
        "boxes": charts.box_plot(boxes, f"Scores on {column.label} over seeds ({where})"),
        "curves": charts.curves(converged, f"Score against iterations on {column.label} ({where})"),
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


def model_page(content: Content, row: str) -> dict[str, Any]:
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
                "published": any(is_published_pairing(trial) for trial in cell.trials),
                "iterations": column.fingerprint.iterations,
                "seconds": _mean_or_nan([trial.result.seconds_training for trial in cell.trials]),
                "seconds_prediction": _mean_or_nan([trial.result.seconds_prediction for trial in cell.trials]),
                "memory": max(trial.result.peak_memory_bytes for trial in cell.trials),
                "command": command(cell.trials),
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
        **{"row": board_row(content, row)},
        "cards": _distinct([trial.result.model for trial in trials]),
        "tasks": lines,
        "standing": _standing_on_boards(content, row),
        "files": Site.paths(f"model-{slug(row)}"),
    }


def _copy_of(trial: Trial) -> str:
    """Return where in the site a copy of the result file is."""
    return f"results/{'-'.join(trial.column)}/{slug(trial.row)}/seed-{trial.result.seed}.json"


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


def compare_page(content: Content, row: str) -> dict[str, Any]:
    """Everything about one row against every other, on the tasks that both have under one fingerprint."""
    lines, words = content.pairings.lines(row), content.pairings.words
    others = [other for other in content.rows if other != row]
    compared = {content.pairings.rows[k] for k in np.unique(lines["other"])}
    shown = next((other for other in others if other in compared), others[0] if others else None)
    tests = [] if shown is None else _against(lines, words, shown)
    return {
        "row": board_row(content, row),
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


def board_row(content: Content, row: str) -> dict[str, Any]:
    name, _, changed = row.partition("@")
    trials = content.by_row[row]
    card = trials[0].result.model
    return {
        "label": row,
        "name": name,
        "changed": changed.replace(",", ", "),
        "slug": slug(row),
        "title": card.title,
        "family": card.family,
        "pretraining": card.pretraining,
        "parameters": card.parameters or None,
        "licence": card.licence,
        **content.hours[row],
    }


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


def _curve(row: str, cell: Cell) -> charts.Curve | None:
    """Return the curve over the snapshots that every finished trial has."""
    finished = [dict(trial.curve) for trial in cell.trials if trial.score is not None]
    if not finished:
        return None
    iterations = sorted(set.intersection(*(set(each) for each in finished)))
    if not iterations:
        return None
    values = np.array([[each[i] for i in iterations] for each in finished])
    return charts.Curve(row, np.array(iterations), values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _section_scores(pictures: overlays.Sections) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"item": section.item, "section": section.index, "row": row, "seed": each.seed, "iou": each.iou}
            for section in pictures.sections
            for row, each in section.predictions.items()
        ],
        columns=["item", "section", "row", "seed", "iou"],
    )


def _viewer(pictures: overlays.Sections, order: Sequence[str]) -> dict[str, Any] | None:
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


def _diagram(board: Board, site: Site, ranking: pd.DataFrame) -> dict[str, Any] | None:
    """Return Friedman, Nemenyi and the critical-difference diagram where there are enough rows and tasks."""
    rows = list(ranking["row"])
    if not 3 <= len(rows) <= MOST_IN_DIAGRAM or len(board.columns) < 2:
        return None
    scores = np.array([[board.cell(row, column).mean for row in rows] for column in board.columns])
    test = several.friedman(scores)
    nemenyi = several.nemenyi(test.mean_ranks, len(board.columns))
    title = f"Mean ranks over {len(board.columns)} tasks: {board.title}"
    return {
        "p": test.p,
        "difference": test.critical_difference,
        "figure": charts.critical_difference(rows, test.mean_ranks, test.critical_difference, title),
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
