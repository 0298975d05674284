"""Label maps of any tool against the truth, without a task: every metric, per image and in the mean."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import embench
from embench.core.console import Progress
from embench.core.errors import BadInput
from embench.data.convert import label_section
from embench.data.listing import is_image, natural, stem
from embench.data.readers.base import Stored
from embench.data.readers.open import open_volume
from embench.scoring.metrics import Evidence, Masks, Metric, chosen

MOST_CLASSES = 50
"""Different values in label maps up to which each is taken for a class where none is named."""
OBJECTS = "objects"
"""Name of the only class where label maps hold identities."""
_BYTES_PER_VOXEL = 16
"""Of memory at the most, beside the two label maps themselves."""
_UNIT_TOLERANCE = 0.01
"""Relative difference of voxel sizes that writing them may cause."""

ImageEvidence = dict[str, dict[str, Evidence | None]]
"""By class and metric."""


@dataclass(frozen=True)
class Evaluation:
    """What all metrics say of some images.

    Parameters
    ----------
    metrics : sequence of Metric
    classes : sequence of str
    images : dict
        Evidence by image, class and metric.
    voxel_size : tuple of float or None
        ZYX, nanometres; ``None``: lengths are in pixels.
    tolerance : float
        Of surfaces, in the unit of the voxel size.
    """

    metrics: Sequence[Metric]
    classes: Sequence[str]
    images: Mapping[str, ImageEvidence]
    voxel_size: tuple[float, ...] | None
    tolerance: float

    def unit(self, metric: Metric) -> str:
        """Return the unit of a metric's scores: pixels for lengths where the voxel size is not known."""
        return "px" if metric.unit == "nm" and self.voxel_size is None else metric.unit

    def per_image(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Return the score by image, class and metric; ``None`` where it is undefined."""
        return {
            image: {
                name: {metric.name: _score(metric, evidence[metric.name]) for metric in self.metrics}
                for name, evidence in classes.items()
            }
            for image, classes in self.images.items()
        }

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Return the mean over images by class and metric, over those where it is defined."""
        return self._over_images(Metric.mean)

    def pooled(self) -> dict[str, dict[str, float | None]]:
        """Return the score of all images taken together, where evidence adds up."""
        return self._over_images(Metric.pooled)

    def undefined(self) -> dict[str, dict[str, int]]:
        """Return how many images the mean of a class and metric leaves out, where there are any."""
        per_image = self.per_image()
        found = {
            name: {
                metric.name: sum(scores[name][metric.name] is None for scores in per_image.values())
                for metric in self.metrics
            }
            for name in self.classes
        }
        return {name: {key: n for key, n in counts.items() if n} for name, counts in found.items()}

    def _over_images(
        self, reduce: Callable[[Metric, Iterable[Evidence | None]], float | None]
    ) -> dict[str, dict[str, float | None]]:
        return {
            name: {
                metric.name: reduce(metric, [classes[name][metric.name] for classes in self.images.values()])
                for metric in self.metrics
            }
            for name in self.classes
        }

    def as_json(self) -> dict[str, Any]:
        """Return everything, as JSON knows it."""
        return {
            "embench": embench.__version__,
            "voxel_size": self.voxel_size,
            "tolerance": self.tolerance,
            "metrics": {
                metric.name: {
                    "title": metric.title,
                    "unit": self.unit(metric),
                    "higher_is_better": metric.higher_is_better,
                    "evidence": metric.parts,
                }
                for metric in self.metrics
            },
            "summary": self.summary(),
            "undefined": self.undefined(),
            "pooled": self.pooled(),
            "images": self.per_image(),
            "evidence": self.images,
        }


def evaluate(
    prediction: Path,
    truth: Path,
    *,
    voxel_size: Sequence[float] | None = None,
    classes: str | None = None,
    metrics: Iterable[str] = ("all",),
    tolerance: float | None = None,
    instances: bool = False,
    sections: bool = False,
    smallest: float = 0.0,
    shown: Callable[[int], AbstractContextManager[Progress]] = lambda total: nullcontext(lambda more: None),
) -> tuple[Evaluation, list[str]]:
    """Score label maps in files; everything is checked before anything is scored.

    Parameters
    ----------
    prediction, truth : Path
        Two files of any readable format, or two folders whose files have the same names (suffixes may differ).
    voxel_size : sequence of float, optional
        Z, Y, X (or Y, X) in nanometres; where not given, what the files state, else pixels.
    classes : str, optional
        As in ``0:background,1:er``, ``1,2`` or ``background,er``; without it every value but 0 is a class.
    metrics : iterable of str
        Names, or ``all``.
    tolerance : float, optional
        Of surfaces, nm; two pixels of a section where not given.
    instances : bool
        Whether label maps hold identities of objects instead of classes.
    sections : bool
        Whether each section of a stack is an image of its own.
    smallest : float
        Objects of less area or volume, in nm² or nm³, are no instances.
    shown : callable
        From the number of files to a context that shows how many are done, as :func:`embench.core.console.showing`.

    Returns
    -------
    evaluation : Evaluation
    notes : list of str
        What was assumed, one line each.

    Raises
    ------
    BadInput
        One line per fault of the files or of what was asked for.
    """
    wanted = [metric for metric in chosen(metrics) if "scores" not in metric.needs]
    if not wanted:
        raise BadInput("--metrics: these need predicted probabilities; label maps have none")
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise BadInput(f"--tolerance {tolerance}: expected nanometres, 0 or more")
    if not 0 <= smallest < math.inf:
        raise BadInput(f"--smallest {smallest}: expected an area or volume, 0 or more")
    pairs = {name: _Pair(*(open_volume(path) for path in paths)) for name, paths in _paired(prediction, truth).items()}
    notes: list[str] = []
    if faults := [fault for pair in pairs.values() if (fault := pair.fault())]:
        raise BadInput(faults)
    spacing = _voxel_size(pairs, voxel_size, notes)
    held = _values(pairs.values(), instances)
    values = {0: OBJECTS} if instances else _classes(held, classes)
    tolerance = 2 * max((spacing or (1.0, 1.0))[-2:]) if tolerance is None else tolerance
    if spacing is None:
        notes.append("voxel size unknown: lengths are in pixels (--voxel-size Z,Y,X gives nanometres)")
    unit = "px" if spacing is None else "nm"
    notes.append(f"surfaces agree within {tolerance:g} {unit}")
    images: dict[str, ImageEvidence] = {}
    with shown(len(pairs)) as advance:
        for name, pair in pairs.items():
            for image, first, second in pair.images(name, sections):
                images[image] = {
                    label: _evidence(first, second, value, instances, wanted, spacing, tolerance, smallest)
                    for value, label in values.items()
                }
            advance(1)
    return Evaluation(wanted, list(values.values()), images, spacing, tolerance), notes


def score(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    *,
    voxel_size: Sequence[float] | None = None,
    classes: Mapping[int, str] | Sequence[int] | None = None,
    metrics: Iterable[str] = ("all",),
    tolerance: float | None = None,
    instances: bool = False,
    smallest: float = 0.0,
) -> dict[str, dict[str, float | None]]:
    """Score a label map against the truth.

    Parameters
    ----------
    prediction, truth : ndarray of bool or int, (Y, X) or (Z, Y, X)
        Label values, or identities of objects with ``instances``.
    voxel_size : sequence of float, optional
        Along the same axes, in nanometres; lengths are in pixels without it.
    classes : dict from int to str, or sequence of int, optional
        The values to score, and their names; every value but 0 where not given.
    metrics : iterable of str
        Names, or ``all``.
    tolerance : float, optional
        Of surfaces, nm; two pixels of a section where not given.
    instances : bool
        Whether label maps hold identities of objects instead of classes.
    smallest : float
        Objects of less area or volume, in nm² or nm³, are no instances.

    Returns
    -------
    dict
        Score by class and metric; ``None`` where it is undefined.

    Raises
    ------
    BadInput
        Arrays of different shapes, of no whole numbers, or without voxels; an unknown metric.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    for array in (prediction, truth):
        if array.dtype.kind not in "biu":
            raise BadInput(f"label values of type {array.dtype}; expected whole numbers")
    if classes is None:
        found = np.union1d(np.unique(prediction), np.unique(truth)).tolist()
        classes = [int(value) for value in found if value]
    names = dict(classes) if isinstance(classes, Mapping) else {value: str(value) for value in classes}
    if instances:
        names = {0: OBJECTS}
        prediction, truth = (array.astype(np.uint32, casting="safe") for array in (prediction, truth))
    wanted = [metric for metric in chosen(metrics) if "scores" not in metric.needs]
    try:
        evidence = {
            name: _evidence(prediction, truth, value, instances, wanted, voxel_size, tolerance, smallest)
            for value, name in names.items()
        }
    except ValueError as error:
        raise BadInput(str(error)) from None
    return {
        name: {metric.name: _score(metric, found[metric.name]) for metric in wanted} for name, found in evidence.items()
    }


def _evidence(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    value: int,
    instances: bool,
    metrics: Sequence[Metric],
    spacing: Sequence[float] | None,
    tolerance: float | None,
    smallest: float,
) -> dict[str, Evidence | None]:
    """Return the evidence of every metric for one class, or for all objects with ``instances``."""
    masks = Masks(
        prediction > 0 if instances else prediction == value,
        truth > 0 if instances else truth == value,
        None if spacing is None else tuple(spacing)[-truth.ndim :],
        tolerance,
        smallest,
        *((prediction, truth) if instances else ()),
    )
    return {metric.name: metric.evidence(masks) for metric in metrics}


def _score(metric: Metric, evidence: Evidence | None) -> float | None:
    return None if evidence is None else metric.score(evidence)


@dataclass(frozen=True)
class _Pair:
    """Prediction and truth of one image or volume, not read yet."""

    prediction: Stored
    truth: Stored

    def fault(self) -> str | None:
        """Say what keeps these files from being compared, whatever they hold."""
        found, shape = self.prediction.shape, self.truth.shape
        if 0 in found or 0 in shape:
            empty = self.prediction if 0 in found else self.truth
            return f"{empty.origin}: no voxels (shape {empty.shape}, ZYX); export it again"
        if found != shape:
            fault = f"{self.prediction.origin}: shape {found} (ZYX), the truth {self.truth.origin} has {shape}"
            for order in permutations(range(3)):
                if tuple(found[axis] for axis in order) == shape:
                    axes = "".join("ZYX"[axis] for axis in order)
                    return f"{fault}; with its axes taken as {axes} it would fit: write it transposed"
            return f"{fault}; predict at the size of the truth"
        needed, there = math.prod(shape) * _BYTES_PER_VOXEL, _memory()
        if needed > there:
            return (
                f"{self.prediction.origin}: {shape} voxels take about {needed / 2**30:.0f} GiB here, the machine has "
                f"{there / 2**30:.0f}; evaluate parts of it, or sections (--sections)"
            )
        return None

    def images(self, name: str, sections: bool) -> Iterable[tuple[str, NDArray[Any], NDArray[Any]]]:
        """Yield name, prediction and truth of what is scored as one: (Y, X) or (Z, Y, X)."""

        depth = self.truth.shape[0]
        if depth == 1 or sections:
            for z in range(depth):
                yield (
                    (name if depth == 1 else f"{name}-z{z:04d}"),
                    _section(self.prediction, z),
                    _section(self.truth, z),
                )
        else:
            first, second = (
                np.stack([_section(volume, z) for z in range(depth)]) for volume in (self.prediction, self.truth)
            )
            yield name, first, second


def _section(volume: Stored, z: int) -> NDArray[Any]:
    """Return whole numbers in the smallest type that is sure to hold them."""
    section = label_section(volume, z)
    if section.dtype.kind == "b":
        return section.view(np.uint8)
    if section.dtype.kind == "u" and section.dtype.itemsize <= 4:
        return section.astype(section.dtype.newbyteorder("="), copy=False)
    return section.astype(np.uint32)


def _values(pairs: Iterable[_Pair], instances: bool) -> dict[str, set[int]]:
    """Return the values in each file, by its name; raise :class:`BadInput` for what is no label."""
    import fastremap

    most = 2**32 - 1
    held: dict[str, set[int]] = {}
    faults: list[str] = []
    for volume in (each for pair in pairs for each in (pair.prediction, pair.truth)):
        found = held.setdefault(volume.origin, set())
        for z in range(volume.shape[0]):
            where = f"{volume.origin}, section {z}"
            try:
                section = label_section(volume, z)
            except BadInput as error:
                faults += error.lines
                break
            values = fastremap.unique(np.ascontiguousarray(section, section.dtype.newbyteorder("=")))
            if not (np.isfinite(values).all() and (values == np.floor(values)).all()):
                faults.append(
                    f"{where}: fractions, as of probabilities or resampled labels; write the label of each voxel"
                )
            elif values.min() < 0:
                faults.append(f"{where}: value {values.min():g}; labels are 0 or more")
            elif values.max() > most:
                what = "identity" if instances else "label"
                faults.append(f"{where}: {what} {int(values.max())}, over {most}; number objects from 1")
            else:
                found.update(map(int, values))
                continue
            break
    if faults:
        raise BadInput(faults)
    return held


def _paired(prediction: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    """Return the files of prediction and truth by name."""
    ours, theirs = (_files(path) if path.is_dir() and not is_image(path) else None for path in (prediction, truth))
    if ours is None and theirs is None:
        return {stem(truth): (prediction, truth)}
    if ours is None or theirs is None:
        folder, file = (truth, prediction) if ours is None else (prediction, truth)
        raise BadInput(f"{folder} is a folder, {file} is not; give two files or two folders")
    faults = [f"{ours[name]}: no truth of that name in {truth}" for name in sorted(ours.keys() - theirs)]
    faults += [f"{theirs[name]}: no prediction of that name in {prediction}" for name in sorted(theirs.keys() - ours)]
    if faults:
        raise BadInput(faults)
    return {name: (ours[name], theirs[name]) for name in sorted(ours, key=lambda name: natural(ours[name]))}


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_image(path):
            if stem(path) in found:
                raise BadInput(f"{path}: a second file of that name, beside {found[stem(path)].name}; keep one")
            found[stem(path)] = path
    if not found:
        raise BadInput(f"{folder}: no image in it that can be read")
    return found


def _voxel_size(
    pairs: Mapping[str, _Pair], asked: Sequence[float] | None, notes: list[str]
) -> tuple[float, ...] | None:
    """Return the voxel size asked for, or else the one that all files state that state any."""
    deep = max(pair.truth.shape[0] for pair in pairs.values()) > 1
    if asked is not None:
        sizes = tuple(asked)
        if len(sizes) not in (2, 3) or not all(0 < size < math.inf for size in sizes):
            raise BadInput(f"--voxel-size {','.join(f'{size:g}' for size in sizes)}: expected Z,Y,X in nanometres")
        if len(sizes) == 2 and deep:
            raise BadInput("--voxel-size: the volumes have three axes; give Z,Y,X")
        return sizes
    stated = [(each.origin, each.voxel_size) for pair in pairs.values() for each in (pair.prediction, pair.truth)]
    known = [(origin, size) for origin, size in stated if size is not None]
    if not known:
        return None
    where, first = known[0]
    for origin, size in known[1:]:
        if any(abs(one - other) > _UNIT_TOLERANCE * max(one, other) for one, other in zip(first, size, strict=True)):
            raise BadInput(
                f"{origin}: voxels of {_shown(size)} nm (ZYX), in {where} of {_shown(first)}; "
                "if they are the same, say so with --voxel-size Z,Y,X"
            )
    notes.append(f"voxel size {_shown(first)} nm (ZYX), from {where}")
    return tuple(map(float, first))


def _shown(size: Sequence[float]) -> str:
    return " x ".join(f"{each:g}" for each in size)


def _classes(held: Mapping[str, set[int]], asked: str | None) -> dict[int, str]:
    """Return the values to score with their names; raise :class:`BadInput` for values that have none."""
    if asked is None:
        values = sorted(set().union(*held.values()) - {0})
        if not values:
            raise BadInput("every label map is 0 everywhere; name the classes: --classes 0:background,1:NAME")
        if len(values) > MOST_CLASSES:
            raise BadInput(
                f"{len(values)} different values: objects of their own? --instances; classes? name them with --classes"
            )
        return {value: str(value) for value in values}
    names = parsed_classes(asked)
    faults = []
    for origin, found in held.items():
        if strange := sorted(found - names.keys() - {0}):
            shown = ", ".join(map(str, strange[:5])) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
            faults.append(f"{origin}: label values {shown}; --classes names {', '.join(map(str, names))}")
    if faults:
        raise BadInput(faults)
    return {value: name for value, name in names.items() if value and name != "background"}


def parsed_classes(text: str) -> dict[int, str]:
    """Return names by label value from ``0:background,1:er``, from ``1,2``, or from ``background,er``."""
    parts = [part.strip() for part in text.split(",")]
    names: dict[int, str] = {}
    start = 0 if parts[0] == "background" else 1
    for place, part in enumerate(parts, start):
        match = re.fullmatch(r"(\d{1,10})(?:\s*:\s*(\S.*))?", part)
        value, name = (int(match[1]), match[2] or match[1]) if match else (place, part)
        if not part or (":" in part and not match):
            raise BadInput(f"--classes {text}: write value:name,value:name, as in 0:background,1:er")
        if value in names or name in names.values():
            raise BadInput(f"--classes {text}: a value or a name occurs twice")
        names[value] = name
    if not any(value and name != "background" for value, name in names.items()):
        raise BadInput(f"--classes {text}: nothing but background; name the classes to score")
    return names


def _memory() -> int:
    """Return the memory of this machine in bytes."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        return 2**63
