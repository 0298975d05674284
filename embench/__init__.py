"""embench: a benchmark of segmentation models on electron-microscopy images.

The names below are the public ones. Each is imported when it is first used, so that ``import embench`` is immediate.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embench.api import load_task, predict, results, run, tasks
    from embench.core.errors import BadInput
    from embench.data.task import Dataset, Download, Item, Scoring, Split, Task, UnlabelledSet
    from embench.models.base import SegmentationModel, TorchModel
    from embench.models.volume import TorchVolumeModel, VolumeModel
    from embench.pretraining.method import Pretraining
    from embench.scoring.evaluate import score
    from embench.scoring.metrics.base import Metric
    from embench.scoring.results import load as load_result
    from embench.scoring.schema import TrialResult
    from embench.training.recipe import Recipe, SlidingWindow, WholeImage

__version__ = "0.1.0"

_PUBLIC = {
    "BadInput": "embench.core.errors:BadInput",
    "Dataset": "embench.data.task:Dataset",
    "Download": "embench.data.task:Download",
    "Item": "embench.data.task:Item",
    "Metric": "embench.scoring.metrics.base:Metric",
    "Pretraining": "embench.pretraining.method:Pretraining",
    "Recipe": "embench.training.recipe:Recipe",
    "Scoring": "embench.data.task:Scoring",
    "SegmentationModel": "embench.models.base:SegmentationModel",
    "SlidingWindow": "embench.training.recipe:SlidingWindow",
    "Split": "embench.data.task:Split",
    "Task": "embench.data.task:Task",
    "TorchModel": "embench.models.base:TorchModel",
    "TorchVolumeModel": "embench.models.volume:TorchVolumeModel",
    "TrialResult": "embench.scoring.schema:TrialResult",
    "UnlabelledSet": "embench.data.task:UnlabelledSet",
    "VolumeModel": "embench.models.volume:VolumeModel",
    "WholeImage": "embench.training.recipe:WholeImage",
    "load_result": "embench.scoring.results:load",
    "load_task": "embench.api:load_task",
    "predict": "embench.api:predict",
    "results": "embench.api:results",
    "run": "embench.api:run",
    "score": "embench.scoring.evaluate:score",
    "tasks": "embench.api:tasks",
}

__all__ = [
    "BadInput",
    "Dataset",
    "Download",
    "Item",
    "Metric",
    "Pretraining",
    "Recipe",
    "Scoring",
    "SegmentationModel",
    "SlidingWindow",
    "Split",
    "Task",
    "TorchModel",
    "TorchVolumeModel",
    "TrialResult",
    "UnlabelledSet",
    "VolumeModel",
    "WholeImage",
    "load_result",
    "load_task",
    "predict",
    "results",
    "run",
    "score",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'embench' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
