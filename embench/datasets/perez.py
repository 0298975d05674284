"""Perez: four organelles of the mouse brain, SBF-SEM, each a task of its own (protocol 1, 3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from embench.data.convert import grey, labels
from embench.data.listing import Listing, pair_folders, stem
from embench.data.readers.open import open_volume
from embench.data.task import Dataset, Download, Item, Measurement, Scoring, Split, Task

_ORGANELLES = {
    "perez-lyso": "lysosomes",
    "perez-mito": "mitochondria",
    "perez-nuclei": "nuclei",
    "perez-nucleoli": "nucleoli",
}
_FOLDERS: tuple[tuple[Split, str, str], ...] = (
    ("train", "training_images", "training_labels"),
    ("test", "test_images", "ground_truth"),
)
_CITATION = """@article{perez2014workflow,
  title = {A workflow for the automatic segmentation of organelles in electron microscopy image stacks},
  author = {Perez, Alex J. and Seyedhosseini, Mojtaba and Deerinck, Thomas J. and Bushong, Eric A. and
            Panda, Satchidananda and Tasdizen, Tolga and Ellisman, Mark H.},
  journal = {Frontiers in Neuroanatomy}, volume = {8}, year = {2014}, doi = {10.3389/fnana.2014.00126}
}"""


def read(source: Path | None, name: str) -> Iterator[Item]:
    """Yield the pictures of one organelle.

    They are in ``{training_images,training_labels,test_images,ground_truth}/{organelle}``. Images
    and masks are paired by what follows the first dot of their names; before it they differ. Masks hold 0 and 1; those
    of the test images label only some instances.

    Raises
    ------
    BadInput
        Naming every empty folder and every file without partner.
    """
    assert source is not None
    folders = [
        (split, [f"{images}/{_ORGANELLES[name]}"], [f"{masks}/{_ORGANELLES[name]}"])
        for split, images, masks in _FOLDERS
    ]
    for split, image, mask in pair_folders(Listing(source), folders, key=_after_prefix):
        yield Item(split, _after_prefix(image), grey(open_volume(image)), labels(open_volume(mask)), origin=str(mask))


def _after_prefix(file: Path) -> str:
    """Return ``000`` for ``any_prefix.000.png``; the whole stem where there is no prefix."""
    name = stem(file)
    return name.partition(".")[2] or name


def _task(name: str, norms: tuple[float, float]) -> Task:
    return Task(
        name=name,
        title=f"Perez {_ORGANELLES[name]}",
        dataset="perez",
        classes=("background", _ORGANELLES[name]),
        scoring=Scoring("2d", match_instances=True),
        measurement=Measurement(structures=("blob",)),
        iterations=2500,
        crop=480,
        norms=norms,
        modality="SBF-SEM, mouse brain",
        citation=_CITATION,
        homepage="https://doi.org/10.3389/fnana.2014.00126",
    )


DATASET = Dataset(
    name="perez",
    tasks=(
        _task("perez-lyso", (0.35047498, 0.01674651)),
        _task("perez-mito", (0.35009244, 0.01705255)),
        _task("perez-nuclei", (0.35176219, 0.01545297)),
        _task("perez-nucleoli", (0.35167108, 0.01306738)),
    ),
    read=read,
    downloads=(
        Download(
            "https://www.sci.utah.edu/releases/chm_v2.1.367/chm-supplemental_data.zip", "chm-supplemental_data.zip"
        ),
    ),
)
