"""Figures as small SVG: coloured by the page's style sheets, so that they follow light and dark.

What belongs to a row carries its name as ``data-row``; a row's colour is the same on every page.

Every function returns an ``<svg>`` with a title and a description for screen readers. Text is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

WIDTH = 560
COLOURS = 8
"""How many rows have a colour of their own (``--c0`` … ``--c7`` in the style sheet); further ones are grey."""

_DASHES = ("none", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Series:
    """Scores of one row."""

    label: str
    scores: Sequence[float]
    seeds: Sequence[int] = ()


@dataclass(frozen=True)
class Curve:
    """Score against iteration: mean, lowest and highest over seeds, each of shape (snapshots,)."""

    label: str
    iterations: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def palette(rows: Sequence[str]) -> str:
    """Return the style sheet that gives the first of ``rows`` the colours, in this order.

    Apart from the pages, so that a new best row changes this file and not every page. Without a colour a row is a
    grey line without a band.
    """
    return "".join(
        f'[data-row="{_quoted(row)}"] {{ --row: var(--c{k}); --dash: {_DASHES[k // 2]}; --band: .14; }}\n'
        for k, row in enumerate(rows[:COLOURS])
    )


def box_plot(series: Sequence[Series], title: str, axis: str = "IoU") -> Markup:
    """Draw horizontal box plots with a point per seed: quartiles, median, whiskers to 1.5 IQR as seaborn's."""
    left, right, top, step = 14, 20, 8, 46
    height = top + step * len(series) + 44
    scale = Scale([score for each in series for score in each.scores], left, WIDTH - right)
    parts = [x_axis(scale, top, height - 40, axis)]
    for k, each in enumerate(series):
        middle = top + step * k + 32
        parts.append(text_at(left, middle - 16, short(each.label, 70), "start", full=each.label))
        if not len(each.scores):
            parts.append(text_at(left + 6, middle + 4, "no finished trial", "start", "muted"))
            continue
        scores = np.asarray(each.scores, float)
        q1, median, q3 = np.quantile(scores, [0.25, 0.5, 0.75])
        inside = scores[(scores >= q1 - 1.5 * (q3 - q1)) & (scores <= q3 + 1.5 * (q3 - q1))]
        a, b = scale(inside.min()), scale(inside.max())
        parts.append(
            f"<g {of_row(each.label)}>"
            f'<path class="line" d="M{a:.1f} {middle:.1f}H{scale(q1):.1f}M{scale(q3):.1f} {middle:.1f}H{b:.1f}'
            f'M{a:.1f} {middle - 6:.1f}v12M{b:.1f} {middle - 6:.1f}v12"/>'
            f'<rect class="box" x="{scale(q1):.1f}" y="{middle - 10:.1f}" '
            f'width="{max(1.0, scale(q3) - scale(q1)):.1f}" height="20"/>'
            f'<path class="median" d="M{scale(median):.1f} {middle - 10:.1f}v20"/>'
        )
        for n, score in enumerate(scores):
            seed = each.seeds[n] if n < len(each.seeds) else n
            # A fixed zigzag keeps equal scores apart and the file the same at every build.
            lift = (-5, 0, 5)[n % 3]
            parts.append(
                f'<circle class="point" cx="{scale(score):.1f}" cy="{middle + lift:.1f}" r="3.2">'
                f"<title>{escape(each.label)}, seed {seed}: {score:.4f}</title></circle>"
            )
        parts.append("</g>")
    described = "; ".join(
        f"{each.label}: median {np.median(each.scores):.3f} of {len(each.scores)} seeds, "
        f"from {min(each.scores):.3f} to {max(each.scores):.3f}"
        for each in series
        if len(each.scores)
    )
    return svg(WIDTH, height, title, described, parts)


