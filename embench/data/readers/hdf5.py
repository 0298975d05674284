"""HDF5."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import Stored, as_zyx, check_declared, only_one, sections_at_once


def open_hdf5(file: Path, inside: str | None) -> Stored:
    import h5py

    with h5py.File(file, "r") as root:
        name = inside or only_one(file, list(hdf5_volumes(root, file)))
        dataset = hdf5_dataset(root, name, file)
        shape, dtype = as_zyx(f"{file}:{name}", dataset.shape), dataset.dtype
        if dtype.kind not in "biuf":
            raise BadInput(f"{file}:{name}: {dtype}; expected numbers")
        check_declared(f"{file}:{name}", dataset.size * dtype.itemsize, dataset.id.get_storage_size())
        chunk = dataset.chunks[0] if dataset.chunks and dataset.ndim == 3 else 1
        resolution = dataset.attrs.get("resolution")
    voxel_size = None
    if resolution is not None and np.shape(resolution) == (3,):  # CREMI: nanometres, ZYX
        voxel_size = tuple(map(float, resolution))

    def read(start: int, stop: int) -> NDArray[Any]:
        with h5py.File(file, "r") as root:
            data = root[name]
            return data[start:stop] if data.ndim == 3 else data[:][None]

    return Stored(f"{file}:{name}", shape, dtype, read, sections_at_once(shape, dtype, chunk), voxel_size)  # type: ignore[arg-type]


def hdf5_volumes(root: Any, file: Path) -> Iterator[str]:
    """Yield the path of every two- or three-dimensional numeric dataset; refuse links to other files."""
    import h5py

    waiting = [("", root)]
    seen = {h5py.h5o.get_info(root.id).addr}
    while waiting:
        path, group = waiting.pop()
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise BadInput(f"{file}: {path}/{key} is a link to another file ({link.filename}); refused")
            if isinstance(link, h5py.SoftLink):
                continue
            found = group[key]
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(found, h5py.Group):
                waiting.append((f"{path}/{key}", found))
            elif isinstance(found, h5py.Dataset) and found.ndim in (2, 3) and found.dtype.kind in "biuf":
                yield f"{path}/{key}"


def hdf5_dataset(root: Any, name: str, file: Path) -> Any:
    """Return a dataset by path; refuse anything whose voxels are not in this very file."""
    import h5py

    group: Any = root
    for part in name.strip("/").split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise BadInput(f"{file}: no dataset {name}; it holds {', '.join(hdf5_volumes(root, file)) or 'none'}")
        if isinstance(link, h5py.ExternalLink):
            raise BadInput(f"{file}: {name} is a link to another file ({link.filename}); refused")
        group = group[part]
    if not isinstance(group, h5py.Dataset):
        raise BadInput(f"{file}: {name} is a group; name a dataset: {', '.join(hdf5_volumes(root, file)) or 'none'}")
    if group.external or group.is_virtual:
        raise BadInput(f"{file}: the voxels of {name} are in other files; refused")
    return group
