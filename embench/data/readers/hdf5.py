"""HDF5: one dataset, in this very file. Axes named by ilastik or by dimension labels, and the HDF5 Image specification,
apply."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.data.readers.base import (
    Format,
    Palette,
    Stored,
    check_at_once,
    check_dense,
    find_axes,
    greys_of,
    looked_up,
    together,
    turned_round,
)

_MOST_AXES, _MOST_LINKS = 6, 16


def open_hdf5(file: Path, inside: str | None = None) -> Stored:
    """Open a dataset of an HDF5 file; without a name it must be the only volume."""
    import h5py

    with h5py.File(file, "r") as root:
        name = inside or only(file, list(hdf5_volumes(root, file)))
        where = f"{file}:{name}"
        dataset = hdf5_dataset(root, name, file)
        if dataset.dtype.kind not in "biuf":
            raise BadInput(f"{where}: {dataset.dtype}; expected numbers")
        axes = find_axes(where, dataset.shape, _names(where, dataset))
        check_storage(where, dataset)
        chunk = int(axes.in_zyx(dataset.chunks)[0]) if dataset.chunks else 1
        is_white_zero, palette = _image_class(where, root, dataset, file)
        voxel_size = _voxel_size(dataset)
        dtype = dataset.dtype.newbyteorder("=")
    greys = greys_of(palette) if palette else None
    is_mapped = greys is not None and not (greys == np.arange(len(greys))).all()
    bits = 1 if dtype.kind == "b" else 8 * dtype.itemsize
    if is_white_zero and dtype.kind not in "bu":
        raise BadInput(f"{where}: {dtype} values of which white is zero; save it as grey values")
    notes = []
    if is_white_zero:
        notes.append("turned round, as its attribute IMAGE_WHITE_IS_ZERO says")
    if is_mapped:
        notes.append("values are the greys of the palette, not the places in it")

    def read(start: int, stop: int) -> NDArray[Any]:
        with h5py.File(file, "r") as root:
            values = axes.arranged(hdf5_dataset(root, name, file)[axes.select(start, stop)])
        if is_white_zero:
            return turned_round(values, bits)
        return looked_up(values, greys, where) if is_mapped and greys is not None else values

    return Stored(
        where,
        axes.shape,
        np.dtype(np.uint8) if is_mapped else dtype,
        read,
        together(axes.shape, dtype, chunk),
        voxel_size,
        palette=palette if greys is None else None,
        notes=notes,
    )


def check_storage(where: object, dataset: Any) -> None:
    """Refuse a dataset whose chunks do not fit into memory, or that stores fewer bytes than its voxels need.

    Chunks that were never written hold the fill value: a file of few bytes may be a whole volume.
    """
    if dataset.chunks is None:
        check_dense(where, int(dataset.size) * dataset.dtype.itemsize, dataset.id.get_storage_size())
    else:
        shape = " x ".join(map(str, dataset.chunks))
        check_at_once(where, int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize, f"chunks of {shape}")


def hdf5_volumes(root: Any, file: Path) -> Iterator[str]:
    """Yield the path of every numeric dataset of two or three axes, axes of length 1 aside; refuse external links."""
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
            elif isinstance(found, h5py.Dataset) and found.dtype.kind in "biuf" and _is_volume(found.shape):
                yield f"{path}/{key}"


def _is_volume(shape: Sequence[int] | None) -> bool:
    return (
        shape is not None and 2 <= len(shape) <= _MOST_AXES and (len(shape) <= 3 or sum(n > 1 for n in shape) in (2, 3))
    )


def hdf5_dataset(root: Any, name: str, file: Path) -> Any:
    """Return a dataset by path; refuse anything whose voxels are not in this very file.

    Soft links are followed here, one part after another: those that HDF5 follows by itself may lead into other files.
    """
    import h5py

    group: Any = root
    waiting, links = [part for part in name.split("/") if part], 0
    while waiting:
        part = waiting.pop(0)
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) and part not in (".", "..") else None
        if link is None:
            raise BadInput(f"{file}: no dataset {name}; it holds {', '.join(hdf5_volumes(root, file)) or 'none'}")
        if isinstance(link, h5py.ExternalLink):
            raise BadInput(f"{file}: {name} is a link to another file ({link.filename}); refused")
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > _MOST_LINKS:
                raise BadInput(f"{file}: {name} is a link that leads to no dataset; refused")
            if link.path.startswith("/"):
                group = root
            waiting = [each for each in link.path.split("/") if each] + waiting
            continue
        group = group[part]
    if not isinstance(group, h5py.Dataset):
        raise BadInput(f"{file}: {name} is a group; name a dataset: {', '.join(hdf5_volumes(root, file)) or 'none'}")
    if group.external or group.is_virtual:
        raise BadInput(f"{file}: the voxels of {name} are in other files; refused")
    return group


def only(file: Path, names: Sequence[str]) -> str:
    """Return the one name; raise :class:`BadInput` that lists them otherwise."""
    if len(names) != 1:
        example = names[0] if names else "PATH"
        raise BadInput(f"{file}: expected one volume, found {list(names) or 'none'}; name it: {file.name}:{example}")
    return names[0]


def _names(where: str, dataset: Any) -> list[str] | None:
    """Return the names of the axes: of ilastik's axistags, or dimension labels."""
    tags = dataset.attrs.get("axistags")
    if isinstance(tags, str | bytes):
        try:
            names = [str(each["key"]) for each in json.loads(tags)["axes"]]
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{where}: its axistags cannot be read; remove them, or save it as (Z, Y, X)") from None
        return names
    labels = [each.label.lower() for each in dataset.dims] if dataset.ndim <= _MOST_AXES else []
    return labels if labels and all(labels) and {"x", "y"} <= set(labels) else None