def curves(series: Sequence[Curve], title: str, axis: str = "IoU") -> Markup:
    """Draw score against iteration: mean over seeds as a line, names at its end, their range as a band."""
    left, right, top = 42, 206, 26
    width = WIDTH + 60
    height = max(360, top + 50 + 15 * len(series))
    bottom = height - 44
    known = [each for each in series if len(each.iterations)]
    across = Scale([0, *(float(i) for each in known for i in each.iterations)], left, width - right, tight=True)
    up = Scale([value for each in known for value in (*each.low, *each.high)], bottom, top)
    parts = [x_axis(across, top, bottom, "iterations"), y_axis(up, left, width - right, axis)]
    for each in known:
        xs = [across(float(i)) for i in each.iterations]
        upper = [f"{x:.1f} {up(value):.1f}" for x, value in zip(xs, each.high, strict=True)]
        lower = [f"{x:.1f} {up(value):.1f}" for x, value in zip(xs, each.low, strict=True)]
        parts.append(f'<path class="band" {of_row(each.label)} d="M{"L".join(upper + lower[::-1])}Z"/>')
    for each in known:
        xs = [across(float(i)) for i in each.iterations]
        line = "L".join(f"{x:.1f} {up(value):.1f}" for x, value in zip(xs, each.mean, strict=True))
        parts.append(f'<g {of_row(each.label)}><path class="line mean" d="M{line}"/>')
        for x, iteration, value in zip(xs, each.iterations, each.mean, strict=True):
            parts.append(
                f'<circle class="dot" cx="{x:.1f}" cy="{up(value):.1f}" r="3">'
                f"<title>{escape(each.label)}, {iteration} iterations: {value:.4f}</title></circle>"
            )
        parts.append("</g>")
    names = brief([each.label for each in known])
    ends = spread_out([up(each.mean[-1]) for each in known], 15, top + 6, bottom)
    for each, y in zip(known, ends, strict=True):
        x = across(float(each.iterations[-1]))
        parts.append(
            f'<g {of_row(each.label)}><path class="leader" '
            f'd="M{x + 4:.1f} {up(each.mean[-1]):.1f}L{width - right + 14:.1f} {y:.1f}"/></g>'
        )
        parts.append(text_at(width - right + 18, y + 4, short(names[each.label], 22), "start", full=each.label))
    described = "; ".join(
        f"{each.label}: from {each.mean[0]:.3f} at {each.iterations[0]} to {each.mean[-1]:.3f} "
        f"at {each.iterations[-1]} iterations"
        for each in known
    )
    return svg(width, height, title, described, parts)


def interval_bar(
    middle: float, seeds: tuple[float, float], images: tuple[float, float], span: tuple[float, float]
) -> Markup:
    """Draw one mean with its two intervals on the scale of its table's column: seeds bold, test images thin.

    Hidden from screen readers: the cell has the figures.
    """
    width, height = 96, 16
    first, last = span

    def at(value: float) -> float:
        return 5 + (width - 10) * min(1.0, max(0.0, (value - first) / ((last - first) or 1.0)))

    lines = [
        f'<path class="{kind}" d="M{at(low):.1f} 8H{at(high):.1f}"/>'
        for kind, (low, high) in (("thin", images), ("line", seeds))
        if not isnan(low)
    ]
    return Markup(
        f'<svg class="interval" width="{width}" height="{height}" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<path class="rail" d="M5 8H{width - 5}"/>{"".join(lines)}'
        f'<circle class="dot" cx="{at(middle):.1f}" cy="8" r="3.6"/></svg>'
    )


def critical_difference(labels: Sequence[str], ranks: NDArray[np.float64], difference: float, title: str) -> Markup:
    """Draw Demsar's diagram: mean ranks on a line, bars joining rows closer than the critical difference."""
    order = np.argsort(ranks)
    half = (len(order) + 1) // 2
    width = 760
    left, right, top, step = 250, width - 250, 46, 24
    last = max(len(order), 2)

    def at(rank: float) -> float:
        return left + (right - left) * (rank - 1) / (last - 1)

    bars = _cliques(ranks[order], difference)
    base = top + 14 + 9 * len(bars)
    height = base + step * half + 16
    parts = [f'<path class="axis" d="M{left} {top}H{right}"/>']
    marks = range(1, last + 1) if last <= 12 else np.unique(np.linspace(1, last, 8).round().astype(int)).tolist()
    for rank in marks:
        parts.append(f'<path class="axis" d="M{at(rank):.1f} {top}v-5"/>')
        parts.append(text_at(at(rank), top - 9, str(rank), "middle", "muted"))
    reach = min(difference, last - 1)
    parts.append(f'<path class="median" d="M{left} 12H{at(1 + reach):.1f}M{left} 8v8M{at(1 + reach):.1f} 8v8"/>')
    parts.append(text_at(at(1 + reach) + 6, 16, f"critical difference {difference:.2f}", "start", "muted"))
    for k, (start, end) in enumerate(bars):
        y = top + 10 + 9 * k
        first, final = at(float(ranks[order[start]])), at(float(ranks[order[end]]))
        parts.append(f'<path class="clique" d="M{first - 4:.1f} {y}H{final + 4:.1f}"/>')
    for k, row in enumerate(order):
        x = at(float(ranks[row]))
        on_left = k < half
        y = base + step * (k if on_left else len(order) - 1 - k) + 8
        edge = left - 8 if on_left else right + 8
        parts.append(f'<path class="axis" d="M{x:.1f} {top}V{y:.1f}H{edge}"/>')
        name, rank = short(labels[row], 28), f"{ranks[row]:.2f}"
        if on_left:
            parts.append(text_at(edge - 6, y + 4, f"{name} {rank}", "end", full=labels[row]))
        else:
            parts.append(text_at(edge + 6, y + 4, f"{rank} {name}", "start", full=labels[row]))
    described = "; ".join(f"{labels[row]}: mean rank {ranks[row]:.2f}" for row in order)
    return svg(width, height, title, f"Critical difference {difference:.2f}. {described}", parts)


