"""Tools that are described here: ``external:NAME`` for ``external:FILE.toml``."""

from __future__ import annotations

from pathlib import Path

from embench.core.errors import BadInput
from embench.core.names import unknown
from embench.models import external

TOOLS = Path(__file__).parent / "tools"


def model(words: str) -> type[external.ExternalTool]:
    """Return the model called ``external:FILE.toml``, or ``external:NAME`` for one of :data:`TOOLS`.

    Raises
    ------
    BadInput
        An unknown name (with near ones), or as :func:`embench.models.external.model`.
    """
    if words.endswith(".toml") or "/" in words:
        return external.model(words)
    known = {path.stem: path for path in sorted(TOOLS.glob("*.toml"))}
    if words not in known:
        raise BadInput(f"{unknown('tool', words, known)} Or give external:FILE.toml")
    return external.model(str(known[words]))
