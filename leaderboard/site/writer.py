"""Writes pages, assets and downloads of a site."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import TypeAdapter

from embench.core import confined
from embench.core.errors import BadInput
from embench.core.files import write_atomic
from embench.scoring.results import content_of
from leaderboard import paper
from leaderboard.site.format import breakable, count, described, duration, harmless, memory, score
from leaderboard.stats import tests
from leaderboard.stats.power import in_words

ASSETS = ("site.css", "site.js", "icon.svg")
TEMPLATES = Path(__file__).parent / "templates"
FILES = "files.json"
"""Names of all files of a build, so that the next one can remove those that it does not write."""
_FILES = TypeAdapter(list[str])


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


MAX_BYTES = 64 * 2**20
"""Of the list of files."""


# ---- writing


def _holds(path: Path, below: Path, content: bytes) -> bool:
    """Whether a regular file there has this content already."""
    found = confined.status(path, below)
    if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != len(content):
        return False
    return confined.read(path, below, len(content)) == content


class Site:
    """The folder being written."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._files: list[str] = []
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "score": score,
            "count": count,
            "duration": duration,
            "memory": memory,
            "p": tests.as_text,
            "described": described,
            "seeds": in_words,
            "breakable": breakable,
        }
        self._templates.globals |= {"MARKS": MARKS}

    def write(self, writer: Callable[[Site], Any]) -> list[str]:
        """Let ``writer`` write here; return the names of its files."""
        self._files = []
        writer(self)
        return self._files

    def finish(self, written: Iterable[str]) -> None:
        """Remove the files of the build before that are not among ``written``, and note these for the next one."""
        now = sorted(written)
        try:
            before = _FILES.validate_json(confined.read(self.out / FILES, self.out, MAX_BYTES, "a list of files"))
        except (OSError, ValueError, BadInput):  # none, or not ours
            before = []
        for name in set(before).difference(now):
            with suppress(OSError, BadInput):  # a name that leads elsewhere is not ours
                confined.remove(self.out / name, self.out)
        self.put(FILES, json.dumps(now, indent=0) + "\n")

    def put(self, name: str, content: bytes | str) -> None:
        """Write a file unless it is there already with this content."""
        self._files.append(name)
        path = self.out / name
        encoded = content.encode() if isinstance(content, str) else content
        if not _holds(path, self.out, encoded):
            write_atomic(path, encoded, durable=False, below=self.out)  # the next build compares, and writes it again

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
        safe = {name: frame[name].map({value: harmless(value) for value in set(frame[name])}) for name in texts}
        frame.assign(**safe).to_csv(buffer, index=False, lineterminator="\n")
        self.put(paths["csv"], buffer.getvalue())
        self.put(paths["json"], frame.to_json(orient="records", double_precision=15, indent=0) + "\n")
        return paths

    def layout(self, name: str, frame: pd.DataFrame, digits: str) -> None:
        """Write a table in a layout of the paper: as it is in CSV and JSON, rounded in Markdown and LaTeX."""
        paths = self.paths(name, readable=True)
        self.put(paths["md"], paper.written(frame, "markdown", digits))
        self.put(paths["tex"], paper.written(frame, "latex", digits))
        self.table(name, frame.reset_index(names="model"))

    def copy(self, source: Path, name: str) -> str:
        """Copy a result file into the site, unless it is there already."""
        self.put(name, content_of(source))
        return name
