"""Guay: organelles of human platelets, SBF-SEM, partly labelled (protocol 1, 3, 7.3, 7.4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from embench.core.errors import BadInput
from embench.data.convert import labels, scaled
from embench.data.listing import Listing
from embench.data.readers.open import open_volume
from embench.data.task import Dataset, Download, Item, Measurement, Scoring, Split, Task

_VOLUMES: tuple[tuple[Split, str], ...] = (("train", "train"), ("valid", "eval"), ("test", "test"))
_VOXEL = (40.0, 10.0, 10.0)
_HOMEPAGE = "https://doi.org/10.1038/s41598-021-81590-0"


def read(source: Path | None, name: str) -> Iterator[Item]:
    """Yield the volumes from ``{train,eval,test}-{images,labels}.tif``.

    Images are signed 16-bit: each volume is scaled from its least and greatest value to 0..255, fractions cut off.

    Raises
    ------
    BadInput
        Naming every file that is missing or unreadable.
    """
    del name
    assert source is not None
    listing = Listing(source)
    names = [f"{prefix}-{kind}.tif" for _, prefix in _VOLUMES for kind in ("images", "labels")]
    found = {name: listing.find(name) for name in names}
    if missing := [f"{source}: no {name}" for name, file in found.items() if file is None]:
        raise BadInput(missing)
    items, faults = [], []
    for split, prefix in _VOLUMES:
        image, mask = found[f"{prefix}-images.tif"], found[f"{prefix}-labels.tif"]
        assert image is not None
        assert mask is not None
        try:
            items.append(Item(split, prefix, scaled(open_volume(image)), labels(open_volume(mask)), origin=str(image)))
        except BadInput as error:
            faults += error.lines
    if faults:
        raise BadInput(faults)
    yield from items


DATASET = Dataset(
    name="guay",
    tasks=(
        Task(
            name="guay",
            title="Guay platelet organelles",
            dataset="guay",
            classes=(
                "background",
                "cell",
                "mitochondria",
                "alpha granule",
                "canalicular vessel",
                "dense granule",
                "dense granule core",
            ),
            scoring=Scoring("stack", classes=(2, 3, 4, 5, 6), ignore_unlabelled=True),
            measurement=Measurement(
                structures=("blob", "small and many", "tube", "small and many", "small and many"),
                tolerance=20.0,
                reason="two pixels of 10 nm; sections are 40 nm apart, so an error of a whole section counts",
            ),
            iterations=1000,
            norms=(0.55412821, 0.15759415),
            class_weights=(0.1, 0.1, 1.0, 1.0, 0.1, 3.0, 3.0),
            noise_and_blur=True,
            modality="SBF-SEM, human platelets",
            voxel_size=_VOXEL,
            citation="""@article{guay2021dense,
  title = {Dense cellular segmentation for {EM} using {2D--3D} neural network ensembles},
  author = {Guay, Matthew D. and Emam, Zeyad A. S. and Anderson, Adam B. and Aronova, Maria A. and
            Pokrovskaya, Irina D. and Storrie, Brian and Leapman, Richard D.},
  journal = {Scientific Reports}, volume = {11}, year = {2021}, doi = {10.1038/s41598-021-81590-0}
}""",
            homepage=_HOMEPAGE,
            budgets={"published": 1000, "retina-example": 3000, "retina-text": 2500},
        ),
    ),
    read=read,
    downloads=(
        Download(
            "https://www.dropbox.com/s/68yclbraqq1diza/platelet_data_1219.zip?dl=1",
            "platelet_data_1219.zip",
            members={
                "train-images.tif": "5a39b8aeed34c005747d822cbb49c2b258d7de36a62853a30a2ed8a398aff79c",
                "train-labels.tif": "db7f78fb0c09b2a2a4108d55a7bb74016ee33dec8da190710b7e7952e3f9240d",
                "eval-images.tif": "bb4996d78d663d4e270b25a85a6c1e5c8f50cb584377a6e94207ee9ad49a4169",
                "eval-labels.tif": "14412f796fb77811f69ec6d668d31f4d84de5257bb2ec8964c85cbf0f6d89006",
                "test-images.tif": "5ed2e64d9ffcdbec5c2176331ad04cf79e8926ab29c5a0c3b4f8a4fdacc9858b",
                "test-labels.tif": "7cd0d1882c4da5c27ddfc4740957ec421e99af118c84a4f119f3be517415edfb",
            },
        ),
    ),
)
