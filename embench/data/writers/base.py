"""What a written volume is: its values, and what they mean."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["labels", "probabilities", "doubt", "instances"]

DTYPES: dict[Kind, type[np.generic]] = {
    "labels": np.uint8,
    "probabilities": np.float32,
    "doubt": np.float32,
    "instances": np.uint32,
}

_SLAB_BYTES = 2**25


class Array(Protocol):
    """Values that are read piece by piece: a NumPy array, a Zarr array, an HDF5 dataset."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any) -> Any: ...


@dataclass(frozen=True)
class Layer:
    """A volume that is written, apart from its values.

    Parameters
    ----------
    kind : {"labels", "probabilities", "doubt", "instances"}
        ``labels``: class numbers uint8. ``probabilities``: float32 in 0..1, one channel a class (one channel in all
        for two classes: that of class 1). ``doubt``: float32 in 0..1. ``instances``: object numbers uint32, 0 is none.
    shape : tuple of int
        (Z, Y, X), or (C, Z, Y, X) for probabilities.
    classes : tuple of str
        Names by label value.
    voxel_size : tuple of float or None
        ZYX nanometres; ``None``: not known.
    description : str
        What made it, in a line.
    """

    kind: Kind
    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    voxel_size: tuple[float, float, float] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if len(self.shape) != (4 if self.kind == "probabilities" else 3) or 0 in self.shape:
            raise ValueError(f"{self.kind} of shape {self.shape}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored values."""
        return np.dtype(DTYPES[self.kind])

    @property
    def axes(self) -> str:
        """Their names, first to last."""
        return "CZYX"[-len(self.shape) :]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of probabilities."""
        if self.kind != "probabilities":
            return ()
        return self.classes[-1:] if self.shape[0] == 1 else self.classes

    @property
    def section_bytes(self) -> int:
        """Bytes of one section and channel."""
        return self.shape[-2] * self.shape[-1] * self.dtype.itemsize

    def slabs(self, array: Array) -> Iterator[NDArray[Any]]:
        """Yield the sections of one channel after the other, several (Z, Y, X) at a time."""
        step = max(1, _SLAB_BYTES // self.section_bytes)
        depth = self.shape[-3]
        leads: list[tuple[int, ...]] = [(channel,) for channel in range(self.shape[0])] if self.axes[0] == "C" else [()]
        for lead in leads:
            for z in range(0, depth, step):
                yield np.ascontiguousarray(array[(*lead, slice(z, z + step))], self.dtype)


def colour(value: int) -> tuple[int, int, int]:
    """Return the colour of a label value as red, green, blue in 0..255: distinct, and the same in every file."""
    if value < len(_OKABE_ITO):
        return _OKABE_ITO[value]
    red, green, blue = colorsys.hsv_to_rgb(value * 0.618034 % 1, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


_OKABE_ITO = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
