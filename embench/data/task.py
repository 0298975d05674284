"""A benchmark as data: what is segmented, on which images, for how long, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
Scale = Literal["full", "tiny"]


@dataclass(frozen=True)
class Scoring:
    """How predictions become a score (protocol 5).

    Parameters
    ----------
    planes : {"2d", "stack", "orthoplane"}
        ``2d``: every section is an image with its own IoU. ``stack``: a volume predicted along axis 0.
        ``orthoplane``: a volume predicted along axes 0, 1 and 2.
    classes : tuple of int
        The label values that count in the mean.
    match_instances : bool
        Keep only predicted objects that touch a labelled one (Perez, whose test masks label only some).
    ignore_unlabelled : bool
        Set predictions to 0 where the ground truth is 0 (Guay, which is partly labelled).
    """

    planes: Literal["2d", "stack", "orthoplane"]
    classes: tuple[int, ...] = (1,)
    match_instances: bool = False
    ignore_unlabelled: bool = False

    @property
    def is_volume(self) -> bool:
        """Whether one score is computed over a whole volume."""
        return self.planes != "2d"

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which a volume is cut into sections for prediction."""
        return (0, 1, 2) if self.planes == "orthoplane" else (0,)


Structure = Literal["blob", "tube", "sheet", "small and many"]
"""What the objects of a class look like: it says which metrics tell models apart (docs/metrics.md)."""
TUBULAR: tuple[Structure, ...] = ("tube", "sheet")
"""Structures with a centre line."""


@dataclass(frozen=True)
class Measurement:
    """How boundaries and objects are measured beside a task's score; it changes no score.

    Parameters
    ----------
    structures : tuple of str
        What the objects of each scored class look like, in their order; empty: unknown.
    tolerance : float or None
        Distance within which two outlines agree, nm; ``None``: two pixels of a section.
    reason : str
        Why that distance.
    smallest : float
        Objects of less area (nm², tasks that are scored section by section) or volume (nm³) are no instances.
    voxel_size : tuple of float or None
        Nanometres, ZYX, of published data whose prepared form, which is fixed, states none.
    """

    structures: tuple[Structure, ...] = ()
    tolerance: float | None = None
    reason: str = "two pixels of a section: about what two annotators differ by"
    smallest: float = 0.0
    voxel_size: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Task:
    """One benchmark: one set of images, one set of classes, one score (protocol 1).

    Parameters
    ----------
    name, title, dataset : str
        Identifier, human name, and the data set that it is prepared from.
    classes : tuple of str
        Names by label value; index 0 is the background. Two classes make a binary task with one logit.
    scoring : Scoring
    iterations : int
        Optimiser steps of the published budget.
    batch_size, crop : int
        Of the UNet recipe (protocol 1, 4.1).
    norms : (float, float) or None
        Published mean and standard deviation of 0..1 grey values; ``None``: computed from the training split.
    class_weights : tuple of float or None
        Cross-entropy weight per class.
    training_axes : tuple of int
        Axes along which training volumes are cut into sections.
    crop_nonempty, noise_and_blur : bool
        Extra augmentations of the published recipes (protocol 4.1).
    voxel_size : tuple of float or None
        Nanometres, ZYX.
    pretraining : str
        The unlabelled set that pre-trained models start from on this task.
    synthetic : bool
        Generated images: shown as such and never ranked with real ones.
    scale : {"full", "tiny"}
        ``tiny``: networks run at reduced width and under the stated tiny recipes.
    budgets : dict
        Other budgets that a source names, for reference (protocol 7.4).
    measurement : Measurement
        Of boundaries and objects, beside the score.
    """

    name: str
    title: str
    dataset: str
    classes: tuple[str, ...]
    scoring: Scoring
    iterations: int
    batch_size: int = 16
    crop: int = 512
    norms: tuple[float, float] | None = None
    class_weights: tuple[float, ...] | None = None
    training_axes: tuple[int, ...] = (0,)
    crop_nonempty: bool = False
    noise_and_blur: bool = False
    modality: str = "unknown"
    voxel_size: tuple[float, float, float] | None = None
    licence: str = "unknown"
    citation: str = ""
    homepage: str = ""
    pretraining: str = "cem500k"
    synthetic: bool = False
    scale: Scale = "full"
    budgets: dict[str, int] = field(default_factory=dict)
    measurement: Measurement = Measurement()

    @property
    def outputs(self) -> int:
        """Channels a network must produce: one logit for a binary task, one per class otherwise."""
        return 1 if len(self.classes) == 2 else len(self.classes)


@dataclass(frozen=True)
class UnlabelledSet:
    """Images without labels, for pre-training."""

    name: str
    title: str
    dataset: str
    modality: str = "unknown"
    voxel_size: tuple[float, float, float] | None = None
    licence: str = "unknown"
    citation: str = ""
    homepage: str = ""
    synthetic: bool = False
    scale: Scale = "full"


class Sections(Protocol):
    """A volume read section by section: a NumPy array, an HDF5 dataset, or a reader of files.

    ``volume[z]`` gives a section (Y, X) of ``dtype``; nothing else is asked for.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z, Y, X)."""
        ...

    def __getitem__(self, z: int) -> Any: ...


@dataclass(frozen=True)
class Item:
    """One volume or image of a split, on its way into a prepared file.

    Parameters
    ----------
    split : {"train", "valid", "test"}
    name : str
        Unique within the split.
    image : Sections
        (Z, Y, X) uint8; a 2D image has Z = 1.
    labels : Sections or None
        (Z, Y, X) uint8 label values; ``None`` for unlabelled images.
    origin : str
        The file or files it was read from, for messages.
    notes : list of str
        What had to be resolved, one line each; filled while the item is read, kept in the prepared file's card.
    """

    split: Split
    name: str
    image: Sections
    labels: Sections | None = None
    origin: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Download:
    """A published file (protocol 2).

    Parameters
    ----------
    url : str
    filename : str
        What it is saved as.
    sha256 : str or None
        ``None``: not known; what comes is recorded and shown as unverified.
    members : dict
        Known SHA-256 of files inside an archive, by name.
    """

    url: str
    filename: str
    sha256: str | None = None
    members: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Where tasks come from: their facts and the one function that reads the published files.

    Parameters
    ----------
    name : str
    tasks, unlabelled : tuple
        What is prepared from it.
    read : callable
        ``read(source, name)`` yields the :class:`Item` objects of the task or unlabelled set ``name`` from the
        folder ``source`` (``None`` for generated data); raises ``BadInput`` naming every offending file.
    generated : bool
        Needs no source: made on first use.
    downloads : tuple of Download
        The published files; none where they can only be fetched by hand.
    pack : callable, optional
        ``pack(sources, path, spec)`` writes the prepared file of an unlabelled set itself: for sets so large that it
        must be done in parallel and survive being killed. The file is the one that ``read`` would give.
    """

    name: str
    tasks: tuple[Task, ...]
    read: Callable[[Path | None, str], Iterator[Item]]
    unlabelled: tuple[UnlabelledSet, ...] = ()
    generated: bool = False
    downloads: tuple[Download, ...] = ()
    pack: Callable[[Sequence[Path], Path, UnlabelledSet], None] | None = None

    @property
    def specs(self) -> tuple[Task | UnlabelledSet, ...]:
        """Everything that is prepared from it."""
        return (*self.tasks, *self.unlabelled)
