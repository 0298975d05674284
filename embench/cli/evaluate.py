"""The verb evaluate: label maps of any tool against the truth."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from embench.core.console import print_table, showing
from embench.core.errors import BadInput
from embench.core.files import check_writable, write_atomic
from embench.scoring.evaluate import Evaluation
from embench.scoring.evaluate import evaluate as scored


def evaluate(
    prediction: Path, truth: Path, json_file: Path | None, csv_file: Path | None, voxel_size: str | None, **asked: Any
) -> None:
    """Score, print a table, and write what was asked for."""
    for file in filter(None, (json_file, csv_file)):
        check_writable(file.parent)
    found, notes = scored(
        prediction, truth, shown=partial(showing, "evaluate"), voxel_size=_numbers(voxel_size), **asked
    )
    for note in notes:
        print(note)
    print_table(*table(found))
    if json_file:
        write_atomic(json_file, json.dumps(found.as_json(), indent=1, allow_nan=False) + "\n")
    if csv_file:
        write_atomic(csv_file, as_csv(found))


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--voxel-size {text}: expected Z,Y,X in nanometres, as in 40,8,8") from None


def table(found: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Return head and rows: a metric a row, a class a column, the mean over images in each cell."""
    summary, undefined, count = found.summary(), found.undefined(), len(found.images)
    images = f"{count} image" + ("" if count == 1 else "s")
    rows = []
    for metric in found.metrics:
        unit = found.unit(metric)
        title = f"{metric.title} ({unit})" if unit else metric.title
        cells = []
        for name in found.classes:
            value, missing = summary[name][metric.name], undefined[name].get(metric.name, 0)
            shown = "undefined" if value is None else f"{value:.4f}" if unit != "nm" else f"{value:.1f}"
            cells.append(f"{shown} ({count - missing} of {count})" if missing and value is not None else shown)
        rows.append([title, "higher" if metric.higher_is_better else "lower", *cells])
    return [f"mean over {images}", "better", *found.classes], rows


def as_csv(found: Evaluation) -> str:
    """Return a row per image and class, a column per metric; the last rows are the means."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["image", "class", *(metric.name for metric in found.metrics)])
    for image, classes in [*found.per_image().items(), ("mean", found.summary())]:
        for name in found.classes:
            lines.writerow([_harmless(image), _harmless(name), *_cells(found, classes[name])])
    return text.getvalue()


def _cells(found: Evaluation, scores: dict[str, float | None]) -> Sequence[str]:
    values = (scores[metric.name] for metric in found.metrics)
    return ["" if value is None else repr(float(value)) for value in values]


def _harmless(text: str) -> str:
    """Return a name that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
