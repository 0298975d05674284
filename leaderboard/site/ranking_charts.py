"""Figures of a ranking: its means and intervals, which rows differ, the ranks they take, and what the measure decides.

Small SVG like those of :mod:`leaderboard.site.charts`, with the same style sheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from leaderboard.site.charts import Scale, brief, of_row, short, spread_out, svg, text_at, x_axis
from leaderboard.stats.agreement import Way
from leaderboard.stats.means import Floats

MOST_ROWS = 40
"""Rows that a figure shows one by one."""
WIDTH = 760

SIGNIFICANCE = (
    "better, p < 0.01",
    "better, p < 0.05",
    "not distinguished",
    "worse, p < 0.05",
    "worse, p < 0.01",
    "n too small",
)
"""What a cell of the significance map says, in the order of its classes ``s0`` to ``s5``."""


@dataclass(frozen=True)
class Dot:
    """A row's mean with its interval, its letters, and the score of every seed where the ranking is of one task."""

    label: str
    mean: float
    low: float
    high: float
    letters: str
    scores: Sequence[float] = ()


def dot_plot(dots: Sequence[Dot], references: Mapping[str, float], title: str, axis: str = "IoU") -> Markup:
    """Draw means with their intervals, best first, and lines where trivial predictions and published scores lie."""
    shown = dots[:MOST_ROWS]
    names = brief([each.label for each in shown])
    left, right, top, step = 232, 60, 10.0 + 15 * len(references), 30.0
    height = top + step * len(shown) + 44
    values = [value for each in shown for value in (each.mean, each.low, each.high, *each.scores) if not isnan(value)]
    scale = Scale([*values, *references.values()], left, WIDTH - right)
    bottom = height - 42
    parts = [x_axis(scale, top, bottom, axis)]
    for place, (name, value) in enumerate(references.items()):
        y = 12.0 + 15 * place
        parts.append(f'<path class="reference" d="M{scale(value):.1f} {y + 4}V{bottom}"/>')
        anchor = "start" if scale(value) < WIDTH * 0.7 else "end"
        parts.append(
            text_at(scale(value) + (4 if anchor == "start" else -4), y, f"{name} {value:.3f}", anchor, "muted")
        )
    for k, each in enumerate(shown):
        y = top + step * k + step / 2
        parts.append(text_at(left - 12, y + 4, short(names[each.label], 30), "end", full=each.label))
        parts.append(f"<g {of_row(each.label)}>")
        parts += [f'<circle class="point" cx="{scale(score):.1f}" cy="{y:.1f}" r="2.6"/>' for score in each.scores]
        if not isnan(each.low):
            parts.append(f'<path class="line" d="M{scale(each.low):.1f} {y:.1f}H{scale(each.high):.1f}"/>')
        within = "" if isnan(each.low) else f" [{each.low:.3f}, {each.high:.3f}]"
        parts.append(
            f'<circle class="dot" cx="{scale(each.mean):.1f}" cy="{y:.1f}" r="5">'
            f"<title>{escape(each.label)}: {each.mean:.3f}{within}</title></circle></g>"
        )
        parts.append(text_at(WIDTH - right + 12, y + 4, each.letters, "start"))
    described = "; ".join(
        f"{each.label}: {each.mean:.3f}"
        + ("" if isnan(each.low) else f", 95 % interval {each.low:.3f} to {each.high:.3f}")
        + (f", letters {each.letters}" if each.letters else "")
        for each in shown
    )
    return svg(WIDTH, height, title, described, parts)


def significance_map(
    rows: Sequence[str], p: Floats, difference: Floats, too_small: NDArray[np.bool_], title: str
) -> Markup:
    """Draw rows against rows: what the adjusted p of every pair says of the row beside the cell.

    Cells of one kind are one path, so that a map of hundreds of rows stays small.
    """
    count = len(rows)
    named = count <= MOST_ROWS
    cell = 22.0 if count <= 20 else max(2.0, 440 / count)
    left, top = (220.0, 34.0) if named else (10.0, 10.0)
    known = np.nan_to_num(p, nan=1.0)
    kind = np.select(
        [too_small, known >= 0.05, (difference > 0) & (known < 0.01), difference > 0, known < 0.01], [5, 2, 0, 1, 4], 3
    )
    parts = []
    names = brief(rows)
    for k, row in enumerate(rows if named else ()):
        y = top + cell * k + cell / 2
        parts.append(text_at(left - 8, y + 4, f"{short(names[row], 26)}  {k + 1}", "end", full=row))
        parts.append(text_at(left + cell * k + cell / 2, top - 8, str(k + 1), "middle", "muted"))
    for place in range(len(SIGNIFICANCE)):
        own = (kind == place) & ~np.eye(count, dtype=bool)
        runs = [
            f"M{left + cell * start:g} {top + cell * row:g}h{cell * length:g}v{cell:g}h{-cell * length:g}z"
            for row, start, length in _runs(own)
        ]
        if runs:
            parts.append(f'<path class="s{place}" d="{"".join(runs)}"><title>{SIGNIFICANCE[place]}</title></path>')
    if cell >= 12:
        lines = "".join(
            f"M{left} {top + cell * k:g}h{cell * count:g}M{left + cell * k:g} {top}v{cell * count:g}"
            for k in range(count + 1)
        )
        parts.append(f'<path class="grid" d="{lines}"/>')
        signs = {0: "▲▲", 1: "▲", 2: "·", 3: "▼", 4: "▼▼", 5: "!"}
        for i, j in np.argwhere(~np.eye(count, dtype=bool)).tolist():
            x, y = left + cell * j + cell / 2, top + cell * i + cell / 2 + 4
            parts.append(f'<text class="cell" x="{x:g}" y="{y:g}" text-anchor="middle">{signs[int(kind[i, j])]}</text>')
    better = [
        f"{row} is better than {', '.join(rows[k] for k in np.flatnonzero(kind[i] <= 1).tolist())}"
        for i, row in enumerate(rows)
        if (kind[i] <= 1).any()
    ]
    described = ("; ".join(better) or "No two rows differ") if named else f"{count} rows; the file has every p"
    return svg(left + cell * count + 12, top + cell * count + 10, title, described, parts)