class Scale:
    """A linear axis with round ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, tight: bool = False) -> None:
        low, high = (min(values), max(values)) if len(values) else (0.0, 1.0)
        if high - low < 1e-6:
            low, high = low - 0.05, high + 0.05
        step = _round_step((high - low) / 5)
        first = np.floor(low / step) * step if not tight else low
        last = np.ceil(high / step) * step if not tight else high
        self.low, self.high, self.start, self.end = float(first), float(last), start, end
        start_tick = np.ceil((low if tight else first) / step)
        self.ticks = [float(tick) for tick in np.arange(start_tick, last / step + 1e-9) * step]
        self.digits = max(0, -int(np.floor(np.log10(step) + 1e-9)))

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (float(value) - self.low) / (self.high - self.low)

    def name(self, tick: float) -> str:
        """Return a tick's label, with as many digits as the step needs."""
        return f"{tick:.{self.digits}f}"


def _round_step(rough: float) -> float:
    power = 10 ** np.floor(np.log10(rough))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999))


def x_axis(scale: Scale, top: float, bottom: float, name: str) -> str:
    lines = "".join(f"M{scale(tick):.1f} {top}V{bottom}" for tick in scale.ticks)
    ticks = "".join(text_at(scale(tick), bottom + 17, scale.name(tick), "middle", "muted") for tick in scale.ticks)
    return f'<path class="grid" d="{lines}"/>{ticks}' + text_at(
        (scale.start + scale.end) / 2, bottom + 36, name, "middle", "muted"
    )


def y_axis(scale: Scale, left: float, right: float, name: str) -> str:
    lines = "".join(f"M{left} {scale(tick):.1f}H{right}" for tick in scale.ticks)
    ticks = "".join(text_at(left - 8, scale(tick) + 4, scale.name(tick), "end", "muted") for tick in scale.ticks)
    return f'<path class="grid" d="{lines}"/>{ticks}' + text_at(4, 14, name, "start", "muted")


def spread_out(wanted: list[float], gap: float, top: float, bottom: float) -> list[float]:
    """Move label heights apart so that none overlap, as little as needed, inside the figure where they fit."""
    order = np.argsort(wanted, kind="stable")
    placed = [0.0] * len(wanted)
    last = top - gap
    for k in order:
        last = placed[k] = max(wanted[k], last + gap)
    limit = bottom + gap
    for k in order[::-1]:
        limit = placed[k] = min(placed[k], limit - gap)
    return placed


def _cliques(ranks: NDArray[np.float64], difference: float) -> list[tuple[int, int]]:
    """Return the maximal runs of sorted ranks that lie within ``difference``, as first and last index."""
    found: list[tuple[int, int]] = []
    for start in range(len(ranks)):
        end = int(np.searchsorted(ranks, ranks[start] + difference, side="right")) - 1
        if end > start and (not found or end > found[-1][1]):
            found.append((start, end))
    return found


def text_at(x: float, y: float, text: str, anchor: str, style: str = "", full: str = "") -> str:
    inside = f"<title>{escape(full)}</title>" if full and full != text else ""
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{inside}{escape(text)}</text>'


def brief(rows: Sequence[str]) -> dict[str, str]:
    """Return rows without what they change of their recipe, where that leaves them distinct."""
    brief = {row: row.partition("@")[0] for row in rows}
    return brief if len(set(brief.values())) == len(brief) else {row: row for row in rows}


def short(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def of_row(row: str) -> str:
    return f'data-row="{escape(row)}"'


def _quoted(text: str) -> str:
    """Return the inside of a string of a style sheet."""
    return re.sub(r"[^\w-]", lambda found: f"\\{ord(found[0]):x} ", text)


def svg(width: float, height: float, title: str, description: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="figure" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )
