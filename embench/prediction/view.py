"""A page on which predictions are looked at, over their images, section by section; it needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput
from embench.core.files import replacing, write_atomic
from embench.core.paths import prepared_path
from embench.data import writers
from embench.data.listing import Listing, is_image, natural
from embench.data.readers.open import open_volume
from embench.data.store import Prepared
from embench.data.writers.base import colour
from embench.prediction import batch
from embench.prediction.source import GreyRange, open_source
from embench.scoring import results
from embench.scoring.predictions import read_section, section_place

MOST_SECTIONS = 64
"""Evenly spread, of each image."""
LARGEST_SIDE = 1024
"""Pixels of a picture; larger sections are shown at every second, third, ... pixel."""

Labels = NDArray[np.uint8]


@dataclass
class _Page:
    """What is shown: sections with the pictures of each layer, as names of files beside the page."""

    folder: Path
    classes: tuple[str, ...] = ()
    sections: list[dict[str, Any]] = field(default_factory=list)

    def section(self, name: str, image: NDArray[np.uint8]) -> dict[str, Any]:
        """Add a section, and write its picture."""
        step = -(-max(image.shape) // LARGEST_SIDE)
        place = len(self.sections)
        self._save(image[::step, ::step], f"image-{place}.png")
        self.sections.append({"name": name, "image": f"image-{place}.png", "layers": {}, "step": step})
        return self.sections[-1]

    def layer(self, section: dict[str, Any], row: str, labels: Labels) -> None:
        """Write a label map over a section as a picture that is clear where there is background."""
        step = section["step"]
        values = labels[::step, ::step]
        table = np.array([(*colour(value), 255 if value else 0) for value in range(256)], np.uint8)
        name = f"{section['image'].removesuffix('.png')}-{len(section['layers'])}.png"
        self._save(table[values], name)
        shares = {self.classes[value]: float((values == value).mean()) for value in range(1, len(self.classes))}
        section["layers"][row] = {"picture": name, "shares": shares}

    def _save(self, picture: NDArray[np.uint8], name: str) -> None:
        from PIL import Image

        with replacing(self.folder / name, durable=False) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")


def write_page(
    paths: Sequence[Path],
    out: Path,
    *,
    image: Path | None = None,
    grey_range: GreyRange = None,
    data: Path | None = None,
) -> Path:
    """Write ``index.html`` and its pictures into a folder, and return its path.

    Parameters
    ----------
    paths : sequence of Path
        Label maps that ``embench predict`` wrote of one image (with their cards), or result files, whose kept sections
        are shown with the truth. All of one kind.
    out : Path
        A folder that is not there, or one of an earlier page.
    image : Path, optional
        What was predicted, where it is no longer where the card says.
    grey_range : tuple, "auto" or None
        Of that image, where it is not 8-bit.
    data : Path, optional
        The folder of prepared data, for the images of results.

    Raises
    ------
    BadInput
        Files of other kinds, without card or image, of other sizes; a folder of something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "index.html").exists():
        raise BadInput(f"{out}: holds other files; choose an empty folder")
    names = _distinct(paths)
    page = _Page(out)
    kinds = {_is_result(path) for path in paths}
    if kinds == {True}:
        _add_results(page, paths, names, data)
    elif kinds == {False}:
        _add_predictions(page, paths, names, image, grey_range)
    else:
        raise BadInput("view: results and predicted files; show them one kind at a time")
    from jinja2 import Environment, PackageLoader

    template = Environment(loader=PackageLoader("embench.prediction"), autoescape=True).get_template("view.html")
    key = [(name, "#{:02x}{:02x}{:02x}".format(*colour(value))) for value, name in enumerate(page.classes) if value]
    write_atomic(out / "index.html", template.render(sections=page.sections, key=key, names=list(names.values())))
    return out / "index.html"


def _is_result(path: Path) -> bool:
    if not path.exists():
        raise BadInput(f"{path}: no such file")
    return path.suffix == ".json"


