"""Formats that are one file: written section by section from values that are already all there, then put in place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from embench.core.errors import BadInput
from embench.core.files import replacing
from embench.data.writers.base import Array, Layer


def write_png(path: Path, layer: Layer, array: Array) -> None:
    """One section: labels as their grey values, instances as 16-bit grey; 0..1 becomes 0..255."""
    from PIL import Image

    if layer.shape[:-2] not in ((1,), (1, 1)):
        raise BadInput(f"{path}: a PNG holds one section, not {layer.shape}; use .tif, .zarr, or a folder")
    (section,) = next(layer.slabs(array))
    if layer.dtype.kind == "f":
        section = (section * 255).round().astype(np.uint8)
    elif layer.kind == "instances":
        if section.max() > np.iinfo(np.uint16).max:
            raise BadInput(f"{path}: {section.max()} objects; a PNG holds {np.iinfo(np.uint16).max}: use .tif")
        section = section.astype(np.uint16)
    with replacing(path) as temporary:
        Image.fromarray(section).save(temporary, format="PNG")


def write_tiff(path: Path, layer: Layer, array: Array) -> None:
    """One page a section; ``.ome.tif`` with OME's XML: axes, voxel size, channels."""
    import tifffile

    is_ome = path.name.lower().endswith((".ome.tif", ".ome.tiff"))
    shape, axes = layer.shape, layer.axes
    facts: dict[str, Any] = {"axes": axes}
    size = layer.voxel_size
    if is_ome:
        if size:
            for axis, length in zip("ZYX", size, strict=True):
                facts |= {f"PhysicalSize{axis}": length, f"PhysicalSize{axis}Unit": "nm"}
        facts |= {"Name": layer.kind, "Description": _facts(layer)}
        if layer.channels:
            facts["Channel"] = {"Name": list(layer.channels)}
    else:
        facts |= {"kind": layer.kind, "classes": layer.classes, "voxel_size_nm": size, "made by": layer.description}
    per_centimetre = {"resolution": (1e7 / size[2], 1e7 / size[1]), "resolutionunit": "CENTIMETER"} if size else {}
    with replacing(path) as temporary:
        bytes_in_all = int(np.prod(shape)) * layer.dtype.itemsize
        with tifffile.TiffWriter(temporary, ome=is_ome, bigtiff=bytes_in_all > 2**31) as tiff:
            tiff.write(
                (section for slab in layer.slabs(array) for section in slab),
                shape=shape,
                dtype=layer.dtype,
                photometric="minisblack",
                compression="zlib",
                predictor=False,
                metadata=facts,
                **per_centimetre,  # type: ignore[arg-type]
            )


def write_nifti(path: Path, layer: Layer, array: Array) -> None:
    """X first, as NIfTI has it; voxel sizes in micrometres, the smallest unit that it knows."""
    import nibabel

    sides = layer.shape[:-4:-1] + layer.shape[:-3]
    header: Any = nibabel.Nifti1Header() if max(sides) < 2**15 else nibabel.Nifti2Header()
    header.set_data_shape(sides)
    header.set_data_dtype(layer.dtype)
    if layer.voxel_size:
        z, y, x = (length / 1000 for length in layer.voxel_size)
        header.set_xyzt_units("micron")
        header.set_zooms((x, y, z, 1.0)[: len(sides)])
        header.set_sform(np.diag([x, y, z, 1.0]), code="scanner")
    header["descrip"] = layer.description.encode("ascii", "replace")[:79]
    # without it a reader would scale by a factor that is not a number
    header["scl_slope"], header["scl_inter"], header["magic"] = 1, 0, header.single_magic
    header["vox_offset"] = header.single_vox_offset
    with replacing(path) as temporary, temporary.open("wb") as raw:
        is_compressed = path.name.lower().endswith(".gz")
        file: Any = (
            gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=3, mtime=0, filename="") if is_compressed else raw
        )
        file.write(header.binaryblock + bytes(header.single_vox_offset - len(header.binaryblock)))
        for slab in layer.slabs(array):
            file.write(slab.data)
        if is_compressed:
            file.close()


def write_hdf5(path: Path, layer: Layer, array: Array) -> None:
    """One dataset, called by what it is, with ``resolution`` in nanometres (ZYX) as CREMI's files have it."""
    import h5py

    chunks = (*(1 for _ in layer.shape[:-3]), 1, *(min(side, 512) for side in layer.shape[-2:]))
    with replacing(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        data = file.create_dataset(layer.kind, layer.shape, layer.dtype, chunks=chunks, compression="gzip")
        data.attrs["axes"] = layer.axes
        data.attrs["description"] = layer.description
        data.attrs["classes"] = list(layer.classes)
        if layer.voxel_size:
            data.attrs["resolution"] = layer.voxel_size
        z = 0
        flat = data if len(layer.shape) == 3 else None
        depth = layer.shape[-3]
        for slab in layer.slabs(array):
            channel, first = divmod(z, depth)
            where = slice(first, first + len(slab))
            if flat is not None:
                flat[where] = slab
            else:
                data[channel, where] = slab
            z += len(slab)


def write_mrc(path: Path, layer: Layer, array: Array) -> None:
    """Labels as signed bytes (mode 0), the rest as 32-bit floats (mode 2); voxel sizes in ångström."""
    import mrcfile

    if layer.axes == "CZYX" and layer.shape[0] > 1:
        raise BadInput(f"{path}: an MRC file holds one channel, not {layer.shape[0]}; use .zarr, .h5 or .ome.tif")
    if layer.kind == "instances":
        raise BadInput(f"{path}: MRC has no whole numbers large enough for objects; use .zarr, .h5 or .tif")
    mode = 0 if layer.kind == "labels" and len(layer.classes) <= 128 else 2 if layer.dtype.kind == "f" else 6
    with replacing(path) as temporary, mrcfile.new_mmap(temporary, layer.shape[-3:], mode, overwrite=True) as file:
        z = 0
        for slab in layer.slabs(array):
            file.data[z : z + len(slab)] = slab
            z += len(slab)
        if layer.voxel_size:
            depth, height, width = (10 * length for length in layer.voxel_size)
            file.voxel_size = (width, height, depth)
        file.set_volume() if layer.shape[-3] > 1 else None
        file.add_label(layer.description[:80])
        file.update_header_stats()


def _facts(layer: Layer) -> str:
    return json.dumps({"kind": layer.kind, "classes": layer.classes, "made by": layer.description})
