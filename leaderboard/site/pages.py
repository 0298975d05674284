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

from embench.scoring.evidence import measurement_of
from embench.scoring.metrics import metrics
from embench.scoring.metrics.recommended import RECOMMENDED
from embench.scoring.schema import ModelCard
from leaderboard import boards, measures, paper
from leaderboard import ranking as ranking_module
from leaderboard.boards import Board, Cell, Column
from leaderboard.reference_scores import published_for
from leaderboard.site import charts, overlays, ranking_charts
from leaderboard.site.content import SEED, Content, Key, lines
from leaderboard.site.writer import ASSETS, MARKS, TEMPLATES, Site
from leaderboard.stats import several
from leaderboard.stats.letters import MOST_ROWS
from leaderboard.stats.means import LEVEL
from leaderboard.stats.pairwise import said
from leaderboard.stats.ranking import OnTasks, Ranking
from leaderboard.stats.verdict import verdict
from leaderboard.trials import MEASURES, Measure, Trial, command, is_published_pairing, slug

MOST_IN_DIAGRAM = 24


def writers(
    content: Content, pictures: Mapping[Key, overlays.Sections], faults: Sequence[str]
) -> list[Callable[[Site], Any]]:
    """Return what writes the site, each a page or a few files."""

    def index(site: Site) -> None:
        site.page("index.html", "index.html", **index_page(content, site, pictures))

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


def index_page(content: Content, site: Site, pictures: Mapping[Key, overlays.Sections] | None = None) -> dict[str, Any]:
    return {
        "boards": [_board(content, site, board, pictures or {}) for board in content.boards],
        "refused": content.refused,
        "trials": len(content.trials),
        "tasks": [_column(column) for column in content.columns],
        "filters": _filters(content),
        "any_real": any(board.kind != "synthetic" for board in content.boards),
        "everything": site.paths("trials"),
    }


