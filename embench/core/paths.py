"""Where prepared data and caches stand."""

from __future__ import annotations

import os
from pathlib import Path

from embench.core.names import check_name


def data_folder() -> Path:
    """Return the folder of prepared data: ``EMBENCH_DATA``, or the user's data folder."""
    if folder := os.environ.get("EMBENCH_DATA"):
        return Path(folder)
    from platformdirs import user_data_path

    return user_data_path("embench")


def cache_folder() -> Path:
    """Return the folder of what only spares work: ``EMBENCH_CACHE``, or the user's cache folder.

    It is the user's own, apart from data and results, which come from others too: nothing in it travels with them.
    """
    if folder := os.environ.get("EMBENCH_CACHE"):
        return Path(folder)
    from platformdirs import user_cache_path

    return user_cache_path("embench")


def prepared_path(name: str, folder: Path | None = None) -> Path:
    """Return where the prepared file of a task or unlabelled set stands; raise :class:`BadInput` for no name."""
    return (folder or data_folder()) / f"{check_name(name)}.h5"