def rank_frequency(rows: Sequence[str], frequency: Floats, title: str) -> Markup:
    """Draw how often each row takes each rank; ``frequency`` (rows, ranks) sums to 1 along ranks."""
    count = min(len(rows), MOST_ROWS)
    names = brief(rows[:count])
    cell = 26.0 if count <= 20 else 14.0
    left, top = 220.0, 30.0
    parts = []
    for k, row in enumerate(rows[:count]):
        parts.append(text_at(left - 8, top + cell * k + cell / 2 + 4, short(names[row], 28), "end", full=row))
        if count <= 20 or not k % 5:
            parts.append(text_at(left + cell * k + cell / 2, top - 8, str(k + 1), "middle", "muted"))
        squares = []
        for rank in np.flatnonzero(frequency[k, :count] >= 0.005).tolist():
            share = float(frequency[k, rank])
            x, y = left + cell * rank, top + cell * k
            squares.append(
                f'<rect class="share" x="{x:g}" y="{y + 1:g}" width="{cell - 1:g}" height="{cell - 2:g}" '
                f'fill-opacity="{max(0.06, share):.2f}"><title>{escape(row)}: rank {rank + 1} in '
                f"{100 * share:.0f} %</title></rect>"
            )
        parts.append(f"<g {of_row(row)}>{''.join(squares)}</g>")
    parts.append(f'<path class="axis" d="M{left} {top}H{left + cell * count:g}"/>')
    described = "; ".join(
        f"{row}: rank {int(np.argmax(frequency[k])) + 1} most often, in {100 * float(frequency[k].max()):.0f} %"
        for k, row in enumerate(rows[:count])
    )
    return svg(left + cell * count + 12, top + cell * count + 12, title, described, parts)


def rank_lines(rows: Sequence[str], ways: Sequence[Way], title: str) -> Markup:
    """Draw the rank of every row under every way to rank, joined by a line; tau against the first way below."""
    shown = rows[:MOST_ROWS]
    names = brief(shown)
    left, right, top = 66, 220, 30
    across = (WIDTH - left - right) / max(1, len(ways) - 1)
    worst = max((int(way.ranks[k]) for way in ways for k in range(len(shown))), default=1)
    step = min(26.0, 520 / worst)
    bottom = top + step * worst
    xs = [left + across * place for place in range(len(ways))]
    parts = []
    for x, way in zip(xs, ways, strict=True):
        parts.append(f'<path class="grid" d="M{x:.1f} {top - 4}V{bottom:.1f}"/>')
        words = _broken(way.name, 14)
        for line, word in enumerate([*words, *([] if way is ways[0] else [f"τ {way.tau:.2f}"])]):
            parts.append(text_at(x, bottom + 18 + 14 * line, word, "middle", "muted"))
    ends = spread_out([top + step * (float(ways[-1].ranks[k]) - 0.5) for k in range(len(shown))], 14, top, bottom + 14)
    for k, row in enumerate(shown):
        ys = [
            top + step * (float(way.ranks[k]) - 0.5) + 3 * ((k % 3) - 1) * (len(set(way.ranks.tolist())) < len(rows))
            for way in ways
        ]
        points = "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<g {of_row(row)}><path class="line mean" d="M{points}"/>')
        for x, y, way in zip(xs, ys, ways, strict=True):
            said = f"{escape(row)}: rank {way.ranks[k]} by {escape(way.name)}"
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{said}</title></circle>')
        parts.append(f'<path class="leader" d="M{xs[-1] + 6:.1f} {ys[-1]:.1f}L{xs[-1] + 16:.1f} {ends[k]:.1f}"/></g>')
        parts.append(text_at(xs[-1] + 20, ends[k] + 4, short(names[row], 26), "start", full=row))
    described = "; ".join(
        f"{way.name}: {', '.join(f'{row} {way.ranks[k]}' for k, row in enumerate(shown))}" for way in ways
    )
    return svg(WIDTH, bottom + 70, title, described, parts)


def _runs(cells: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Return row, start and length of every unbroken run of true cells."""
    edges = np.diff(np.pad(cells.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    return list(zip(rows.tolist(), starts.tolist(), (ends - starts).tolist(), strict=True))


def _broken(words: str, letters: int) -> list[str]:
    """Break a name into lines between words."""
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + len(word) >= letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
