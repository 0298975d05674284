"""Croissant metadata (version 1.0) of a prepared task: what the file is, where it is from, what its labels mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from embench.core.files import sha256, write_atomic
from embench.data.store import Prepared
from embench.data.task import SPLITS

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(prepared: Prepared) -> dict[str, Any]:
    """Return the metadata of an open prepared task as JSON-LD.

    The images stand in one HDF5 file (``SPLIT/NAME/image`` and ``labels``, uint8 ZYX), named with its SHA-256. Two
    record sets hold the classes by label value, and the volumes with their split, sections and size.
    """
    task = prepared.task
    about = task.homepage or f"https://example.org/{task.dataset}"
    size = " x ".join(f"{length:g}" for length in task.voxel_size) + " nm (ZYX)" if task.voxel_size else "not known"
    volumes = [
        {
            "volumes/name": volume.name,
            "volumes/split": split,
            "volumes/sections": int(volume.image.shape[0]),
            "volumes/height": int(volume.image.shape[1]),
            "volumes/width": int(volume.image.shape[2]),
        }
        for split in SPLITS
        for volume in prepared.volumes(split)
    ]
    classes = [{"classes/value": value, "classes/name": name} for value, name in enumerate(task.classes)]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": task.name,
        "description": (
            f"{task.title}. {task.modality}. Voxel size {size}. Electron-microscopy images with a label for every "
            f"pixel, prepared by embench (content hash {prepared.hash})."
        ),
        "license": task.licence,
        "url": about,
        "citeAs": task.citation,
        "version": "1.0.0",
        "datePublished": _prepared_on(prepared.path),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": prepared.path.name,
                "name": prepared.path.name,
                "description": "HDF5: SPLIT/NAME/image and SPLIT/NAME/labels, uint8, axes ZYX",
                "contentUrl": prepared.path.name,
                "contentSize": f"{prepared.path.stat().st_size} B",
                "encodingFormat": "application/x-hdf5",
                "sha256": sha256(prepared.path),
            }
        ],
        "recordSet": [
            _records("classes", "Classes by label value.", {"value": "sc:Integer", "name": "sc:Text"}, classes),
            _records(
                "volumes",
                "Volumes of each split; a single image is a volume of one section.",
                {
                    "name": "sc:Text",
                    "split": "sc:Text",
                    "sections": "sc:Integer",
                    "height": "sc:Integer",
                    "width": "sc:Integer",
                },
                volumes,
            ),
        ],
    }


def write_croissant(path: Path, prepared: Prepared) -> None:
    """Write the metadata of an open prepared task."""
    write_atomic(path, json.dumps(croissant(prepared), indent=1) + "\n")


def _records(name: str, description: str, fields: dict[str, str], data: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": [
            {"@type": "cr:Field", "@id": f"{name}/{field}", "name": field, "description": field, "dataType": kind}
            for field, kind in fields.items()
        ],
        "data": data,
    }


def _prepared_on(path: Path) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
