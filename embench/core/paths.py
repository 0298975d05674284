"""Where prepared data stand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from embench.core.names import check_name

if TYPE_CHECKING:
    pass


def data_folder() -> Path:
    """Return the folder of prepared data: ``EMBENCH_DATA``, or the user's data folder."""
    if folder := os.environ.get("EMBENCH_DATA"):
        return Path(folder)
    from platformdirs import user_data_path

    return user_data_path("embench")


def prepared_path(name: str, folder: Path | None = None) -> Path:
    """Return where the prepared file of a task or unlabelled set stands; raise :class:`BadInput` for no name."""
    return (folder or data_folder()) / f"{check_name(name)}.h5"