def _image_class(where: str, root: Any, dataset: Any, file: Path) -> tuple[bool, Palette | None]:
    """Return what attributes of the HDF5 Image specification say: whether white is zero, and the palette."""
    import h5py

    about = dataset.attrs
    if _text(about.get("CLASS")) != "IMAGE":
        return False, None
    if (origin := _text(about.get("DISPLAY_ORIGIN"))) not in ("", "UL"):
        raise BadInput(f"{where}: its DISPLAY_ORIGIN is {origin}; save it with the first row at the top")
    is_white_zero = bool(np.any(about.get("IMAGE_WHITE_IS_ZERO", 0)))
    palette = None
    if _text(about.get("IMAGE_SUBCLASS")) == "IMAGE_INDEXED" and "PALETTE" in about:
        reference = np.ravel(about["PALETTE"])[0]
        if not isinstance(reference, h5py.Reference) or not reference:
            raise BadInput(f"{where}: its palette is no reference; save it as grey values or label values")
        colours = root[reference]
        if not isinstance(colours, h5py.Dataset) or colours.external or colours.is_virtual:
            raise BadInput(f"{where}: the palette is not in this file; refused")
        if colours.ndim != 2 or colours.shape[1] != 3 or not 0 < colours.shape[0] <= 65536 or colours.dtype != np.uint8:
            raise BadInput(f"{where}: a palette of {colours.dtype} {colours.shape}; expected uint8 (N, 3)")
        palette = tuple((int(r), int(g), int(b)) for r, g, b in colours[:])
    return is_white_zero, palette


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value) if isinstance(value, str) else ""


def _voxel_size(dataset: Any) -> tuple[float, float, float] | None:
    """Return what CREMI's attribute says: nanometres, ZYX."""
    resolution = dataset.attrs.get("resolution")
    if resolution is None or np.shape(resolution) != (3,):
        return None
    z, y, x = map(float, resolution)
    return z, y, x


FORMAT = Format("HDF5", (".h5", ".hdf5", ".hdf"), open_hdf5, has_inside=True)
