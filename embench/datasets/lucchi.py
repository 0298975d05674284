"""Lucchi++: mitochondria of the hippocampus, FIB-SEM; an extension of the published suite (protocol 1, 2)."""

from __future__ import annotations

from embench.data.task import Dataset, Download, Measurement, Scoring, Task
from embench.datasets.kasthuri import CITATION, reader

DATASET = Dataset(
    name="lucchi",
    tasks=(
        Task(
            name="lucchi",
            title="Lucchi++ mitochondria",
            dataset="lucchi",
            classes=("background", "mitochondria"),
            scoring=Scoring("2d"),
            measurement=Measurement(
                structures=("blob",),
                tolerance=10.0,
                reason="two pixels of 5 nm: the outlines were drawn again because the first ones were off by as much",
                voxel_size=(5.0, 5.0, 5.0),
            ),
            iterations=10000,
            norms=(0.55090924, 0.11859143),
            modality="FIB-SEM, hippocampus",
            citation=CITATION,
            homepage="https://casser.io/connectomics",
        ),
    ),
    read=reader("Lucchi++"),
    downloads=(
        Download(
            "http://www.casser.io/files/lucchi_pp.zip",
            "lucchi_pp.zip",
            "770ce9e98fc6f29c1b1a250c637e6c5125f2b5f1260e5a7687b55a79e2e8844d",
        ),
    ),
)
