"""Work cut into units that any number of processes share, each done once, and none twice after a kill.

A unit writes only what is its own, so that it can be repeated; the file that says it is done comes after its voxels.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embench.core import locks
from embench.core.errors import BadInput
from embench.core.files import explained, write_atomic
from embench.core.signals import Interrupt

_WAIT = 0.5
"""Seconds between looks at units that other processes have."""

Progress = Callable[[int], None]


class Work:
    """The folder in which a prediction keeps what it needs until it is complete.

    Parameters
    ----------
    folder : Path or None
        Made when absent; ``None``: everything is kept in memory, for this process alone.
    stop : Interrupt
        Looked at between units.
    """

    def __init__(self, folder: Path | None, stop: Interrupt) -> None:
        self.folder, self.stop = folder, stop
        self._done: set[str] = set()

    def begin(self, request: str) -> None:
        """Make the folder for ``request``, a JSON text; go on in one that is there for the same.

        Raises
        ------
        BadInput
            When it is there for another request.
        """
        if self.folder is None:
            return
        file = self.folder / "request.json"
        if file.exists():
            if file.read_text() != request:
                raise BadInput(
                    f"{self.folder}: what was begun here is another prediction (other weights, image or options); "
                    "give that command again to end it, or begin anew with --overwrite"
                )
            return
        write_atomic(file, request)

    def is_done(self, unit: str) -> bool:
        """Whether a unit is done, by whichever process; when the whole is, the folder is gone."""
        if self.folder is None:
            return unit in self._done
        return (self.folder / "done" / unit).exists() or not (self.folder / "request.json").exists()

    def each(
        self, units: Sequence[str], do: Callable[[str], None], done: Callable[[str], None] = lambda _: None
    ) -> None:
        """Do every unit that is not done, leaving out what other processes are at; return when all are done.

        Parameters
        ----------
        units : sequence of str
            Names, of which files are made.
        do : callable
            Does the unit of a name.
        done : callable
            Told of each unit that is done, by whomever and whenever.
        """
        waiting = list(units)
        while waiting:
            left = []
            for unit in waiting:
                self.stop.check()
                if self.is_done(unit) or self._once(unit, do):
                    done(unit)
                else:
                    left.append(unit)
            if len(left) == len(waiting):
                time.sleep(_WAIT)
            waiting = left

    def _once(self, unit: str, do: Callable[[str], None]) -> bool:
        if self.folder is None:
            do(unit)
            self._done.add(unit)
            return True
        try:
            with locks.claimed(self.folder / "claims" / unit):
                if not self.is_done(unit):
                    do(unit)
                    (self.folder / "done").mkdir(exist_ok=True)
                    (self.folder / "done" / unit).touch()
                return True
        except locks.Held:
            return False
        except OSError as error:
            raise explained(error, Path(error.filename or self.folder)) from None

    def array(self, name: str, shape: Sequence[int], dtype: np.dtype[Any], chunks: Sequence[int]) -> Any:
        """Return an array that lives as long as the work: made by the first process, opened by the others.

        Whole chunks may be written by several processes at a time.
        """
        import zarr

        def create() -> Any:
            store: Any = zarr.storage.MemoryStore() if self.folder is None else str(self._path(name))
            codec = zarr.codecs.BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle")
            sides = tuple(min(chunk, side) for chunk, side in zip(chunks, shape, strict=True))
            group = zarr.create_group(store, overwrite=True)
            return group.create_array("0", shape=tuple(shape), dtype=dtype, chunks=sides, compressors=codec)

        return self.made(name, self._path(name), create)

    def made(self, name: str, path: Path | None, create: Callable[[], Any]) -> Any:
        """Return the array ``0`` of the group at ``path``, made with ``create`` unless that was done."""
        if path is None or self.folder is None:
            return create()
        import zarr

        self.each([f"made-{name}"], lambda _: create())
        return zarr.open_group(str(path), mode="r+")["0"]

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.zarr"

    def end(self) -> None:
        """Remove the folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