def _distinct(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each, as short as tells them apart."""
    for parts in range(1, 8):
        names = {path: "/".join(path.parts[-parts:]) for path in paths}
        if len(set(names.values())) == len(names):
            break
    return names


def _add_predictions(
    page: _Page, paths: Sequence[Path], names: dict[Path, str], image: Path | None, grey_range: GreyRange
) -> None:
    cards = []
    for path in paths:
        try:
            cards.append(batch.read_card(path))
        except (OSError, ValueError):
            raise BadInput(f"{path}: no card {path.name}.json beside it; show what embench predict wrote") from None
    if differing := [path for path, card in zip(paths, cards, strict=True) if card["classes"] != cards[0]["classes"]]:
        raise BadInput(f"{differing[0]}: other classes than {paths[0]}")
    page.classes = tuple(cards[0]["classes"])
    where = image or Path(cards[0]["image"])
    if not where.exists() and ":" not in where.name:
        raise BadInput(f"{where}: the image of {paths[0]} is not there; say where with --image")
    opened = open_source(where, wanted=None, grey_range=grey_range, voxel_size=None)
    readers = {path: _sections_of(path) for path in paths}
    for path, (shape, _) in readers.items():
        if shape != opened.shape:
            raise BadInput(f"{path}: {shape} (ZYX), the image {where} is {opened.shape}")
    depth = opened.shape[0]
    for z in np.unique(np.linspace(0, depth - 1, MOST_SECTIONS).round().astype(int)):
        name = opened.names[z] if opened.names else f"section {z}"
        section = page.section(name, opened.slab(int(z), int(z) + 1)[0])
        for path, (_, read) in readers.items():
            page.layer(section, names[path], read(int(z)))


def _sections_of(path: Path) -> tuple[tuple[int, ...], Any]:
    """Return shape and reader of a label map, a folder of pictures too."""
    if path.is_dir() and not writers.is_zarr(path):
        files = sorted((file for file in Listing(path).files if is_image(file)), key=natural)
        if not files:
            raise BadInput(f"{path}: no pictures in it")
        first = open_volume(files[0])
        return (len(files), *first.shape[1:]), lambda z: np.asarray(open_volume(files[z])[0], np.uint8)
    stored = open_volume(path)
    if stored.dtype.kind not in "iu":
        raise BadInput(f"{path}: {stored.dtype} values; show label maps")
    return stored.shape, lambda z: np.asarray(stored[z], np.uint8)


def _add_results(page: _Page, paths: Sequence[Path], names: dict[Path, str], data: Path | None) -> None:
    found = {path: results.load(path) for path in paths}
    first = found[paths[0]]
    if differing := [
        path for path, result in found.items() if result.fingerprint.data_hash != first.fingerprint.data_hash
    ]:
        raise BadInput(f"{differing[0]}: of other images than {paths[0]}; show results of one task")
    page.classes = first.class_names
    rows = {path: f"{result.row}, seed {result.seed}" for path, result in found.items()}
    names.update(
        rows if len(set(rows.values())) == len(rows) else {path: f"{rows[path]} ({names[path]})" for path in paths}
    )
    with Prepared(prepared_path(first.task, data)) as prepared:
        if prepared.hash != first.fingerprint.data_hash:
            raise BadInput(f"{prepared.path}: not the images of {paths[0]}; prepare {first.task} again")
        volumes = {volume.name: volume for volume in prepared.volumes("test")}
        places = {section_place(section, path): None for path in paths for section in found[path].sections}
        for item, index in sorted(places):
            image_YX, truth_YX = volumes[item].section(0, index)
            section = page.section(f"{item}, section {index}", image_YX)
            if truth_YX is not None:
                page.layer(section, "truth", truth_YX)
            for path in paths:
                for stored in found[path].sections:
                    if section_place(stored, path) == (item, index):
                        page.layer(section, names[path], read_section(path.parent / stored))
    names[Path("truth")] = "truth"
    if not page.sections:
        raise BadInput(f"{paths[0]}: no predicted sections are stored with it")
