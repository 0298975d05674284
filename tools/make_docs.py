"""Build the documentation site from README and docs/: python tools/make_docs.py (needs the extra 'docs').

README becomes the first page. Links are those that work on a code host; here they are turned to where the pages stand.
A broken link ends the build.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "build" / "docs-source"
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "Makefile")


def main() -> int:
    """Gather the pages and build the site; return mkdocs' exit status."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE)
    (SOURCE / "index.md").write_text(_turned((ROOT / "README.md").read_text(), from_root=True))
    for name in BESIDE:
        if (ROOT / name).exists():
            text = (ROOT / name).read_text()
            (SOURCE / name).write_text(_turned(text, from_root=True) if name.endswith(".md") else text)
    for page in (ROOT / "docs").glob("**/*.md"):
        target = SOURCE / page.relative_to(ROOT / "docs")
        target.write_text(_turned(page.read_text(), from_root=False))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _turned(text: str, *, from_root: bool) -> str:
    """Turn links and pictures: README's to pages of docs/, and those of docs/ to README."""
    if from_root:
        return re.sub(r'(\]\(|src="|href=")docs/', r"\1", text)
    return text.replace("](../README.md", "](index.md").replace("](../", "](")


if __name__ == "__main__":
    raise SystemExit(main())
