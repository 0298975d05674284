"""Control of the harness: trained on masks of other images, a model must score at chance, and above it on its own.

Chance is what a prediction that knows nothing of the truth can expect. Of ``N`` pixels it calls a fraction ``q``
foreground, and ``f`` are, so the intersection is ``q f N`` on the mean; the IoU is about ``q f / (q + f - q f)``. Since
the union is never smaller than the larger of both, it is at most ``min(q, f)``: no such prediction can expect more than
``f``, which calling everything foreground gets. A score above that knows something of the image: the masks that it
learned from do belong to their images, or the truth of the test split leaked. (Or that the structures prefer a place in
every image, which any mask teaches: tissue does not.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np

from embench.core import paths
from embench.core.errors import BadInput
from embench.data import catalog, store
from embench.data.store import Prepared
from embench.data.task import SPLITS, Item
from embench.runs import request, trial
from embench.runs.options import RunRequest
from embench.scoring.schema import TrialResult


@dataclass(frozen=True)
class Outcome:
    """Scores by seed.

    ``chance`` is the most that a prediction independent of the truth can expect, ``right`` are the scores after
    training on the task's own masks, ``permuted`` after training on those of other images. A score is the larger of the
    IoU at the protocol's threshold and at the one chosen on training images: at the first a network may call nothing
    foreground, whatever it knows. Both without instance matching, which leaves out objects that touch nothing.
    """

    chance: float
    right: tuple[float, ...]
    permuted: tuple[float, ...]

    @property
    def at_chance(self) -> bool:
        """Whether permuted labels gain at most a quarter of what right ones gain over chance, on the mean.

        Chance is an expectation; on few test images and seeds a run can be above it by accident.
        """
        return fmean(self.permuted) <= self.chance + (fmean(self.right) - self.chance) / 4

    @property
    def above(self) -> bool:
        """Whether every run on the right labels beats chance and every run on permuted ones."""
        return min(self.right) > max(self.chance, *self.permuted)


def permuted(prepared: Prepared, generator: np.random.Generator) -> Iterator[Item]:
    """Yield the items of a task, each training image with the mask of another; all else as it is.

    Masks go round in one random cycle among the images of one shape. They move as whole images or volumes, so that
    no section gets that of its neighbour, which would nearly fit.

    Raises
    ------
    BadInput
        A training image without another of its shape.
    """
    trained = prepared.volumes("train")
    shapes = np.array([volume.image.shape for volume in trained])
    masks = list(range(len(trained)))
    for shape in np.unique(shapes, axis=0):
        cycle = generator.permutation(np.flatnonzero((shapes == shape).all(axis=1)))
        if len(cycle) < 2:
            name = trained[cycle[0]].name
            raise BadInput(f"{prepared.path}: no training image but {name} has its shape; choose another task")
        for image, mask in zip(cycle, np.roll(cycle, 1), strict=True):
            masks[image] = mask
    for image, mask in zip(trained, masks, strict=True):
        yield Item("train", image.name, image.image, trained[mask].labels)
    for split in SPLITS[1:]:
        for volume in prepared.volumes(split):
            yield Item(split, volume.name, volume.image, volume.labels)


def chance(prepared: Prepared) -> float:
    """Return the largest score that a prediction independent of the truth can expect on the test split.

    An image without a pixel of a class counts as 1: calling nothing foreground is right there.
    """
    rule = prepared.task.scoring
    shares = []
    for volume in prepared.volumes("test"):
        truth_ZYX = np.asarray(volume.labels)
        for truth in truth_ZYX[None] if rule.is_volume else truth_ZYX:
            counted = np.count_nonzero(truth) if rule.ignore_unlabelled else truth.size
            shares += [np.count_nonzero(truth == label) / counted or 1.0 for label in rule.classes]
    return fmean(shares)


def run(
    task: str,
    model: str,
    seeds: int,
    seed: int = 0,
    data: Path | None = None,
    iterations: int | None = None,
    report: Callable[[str, int, float], None] = lambda *_: None,
) -> Outcome:
    """Train and score a model on the right labels of a task and on permuted ones.

    The trials are those of ``embench run``, on the CPU; the prepared data with permuted masks, and every result,
    stand in a temporary folder that is removed.

    Parameters
    ----------
    task, model : str
    seeds : int
        Trials of either kind. Each has a permutation of its own.
    seed : int
        Of the permutations.
    data : Path, optional
        Folder of prepared data (default: the user's).
    iterations : int, optional
        Default: the task's.
    report : callable
        Called with ``right`` or ``permuted``, seed and score as each trial ends.

    Raises
    ------
    BadInput
        As :func:`embench.runs.request.trials` and :func:`permuted`; a trial that diverged.
    """
    data = data or paths.data_folder()
    catalog.find_task(task, data)  # refuses an unknown name, with near ones
    with TemporaryDirectory(prefix="embench-labels-") as folder, catalog.open_prepared(task, data) as prepared:
        asked = RunRequest([model], [task], seeds=seeds, iterations=iterations, evaluations=1, device="cpu", data=data)
        scores: dict[str, list[float]] = {"right": [], "permuted": []}
        for spec in request.trials(replace(asked, results=Path(folder, "right"))):
            here = Path(folder, f"permuted-{spec.seed}")
            masks = permuted(prepared, np.random.default_rng([seed, spec.seed]))
            store.write(paths.prepared_path(task, here), prepared.task, masks)
            weights = (spec.weights,) if spec.weights else ()
            (other,) = request.trials(
                replace(asked, first_seed=spec.seed, seeds=1, data=here, results=here / "results", init_from=weights)
            )
            for kind, each in (("right", spec), ("permuted", other)):
                scores[kind].append(_score(trial.run(each)))
                report(kind, each.seed, scores[kind][-1])
        return Outcome(chance(prepared), tuple(scores["right"]), tuple(scores["permuted"]))


def _score(result: TrialResult | None) -> float:
    assert result is not None  # nobody else knows of the folder
    final = result.final
    if final is None or final.diagnostics is None:
        raise BadInput(f"{result.model.name} on {result.task}, seed {result.seed}: {result.message}; no score to judge")
    tuned = [iou for iou in (final.diagnostics.tuned_iou or {}).values() if iou is not None]
    return max(final.score if final.plain_score is None else final.plain_score, fmean(tuned or [0.0]))
