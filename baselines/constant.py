"""What a score means: models that see nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embench.data.task import Task
from embench.models.base import SegmentationModel
from embench.training.sampler import TrainingSections


class Background(SegmentationModel):
    """Every pixel is background."""

    name = "background"
    group = "classical"
    title = "Background everywhere"
    licence = "MIT"
    deterministic = True

    def predict(self, image_YX: NDArray[np.uint8], task: Task) -> NDArray[np.float32]:
        return _constant(image_YX, task, 0)


class Foreground(SegmentationModel):
    """Every pixel is of that scored class which most training pixels are of."""

    name = "foreground"
    group = "classical"
    title = "Foreground everywhere"
    licence = "MIT"
    deterministic = True
    value: int = 1

    def fit(self, sections: TrainingSections, task: Task, iterations: int, rng: np.random.Generator) -> None:
        counts = np.zeros(256, np.int64)
        for number in range(len(sections)):
            counts += np.bincount(sections[number][1].ravel(), minlength=256)
        self.value = max(task.scoring.classes, key=lambda value: counts[value])

    def predict(self, image_YX: NDArray[np.uint8], task: Task) -> NDArray[np.float32]:
        return _constant(image_YX, task, self.value)


def _constant(image_YX: NDArray[np.uint8], task: Task, value: int) -> NDArray[np.float32]:
    scores_CYX = np.zeros((task.outputs, *image_YX.shape), np.float32)
    if task.outputs == 1:
        scores_CYX[0] = float(value > 0)
    else:
        scores_CYX[value] = 1
    return scores_CYX
