"""The built-in suite: small synthetic benchmarks, each of the kind of a published one, made on first use.

They are for trying out the harness and for tests. Scores on them say nothing about real images and are never ranked
with any. What each shows and how it is scored mirrors its counterpart (protocol 1); what the tissue looks like is in
:mod:`embench.datasets.synthetic_tissue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embench.data.task import Dataset, Item, Measurement, Scoring, Split, Structure, Task, UnlabelledSet
from embench.datasets.synthetic_tissue import VERSION, Mask, Tissue, expose

Shape = tuple[int, int, int]
Picture = tuple[NDArray[np.uint8], NDArray[np.uint8]]

_ITERATIONS = 120
_LICENCE = "CC0-1.0"


def _task(
    name: str,
    kind: str,
    classes: tuple[str, ...],
    scoring: Scoring,
    voxel_size: tuple[float, float, float],
    *,
    modality: str,
    iterations: int = _ITERATIONS,
    class_weights: tuple[float, ...] | None = None,
    training_axes: tuple[int, ...] = (0,),
    crop_nonempty: bool = False,
    noise_and_blur: bool = False,
    structures: tuple[Structure, ...] = ("blob",),
) -> Task:
    return Task(
        name=name,
        title=f"Synthetic {kind} (generator {VERSION})",
        dataset="mini",
        classes=classes,
        scoring=scoring,
        measurement=Measurement(structures=structures),
        iterations=iterations,
        class_weights=class_weights,
        training_axes=training_axes,
        crop_nonempty=crop_nonempty,
        noise_and_blur=noise_and_blur,
        modality=f"synthetic, after {modality}",
        voxel_size=voxel_size,
        licence=_LICENCE,
        batch_size=8,
        crop=64,
        pretraining="mini-cem",
        synthetic=True,
        scale="tiny",
    )


def _perez(target: str, label: str, pixel: float, iterations: int = _ITERATIONS) -> Task:
    return _task(
        f"mini-perez-{target}",
        f"brain tissue: {label}",
        ("background", label),
        Scoring("2d", match_instances=True),
        (30.0, pixel, pixel),
        modality="Perez (SBF-SEM)",
        iterations=iterations,
    )


_TASKS = (
    _task(
        "mini-cremi",
        "neuropil: synaptic clefts",
        ("background", "synaptic cleft"),
        Scoring("stack"),
        (40.0, 12.0, 12.0),
        modality="CREMI (ssTEM)",
        structures=("sheet",),
        crop_nonempty=True,
    ),
    _task(
        "mini-guay",
        "platelets: seven classes",
        (
            "background",
            "cell",
            "mitochondria",
            "alpha granule",
            "canalicular vessel",
            "dense granule",
            "dense granule core",
        ),
        Scoring("stack", classes=(2, 3, 4, 5, 6), ignore_unlabelled=True),
        (40.0, 25.0, 25.0),
        modality="Guay (SBF-SEM)",
        structures=("blob", "small and many", "tube", "small and many", "small and many"),
        class_weights=(0.1, 0.1, 1.0, 1.0, 0.1, 3.0, 3.0),
        noise_and_blur=True,
    ),
    _task(
        "mini-kasthuri",
        "neocortex: mitochondria",
        ("background", "mitochondria"),
        Scoring("2d"),
        (30.0, 12.0, 12.0),
        modality="Kasthuri++ (ssSEM)",
        crop_nonempty=True,
    ),
    _perez("lyso", "lysosomes", 20.0),
    _perez("mito", "mitochondria", 20.0),
    _perez("nuclei", "nuclei", 120.0, iterations=3 * _ITERATIONS),
    _perez("nucleoli", "nucleoli", 80.0),
    _task(
        "mini-urocell",
        "urothelium: endolysosomes and mitochondria",
        ("background", "endolysosomes", "mitochondria"),
        Scoring("orthoplane", classes=(1, 2)),
        (16.0, 16.0, 16.0),
        modality="UroCell (FIB-SEM)",
        structures=("blob", "blob"),
        class_weights=(0.1, 1.0, 1.0),
        training_axes=(0, 1, 2),
    ),
)

_UNLABELLED = UnlabelledSet(
    name="mini-cem",
    title=f"Synthetic patches of many kinds of tissue (generator {VERSION})",
    dataset="mini",
    modality="synthetic, after CEM500K (various)",
    licence=_LICENCE,
    synthetic=True,
    scale="tiny",
)

_SIZES: dict[str, tuple[tuple[Split, int, Shape], ...]] = {
    "mini-cremi": (("train", 2, (12, 128, 128)), ("test", 1, (8, 128, 128))),
    "mini-guay": (("train", 1, (10, 128, 128)), ("valid", 1, (4, 128, 128)), ("test", 1, (8, 96, 96))),
    "mini-kasthuri": (("train", 16, (1, 128, 160)), ("test", 4, (1, 128, 160))),
    "mini-perez-lyso": (("train", 12, (1, 128, 128)), ("test", 6, (1, 160, 160))),
    "mini-perez-mito": (("train", 12, (1, 128, 128)), ("test", 6, (1, 160, 160))),
    "mini-perez-nuclei": (("train", 12, (1, 128, 128)), ("test", 6, (1, 160, 160))),
    "mini-perez-nucleoli": (("train", 12, (1, 128, 128)), ("test", 6, (1, 160, 160))),
    "mini-urocell": (("train", 2, (40, 64, 64)), ("test", 1, (40, 48, 48))),
}
"""Split, number of items, and their shape (ZYX)."""

_PATCHES = 300


def read(source: Path | None, name: str) -> Iterator[Item]:
    """Generate the items of ``name``: the same voxels each time for one ``synthetic_tissue.VERSION``.

    Parameters
    ----------
    source : None
        Not used.
    name : str
        A task of the suite, or ``mini-cem``.

    Yields
    ------
    Item
    """
    # By name and item, so that neither the order of generation nor another task's size matters.
    seeds = np.random.SeedSequence([VERSION, *name.encode()])
    if name == _UNLABELLED.name:
        for index, seed in enumerate(seeds.spawn(_PATCHES)):
            yield Item("train", f"{index:03d}", _any_tissue(np.random.default_rng(seed)), origin=name)
        return
    for split, count, shape in _SIZES[name]:
        for index, seed in enumerate(seeds.spawn(count)):
            rng = np.random.default_rng(seed)
            image, labels = _SCENES[name](rng, shape)
            if split == "test" and name.startswith("mini-perez"):
                labels = some_instances(rng, labels)
            yield Item(split, f"{index:02d}", image, labels, origin=f"{name}, {split} {index}")


def some_instances(rng: np.random.Generator, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Keep about half of the objects of a (1, Y, X) mask, at least one, and drop at least one of several."""
    from scipy import ndimage

    objects, count = ndimage.label(labels[0], np.ones((3, 3)))
    kept = rng.permutation(np.arange(1, count + 1))[: max(1, (count + 1) // 2)]
    return (labels * np.isin(objects, kept)).astype(np.uint8)


def _many(number: int, shape: Shape, of: Shape) -> int:
    """Return how many make ``shape`` as crowded as ``number`` make ``of``."""
    return round(number * np.prod(shape) / np.prod(of))


def _cremi(rng: np.random.Generator, shape: Shape) -> Picture:
    """Anisotropic neuropil; the clefts of its synapses are sparse and thin."""
    many = partial(_many, shape=shape, of=(12, 128, 128))
    tissue = Tissue(rng, shape, step=3.3, cell=34, jitter=0.7, elongation=1.5)
    tissue.mitochondria(many(16), (4.5, 8))
    clefts = tissue.synapses(many(16), (8, 12), spacing=10)
    tissue.thickenings(many(8), (6, 10))
    tissue.vacuoles(many(5), (2.5, 5))
    tissue.granules(many(4), (2.5, 4))
    tissue.reticulum(0.4)
    tissue.vesicles(14 * shape[0])
    tissue.dust(shape[0] // 3)
    return expose(tissue, mean=0.50, deviation=0.11, noise=0.06), clefts.astype(np.uint8)


def _guay(rng: np.random.Generator, shape: Shape) -> Picture:
    """Platelets in plasma, all full of organelles, only some of them labelled."""
    many = partial(_many, shape=shape, of=(10, 128, 128))
    tissue = Tissue(
        rng, shape, step=1.6, cell=58, gap=(4, 2), tones=(0.58, 0.03), plasma=0.86, membrane=0.35, texture=0.8
    )
    mitochondria = tissue.mitochondria(many(24), (4, 6), (1.1, 1.6), tone=0.46)
    whole, core = tissue.dense_granules(many(12), (4.5, 6.5))
    vessels = tissue.vacuoles(many(36), (2.4, 4), (1.5, 4), tone=0.86)
    alpha = tissue.granules(many(70), (2.8, 5.5), tone=0.40, margin=0.8)
    tissue.vesicles(10 * shape[0])
    # About two thirds of what is cell; by volume, as one platelet may fill half of a small picture.
    cells, sizes = np.unique(tissue.cell[tissue.depth > 0], return_counts=True)
    order = rng.permutation(len(cells))
    before = np.cumsum(sizes[order]) - sizes[order]
    labelled = np.isin(tissue.cell, cells[order][before < 0.6 * sizes.sum()])
    labels = np.zeros(shape, np.uint8)
    parts: list[Mask] = [tissue.depth > 0, mitochondria, alpha, vessels, whole, core]
    for value, part in enumerate(parts, start=1):
        labels[part & labelled] = value
    return expose(tissue, mean=0.55, deviation=0.155, noise=0.06, curtain=0.01), labels


def _kasthuri(rng: np.random.Generator, shape: Shape) -> Picture:
    """Cortex in a section whose black padding is of another width on each side."""
    tissue = Tissue(rng, shape, step=2.5, cell=rng.uniform(32, 46), tones=(0.66, 0.05))
    mitochondria = tissue.mitochondria(9, (4, 7), (1.1, 2.6), tone=0.42)
    tissue.lysosomes(2, (3, 5))
    tissue.granules(2, (2.5, 5))
    tissue.vacuoles(3, (3, 5), contents=rng.uniform(0, 1))
    tissue.synapses(2, (7, 10))
    tissue.thickenings(2, (6, 10))
    tissue.reticulum(0.35)
    tissue.vesicles(25)
    tissue.dust(1)
    image = expose(tissue, mean=0.44, deviation=0.15, noise=0.07, flicker=0.04)
    padding = np.zeros(shape, bool)
    for axis in (1, 2):
        for edge in (np.arange(shape[axis]), np.arange(shape[axis])[::-1]):
            ragged = rng.uniform(-4, 18) + 1.5 * tissue.noise(5.0)
            padding |= edge.reshape([-1 if a == axis else 1 for a in range(3)]) < ragged
    return np.where(padding, 0, image).astype(np.uint8), (mitochondria & ~padding).astype(np.uint8)


def _perez_cytoplasm(rng: np.random.Generator, shape: Shape, target: str) -> Picture:
    many = partial(_many, shape=shape, of=(1, 128, 128))
    tissue = Tissue(rng, shape, step=1.5, cell=rng.uniform(50, 70), tones=(0.60, 0.06), membrane=0.35)
    parts = {
        "mito": tissue.mitochondria(many(11 if target == "mito" else 6), (4, 6.5), (1.1, 2.4), tone=0.44),
        "lyso": tissue.lysosomes(many(9 if target == "lyso" else 3), (4, 7)),
    }
    tissue.granules(many(5), (3, 6), tone=0.36)
    tissue.vacuoles(many(3), (3, 6), contents=rng.uniform(0, 1))
    tissue.reticulum(0.5)
    tissue.vesicles(many(25))
    return expose(tissue, mean=0.35, deviation=0.05, noise=0.07), parts[target].astype(np.uint8)


def _perez_lyso(rng: np.random.Generator, shape: Shape) -> Picture:
    """Cytoplasm in which mitochondria and lipid droplets are as dark as the lysosomes."""
    return _perez_cytoplasm(rng, shape, "lyso")


def _perez_mito(rng: np.random.Generator, shape: Shape) -> Picture:
    """Cytoplasm in which lysosomes and lipid droplets are as dark as the mitochondria."""
    return _perez_cytoplasm(rng, shape, "mito")


def _perez_nuclei(rng: np.random.Generator, shape: Shape) -> Picture:
    """Cell bodies among neuropil, at low magnification."""
    many = partial(_many, shape=shape, of=(1, 128, 128))
    tissue = Tissue(rng, shape, step=1.0, cell=58, tones=(0.62, 0.04), membrane=0.3, texture=0.9)
    nuclei, _ = tissue.nuclei(many(7), (12, 18), nucleoli=(2, 3.2))
    tissue.granules(many(22), (1.5, 2.6), tone=0.36, margin=1.0)
    tissue.vacuoles(many(6), (3, 8), tone=0.72)
    tissue.reticulum(0.4, 4.0)
    return expose(tissue, mean=0.35, deviation=0.05, noise=0.08), nuclei.astype(np.uint8)


def _perez_nucleoli(rng: np.random.Generator, shape: Shape) -> Picture:
    """Large nuclei whose chromatin is almost as dark as their nucleoli."""
    many = partial(_many, shape=shape, of=(1, 128, 128))
    tissue = Tissue(rng, shape, step=1.0, cell=84, tones=(0.62, 0.04), membrane=0.35, texture=1.2)
    _, nucleoli = tissue.nuclei(many(5), (17, 26), nucleoli=(4.5, 7.5))
    tissue.mitochondria(many(8), (2.5, 4))
    tissue.lysosomes(many(4), (2.5, 4))
    tissue.granules(many(5), (2, 3.5), tone=0.36)
    tissue.reticulum(0.5, 5.0)
    return expose(tissue, mean=0.35, deviation=0.05, noise=0.08), nucleoli.astype(np.uint8)


def _urocell(rng: np.random.Generator, shape: Shape) -> Picture:
    """Isotropic cytoplasm with endolysosomes, mitochondria and the flat vesicles of umbrella cells."""
    many = partial(_many, shape=shape, of=(40, 64, 64))
    tissue = Tissue(rng, shape, step=1.0, cell=64, tones=(0.66, 0.03), membrane=0.4, texture=0.9)
    mitochondria = tissue.mitochondria(many(14), (4, 6), (1.3, 3.0), tone=0.46)
    lysosomes = tissue.lysosomes(many(12), (4, 7))
    tissue.granules(many(5), (3, 5), tone=0.40)
    tissue.vacuoles(many(60), (1.6, 2.6), (1.5, 3.5), tone=0.80)
    tissue.reticulum(0.4)
    labels = lysosomes.astype(np.uint8)
    labels[mitochondria] = 2
    return expose(tissue, mean=0.77, deviation=0.10, noise=0.06, flicker=0.01, curtain=0.012), labels


_SCENES: dict[str, Callable[[np.random.Generator, Shape], Picture]] = {
    "mini-cremi": _cremi,
    "mini-guay": _guay,
    "mini-kasthuri": _kasthuri,
    "mini-perez-lyso": _perez_lyso,
    "mini-perez-mito": _perez_mito,
    "mini-perez-nuclei": _perez_nuclei,
    "mini-perez-nucleoli": _perez_nucleoli,
    "mini-urocell": _urocell,
}


def _any_tissue(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return one patch of some tissue at some magnification under some microscope."""
    height, width = (int(side) for side in rng.choice([64, 72, 80, 96], 2))
    zoom = rng.uniform(0.7, 1.5)
    spread = rng.uniform(0.02, 0.07)
    tissue = Tissue(
        rng,
        (1, height, width),
        step=rng.uniform(1, 3.5),
        cell=zoom * rng.uniform(28, 75),
        gap=(4.0, 2.0) if rng.random() < 0.15 else (0.8, 0.35),
        tones=(rng.uniform(0.58, 0.72), spread),
        texture=rng.uniform(0.6, 1.5),
        membrane=rng.uniform(0.3, 0.55),
        plasma=rng.uniform(0.65, 0.9),
    )
    if rng.random() < 0.25:
        tissue.nuclei(1, (11 * zoom, 24 * zoom), nucleoli=(2.5 * zoom, 4.5 * zoom))
    if rng.random() < 0.8:
        tissue.mitochondria(int(rng.integers(1, 7)), (3 * zoom, 6.5 * zoom), tone=rng.uniform(0.38, 0.5))
    if rng.random() < 0.5:
        tissue.lysosomes(int(rng.integers(1, 4)), (2.5 * zoom, 6 * zoom))
    if rng.random() < 0.5:
        tissue.granules(int(rng.integers(1, 6)), (2 * zoom, 5 * zoom), tone=rng.uniform(0.3, 0.5))
    if rng.random() < 0.15:
        tissue.dense_granules(2, (4 * zoom, 6 * zoom))
    if rng.random() < 0.6:
        tissue.vacuoles(int(rng.integers(1, 6)), (2 * zoom, 5 * zoom), contents=rng.uniform(0, 1))
    if rng.random() < 0.5:
        tissue.synapses(int(rng.integers(1, 4)), (7, 11))
    tissue.reticulum(rng.uniform(0, 0.6), 6 * zoom)
    tissue.vesicles(int(rng.integers(0, 30)))
    return expose(
        tissue,
        mean=rng.uniform(0.4, 0.75),
        deviation=rng.uniform(0.06, 0.17),
        blur=rng.uniform(0.55, 1.0),
        noise=rng.uniform(0.03, 0.09),
        shading=rng.uniform(0.01, 0.08),
        curtain=0.015 if rng.random() < 0.3 else 0.0,
    )


DATASET = Dataset(name="mini", tasks=_TASKS, unlabelled=(_UNLABELLED,), read=read, generated=True)
