"""The static site: one folder that opens from ``file://`` and from any web host, and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embench.core import parallel
from leaderboard.site import overlays
from leaderboard.site.content import Content
from leaderboard.site.pages import writers
from leaderboard.site.writer import Site
from leaderboard.trials import Trial


def build(trials: Sequence[Trial], refused: Sequence[str], out: Path, data: Path | None = None) -> list[str]:
    """Write the site into ``out``; files already there with the same content are left alone, those of an earlier build
    that this one does not write are removed.

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
    content = Content(trials, refused)
    pictures = {
        column.key: overlays.make(column, content.by_column[column.key], out, data) for column in content.columns
    }
    faults = [fault for each in pictures.values() for fault in each.faults]
    pages = writers(content, pictures, faults)
    content.pairings.lines(content.rows[0])  # so that what all of them need is there before they part
    site = Site(out)
    written = {file for each in pictures.values() for file in each.files}
    for files in parallel.forked(site.write, pages):
        written.update(files)
    site.finish(written)
    return faults
