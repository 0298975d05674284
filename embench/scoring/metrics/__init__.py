"""The metrics: what says how well a prediction agrees with the truth.

Here belong definitions that look at label maps, probabilities or objects of one image, each in its own file, and what
they share (masks, surfaces, instances, skeletons). Which images there are, how scores are averaged over them and what
ranks does not belong here.

A further metric is a file with a class and an entry in :data:`BUILT_IN`; another package registers its own under the
entry point ``embench.metrics``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from embench.core.errors import BadInput
from embench.core.names import check_name, unknown
from embench.core.plugins import registered_under
from embench.scoring.metrics.adapted_rand_error import AdaptedRandError
from embench.scoring.metrics.ap_50_95 import ObjectAP
from embench.scoring.metrics.base import Evidence, Metric, Need
from embench.scoring.metrics.betti0_error import Betti0Error
from embench.scoring.metrics.boundary_iou import BoundaryIoU
from embench.scoring.metrics.brier import Brier
from embench.scoring.metrics.calibration_error import CalibrationError
from embench.scoring.metrics.cldice import ClDice
from embench.scoring.metrics.count_error import CountError
from embench.scoring.metrics.dice import Dice
from embench.scoring.metrics.f1_50 import F1
from embench.scoring.metrics.hd95 import HD95
from embench.scoring.metrics.iou import IoU
from embench.scoring.metrics.masks import Masks
from embench.scoring.metrics.mean_surface_distance import MeanSurfaceDistance
from embench.scoring.metrics.nsd import NSD
from embench.scoring.metrics.pq_50 import PanopticQuality
from embench.scoring.metrics.precision import Precision
from embench.scoring.metrics.recall import Recall
from embench.scoring.metrics.size_error import SizeError
from embench.scoring.metrics.surface_error import SurfaceError
from embench.scoring.metrics.vi_merge import VIMerge
from embench.scoring.metrics.vi_split import VISplit
from embench.scoring.metrics.volume_error import VolumeError

__all__ = ["BUILT_IN", "Evidence", "Masks", "Metric", "Need", "checked", "chosen", "find_metric", "metrics"]

GROUP = "embench.metrics"

BUILT_IN: tuple[type[Metric], ...] = (
    IoU,
    Dice,
    Precision,
    Recall,
    NSD,
    BoundaryIoU,
    HD95,
    MeanSurfaceDistance,
    ClDice,
    Betti0Error,
    F1,
    PanopticQuality,
    ObjectAP,
    VISplit,
    VIMerge,
    AdaptedRandError,
    CountError,
    SizeError,
    VolumeError,
    SurfaceError,
    Brier,
    CalibrationError,
)
"""In the order in which tables show them."""


@cache
def metrics() -> Mapping[str, Metric]:
    """Return every metric by name: those built in, then those of other installed packages."""
    found = {each.name: each() for each in BUILT_IN}
    for point in registered_under(GROUP).values():
        metric = checked(point.load(), point.value)
        if metric.name in found:
            raise BadInput(f"{point.value}: a metric named {metric.name} is there already; uninstall the package")
        found[metric.name] = metric
    return found


def find_metric(name: str) -> Metric:
    """Return the metric of that name; raise :class:`BadInput`, with near names, where there is none."""
    found = metrics()
    if name not in found:
        raise unknown("metric", name, [*found, "all"])
    return found[name]


def chosen(names: Iterable[str]) -> list[Metric]:
    """Return the metrics that names stand for, ``all`` for every one, each once and in the order of the registry."""
    names = list(names)
    wanted = {metric.name for name in names if name != "all" for metric in [find_metric(name)]}
    return [metric for metric in metrics().values() if "all" in names or metric.name in wanted]


def checked(metric: object, origin: str) -> Metric:
    """Return an instance of a metric class; raise :class:`BadInput` where it is none or lacks a part."""
    if not (isinstance(metric, type) and issubclass(metric, Metric)):
        raise BadInput(f"{origin}: not a metric; derive it from embench.Metric")
    for part in ("name", "title", "parts"):
        if not getattr(metric, part, None):
            raise BadInput(f"{origin}: a metric needs a {part}")
    check_name(metric.name, f"{origin}: name")
    if missing := sorted(getattr(metric, "__abstractmethods__", ())):
        raise BadInput(f"{origin}: a metric needs {' and '.join(missing)}()")
    return metric()
