"""The static site: one folder that opens from ``file://`` and from any web host, and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leaderboard.cache import parallel
from leaderboard.cache.site import Made, digest
from leaderboard.site import overlays
from leaderboard.site.content import Content
from leaderboard.site.pages import parts_of
from leaderboard.site.writer import Site
from leaderboard.trials import Trial


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
        whole = digest([content.record, overlays.sources(content.columns, trials, data)])
        faults = made.facts("site", whole)
        if faults is not None and made.is_whole():
            return list(faults)
        pictures = {
            column.key: overlays.make(column, content.by_column[column.key], out, data) for column in content.columns
        }
        faults = [fault for each in pictures.values() for fault in each.faults]
        parts = parts_of(content, pictures, faults)
        left = [part for part in parts if made.facts(part.name, part.key) is None]
        if left:
            content.pairings.lines(content.rows[0])  # so that what all of them need is there before they part
        site = Site(out)
        for part, files in zip(left, parallel.each(lambda part: site.write(part), left), strict=True):
            made.note(part.name, part.key, files)
        made.note("site", whole, [file for each in pictures.values() for file in each.files], faults)
        made.keep_only(["site", *(part.name for part in parts)])
    return faults