def _board(content: Content, site: Site, board: Board, pictures: Mapping[Key, overlays.Sections]) -> dict[str, Any]:
    trivial = content.trivial_on(board, pictures)
    ranked = {measure: _standing(content.rankings[board.slug, measure]) for measure in board.measures}
    ranking = content.rankings[board.slug, "score"]
    order = _order(ranked["score"], board.rows)
    reference = paper.row_of(board, paper.BASELINE) or order[0]
    marks = {
        measure: {column.slug: _marks(board.on_tasks(measure), column, order) for column in board.columns}
        for measure in board.measures
    }
    usual = Counter(len(cell.trials) for cell in board.cells.values()).most_common(1)[0][0]
    lines = [
        {
            **board_row(content, row),
            "published": row in board.published_rows,
            "ranks": {measure: ranked[measure].get(row) for measure in board.measures},
            "missing": {measure: board.missing(row, measure) for measure in board.measures},
            "cells": [
                {
                    **_cell(board, row, column),
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
        "budget": _budget(board.columns),
        "synthetic": board.kind == "synthetic",
        "measures": {measure: MEASURES[measure] for measure in board.measures},
        "rankings": {MEASURES[measure]: _ranking_file(measure) for measure in board.measures},
        "columns": [_column(column) for column in board.columns],
        "rows": lines,
        "ranked": len(ranked["score"]),
        "image_tasks": int(ranking["image_tasks"].iloc[0]) if len(ranking) else 0,
        "usual": usual,
        "reference": reference,
        "references": order,
        "data": {"rows": order, "marks": marks},
        "family": board.on_tasks().family,
        "given": _given(board, board.columns),
        "commits": _commits(board, board.columns),
        **_figures(board, board.slug, board.title, trivial),
        "below": _below(ranked["score"], trivial),
        "strips": [strip for column in board.columns if (strip := _strip(board, column, pictures.get(column.key)))],
        "diagram": _diagram(board, site, ranking),
        "published": published,
        "files": {
            **{name: site.paths(f"{board.slug}-{name}") for name in (*map(_ranking_file, board.measures), "matrix")},
            **{name: site.paths(f"{board.slug}-{name}") for name in ("pairs", "rank-frequency", "measures")},
            **{name: site.paths(f"{board.slug}-{name}", readable=name in paper.DIGITS) for name in paper.LAYOUTS},
        },
    }


def _figures(
    board: Board, slug: str, title: str, trivial: Mapping[str, float], column: Column | None = None
) -> dict[str, Any]:
    """Return the verdict on a ranking with its figures: of a board, or of one of its tasks."""
    ranking = board.ranking() if column is None else board.ranking_on(column)
    names = charts.brief(ranking.models)
    rows, ways = ranking_module.ways_to_rank(board, column)
    columns = board.columns if column is None else (column,)
    dots = [
        ranking_charts.Dot(
            row,
            mean.value,
            *mean.interval(),
            letters,
            board.cell(row, columns[0]).counted.tolist() if len(columns) == 1 else (),
        )
        for row, mean, letters in zip(ranking.models, ranking.means, ranking.letters, strict=True)
    ]
    leaders = {way.name: rows[int(np.argmin(way.ranks))] for way in ways[1:] if rows}
    shown = len(ranking.models) > 1
    frequency = ranking.frequency(np.random.default_rng(SEED)) if shown else np.ones((1, 1))
    return {
        "verdict": verdict(ranking, names, budget_of(columns), leaders),
        "rows_with_letters": MOST_ROWS,
        "pairs": ranking.family,
        "dots": ranking_charts.dot_plot(dots, trivial, f"Means and 95 % intervals: {title}") if dots else "",
        "map": ranking_charts.significance_map(
            ranking.models,
            ranking.p,
            ranking.differences.difference,
            ranking.too_small,
            f"Which rows differ: {title}",
        )
        if shown
        else "",
        "frequency": ranking_charts.rank_frequency(ranking.models, frequency, f"How often each rank is taken: {title}")
        if shown
        else "",
        "ways": ranking_charts.rank_lines(rows, ways, f"Ranks under every measure: {title}") if len(rows) > 1 else "",
        "left_out": [row for row in ranking.models if row not in rows],
    }


def _below(standing: Mapping[str, Mapping[str, Any]], trivial: Mapping[str, float]) -> dict[str, list[str]]:
    """Return which trivial predictions score as much as a row or more."""
    return {row: [name for name, value in trivial.items() if line["mean"] <= value] for row, line in standing.items()}


def _strip(board: Board, column: Column, pictures: overlays.Sections | None) -> dict[str, Any] | None:
    """Return a test section of a real task with the truth and what the leading rows predict; none without images."""
    if pictures is None:
        return None
    leading = board.ranking_on(column).models
    shown = [each for each in pictures.sections if each.image and each.truth and set(leading) & set(each.predictions)]
    if column.synthetic or not shown:
        return None
    section = shown[len(shown) // 2]
    rows = [row for row in leading if row in section.predictions][:3]
    names = charts.brief(rows)
    return {
        "column": _column(column),
        "item": section.item,
        "index": section.index,
        "size": section.size,
        "image": section.image,
        "truth": section.truth,
        "rows": [{"name": names[row], "label": row, **asdict(section.predictions[row])} for row in rows],
    }


def _cell(board: Board, row: str, column: Column) -> dict[str, Any]:
    """Return what the board shows of a row on a task."""
    cell, lacking = board.cell(row, column), board.lacking(row, column)
    return {
        **cell.summary,
        "runs": len(cell.trials) + (len(lacking) if cell.trials else 0),
        "failed_seeds": sorted([*cell.diverged, *(lacking if cell.trials else ())]),
        "by": {measure: _on_task(board, row, column, measure) for measure in board.measures},
    }


def _on_task(board: Board, row: str, column: Column, measure: Measure) -> dict[str, float]:
    """Return mean and standard deviation over seeds of a measure, failed runs at the worst."""
    sample = board.runs[measure].samples.get((row, column.task))
    if sample is None:
        return {"mean": nan, "spread": nan}
    spread = float(sample.scores.std(ddof=1)) if len(sample.scores) > 1 else nan
    return {"mean": float(sample.scores.mean()), "spread": spread}


def budget_of(columns: Sequence[Column]) -> str:
    """Return what is to be said of the training in a sentence: nothing where there is the protocol's."""
    short = [column for column in columns if column.facts and column.fingerprint.iterations < column.facts.iterations]
    if not short:
        return ""
    return f"{_budget(columns)}: early training"


def _budget(columns: Sequence[Column]) -> str:
    """Return the budget of tasks, as ``240 of the protocol's 1,000 iterations``."""
    if len(columns) != 1:
        short = sum(bool(each.facts and each.fingerprint.iterations < each.facts.iterations) for each in columns)
        whole = "the protocol's iterations" if not short else "fewer iterations than the protocol's"
        return whole if short in (0, len(columns)) else f"{whole} on {short} of {len(columns)} tasks"
    (column,) = columns
    done = column.fingerprint.iterations
    if column.facts is None or column.facts.iterations == done:
        return f"{done:,} iterations"
    return f"{done:,} of the protocol's {column.facts.iterations:,} iterations"


def _given(board: Board, columns: Sequence[Column]) -> list[str]:
    """Return the rows whose runs all start from one pre-trained checkpoint: what is said of them is said given it."""
    found = []
    for row in board.rows:
        trials = [trial for column in columns for trial in board.cell(row, column).trials]
        if len({trial.result.model.weights_hash for trial in trials} - {None}) == 1:
            found.append(row)
    return list(charts.brief(found).values())


def _commits(board: Board, columns: Sequence[Column]) -> list[str]:
    """Return the commits of trials without a revision, where there are several: their training may differ."""
    trials = [trial for column in columns for row in board.rows for trial in board.cell(row, column).trials]
    commits = {
        str(trial.result.environment.get("commit"))
        for trial in trials
        if not trial.result.fingerprint.training_revision and trial.result.environment.get("commit")
    }
    return sorted(commits) if len(commits) > 1 else []


def _downloads(content: Content, site: Site, board: Board) -> None:
    """Write the files of a board."""
    for measure in board.measures:
        site.table(f"{board.slug}-{_ranking_file(measure)}", content.rankings[board.slug, measure])
    _evidence(site, board, board.slug)
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


def _evidence(site: Site, board: Board, slug: str, column: Column | None = None) -> dict[str, dict[str, str]]:
    """Write what a verdict and its figures rest on, of a board or of one of its tasks; return the files."""
    ranking = board.ranking() if column is None else board.ranking_on(column)
    count = len(ranking.models)
    frequency = pd.DataFrame(
        ranking.frequency(np.random.default_rng(SEED)), columns=[f"rank {k + 1}" for k in range(count)]
    )
    frequency.insert(0, "row", list(ranking.models))
    rows, ways = ranking_module.ways_to_rank(board, column)
    measures = [
        {"way": way.name, "row": row, "rank": int(way.ranks[k]), "kendall_tau": way.tau}
        for way in ways
        for k, row in enumerate(rows)
    ]
    return {
        "pairs": site.table(f"{slug}-pairs", _pairs_table(ranking)),
        "rank-frequency": site.table(f"{slug}-rank-frequency", frequency),
        "measures": site.table(
            f"{slug}-measures", pd.DataFrame(measures, columns=["way", "row", "rank", "kendall_tau"])
        ),
    }


def _pairs_table(ranking: Ranking) -> pd.DataFrame:
    """Return every pair of a ranking: what the letters, the ranks, the map and the verdict rest on."""
    first, second = np.triu_indices(len(ranking.models), 1)
    low, high = ranking.differences.interval()
    better, same, worse = ranking.differences.rope()
    models = np.array(ranking.models, object)
    tables = {"difference": ranking.differences.difference, "low": low, "high": high, "p": ranking.differences.p}
    tables |= {"p_holm": ranking.p, "p_better": better, "p_same": same, "p_worse": worse}
    return pd.DataFrame(
        {
            "first": models[first],
            "second": models[second],
            **{name: table[first, second] for name, table in tables.items()},
            "different": ranking.different[first, second],
            "n_too_small": ranking.too_small[first, second],
        }
    )


def _ranking_file(measure: Measure) -> str:
    return "ranking" if measure == "score" else f"ranking-{measure.replace('_', '-')}"


def _order(ranked: Iterable[str], rows: Iterable[str]) -> list[str]:
    """Return the ranked rows, best first, and the others behind them."""
    return list(dict.fromkeys([*ranked, *rows]))


def _standing(ranking: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the lines of a ranking by row, best first, with the bar of its intervals."""
    span = _span(ranking)
    return {
        line["row"]: {
            **line,
            "bar": charts.interval_bar(
                line["mean"], (line["low"], line["high"]), (line["image_low"], line["image_high"]), span
            ),
        }
        for line in lines(ranking)
    }


def task_page(content: Content, site: Site, column: Column, pictures: overlays.Sections) -> dict[str, Any]:
    cells, board = content.by_column[column.key], content.board_of[column.key]
    ranked = {
        measure: _standing(ranking_module.rank(board, SEED, measure=measure, column=column))
        for measure in board.measures
    }
    order = _order(ranked["score"], cells)
    reference = next((row for row in order if row.partition("@")[0] == paper.BASELINE), order[0])
    trivial = content.trivial(column, pictures)
    tests = {measure: board.on_tasks(measure).only(column.task) for measure in board.measures}
    marks = {measure: {column.slug: _marks(tests[measure], column, order)} for measure in board.measures}
    spreads = ranking_module.spreads(board, column, order, SEED)
    lines = [
        {
            **board_row(content, row),
            **_cell(board, row, column),
            "published": any(is_published_pairing(trial) for trial in cells[row].trials),
            **spreads.loc[row].to_dict(),
            "ranks": {measure: ranked[measure].get(row) for measure in board.measures},
            "missing": {measure: board.missing_on(column, row, measure) for measure in board.measures},
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
        "measures": {measure: MEASURES[measure] for measure in board.measures},
        "advice": _advice(column),
        "metrics": _metrics(cells, order, column),
        "classes": _scored_classes(column),
        "budget": _budget([column]),
        "family": tests["score"].family,
        "given": _given(board, [column]),
        "commits": _commits(board, [column]),
        "neighbours": ranking_module.neighbours(list(cells.values())),
        **_figures(board, column.slug, column.label, trivial, column),
        "below": _below(ranked["score"], trivial),
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
            "metrics": site.table(f"{column.slug}-metrics", _metrics_frame(cells, order, column)),
            "sections": site.table(f"{column.slug}-sections", _section_scores(pictures)),
            **_evidence(site, board, column.slug, column),
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
        "families": content.pairings.families,
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


def _advice(column: Column) -> list[str]:
    """Return a sentence per class of known structure: which metrics to look at first, and why."""
    if column.facts is None:
        return []
    found = []
    labels = column.fingerprint.scoring["classes"]
    for label, structure in zip(labels, measurement_of(column.facts).structures, strict=False):
        names, reason = RECOMMENDED[structure]
        titles = " and ".join(metrics()[name].title for name in names)
        name = column.fingerprint.classes[label]
        found.append(f"{name} ({structure}): look first at {titles}, because {reason}.")
    return found


def _metrics_frame(cells: Mapping[str, Cell], order: Sequence[str], column: Column) -> pd.DataFrame:
    """Return a line per row, class and metric that results store: the mean over seeds of the means over images."""
    found = [
        {"row": row, "class": each["name"], "metric": name, "mean": mean, "n": len(values)}
        for row in order
        for each in _scored_classes(column)
        for name in metrics()
        if (
            values := [
                value
                for trial in cells[row].trials
                if trial.result.final is not None
                and (value := measures.metric_of(name, trial.result.final, each["label"])) is not None
            ]
        )
        and (mean := float(np.mean(values))) is not None
    ]
    return pd.DataFrame(found, columns=["row", "class", "metric", "mean", "n"])


def _metrics(cells: Mapping[str, Cell], order: Sequence[str], column: Column) -> dict[str, Any]:
    """Return the table of every stored metric: columns of metrics, and a line per row and class."""
    frame = _metrics_frame(cells, order, column)
    shown = [metric for name, metric in metrics().items() if (frame["metric"] == name).any()]
    by_line = frame.set_index(["row", "class", "metric"])["mean"].to_dict()
    lines = dict.fromkeys(zip(frame["row"], frame["class"], strict=True))
    return {
        "columns": [
            {"title": metric.title + (f" ({metric.unit})" if metric.unit else ""), "about": metric.description}
            for metric in shown
        ],
        "lines": [
            {"label": row, "class": name, "values": [by_line.get((row, name, metric.name), nan) for metric in shown]}
            for row, name in lines
        ],
    }


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
    if not 3 <= len(rows) <= MOST_IN_DIAGRAM:
        return None
    scores = ranking_module.benchmark_means(board, rows)
    if len(scores) < 2:
        return None
    test = several.friedman(scores)
    nemenyi = several.nemenyi(test.mean_ranks, len(scores))
    title = f"Mean ranks over {len(scores)} benchmarks: {board.title}"
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


def _marks(tests: OnTasks, column: Column, order: Sequence[str]) -> str:
    """Return one character per ordered pair of rows: the verdict of row i against row j at ``i * K + j``.

    ``2``/``1`` better with two stars or one, ``B``/``A`` worse, ``0`` not distinguished, ``t`` n too small, ``-`` no
    comparison.

    Parameters
    ----------
    tests : OnTasks
        The family that p is adjusted for.
    column : Column
        A task; nothing is compared on one that no row has the measure on.
    order : sequence of str
        Rows.
    """
    if column.task not in tests.tasks:
        return "-" * len(order) ** 2
    place = tests.tasks.index(column.task)
    here = ~np.isnan(tests.differences[place].difference.diagonal())
    p, better = tests.p[place], tests.differences[place].difference > 0
    codes = np.select(
        [~(here[:, None] & here), tests.too_small[place], p >= LEVEL, better],
        ["-", "t", "0", np.where(p < 0.01, "2", "1")],
        np.where(p < 0.01, "B", "A"),
    )
    np.fill_diagonal(codes, "-")
    at = {row: k for k, row in enumerate(tests.models)}
    chosen = [at[row] for row in order]
    return "".join(codes[np.ix_(chosen, chosen)].ravel().tolist())


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


def _mean_or_nan(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else nan


def _distinct(cards: Sequence[ModelCard]) -> list[ModelCard]:
    objects = {id(card): card for card in cards}  # trials of a model on a task share theirs
    return list({card.model_dump_json(): card for card in objects.values()}.values())
