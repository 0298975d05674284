"""Which metrics tell models apart on which kind of structure."""

from __future__ import annotations

from embench.data.task import Structure

RECOMMENDED: dict[Structure, tuple[tuple[str, ...], str]] = {
    "blob": (
        ("nsd", "f1_50"),
        "a wrong outline and a merged neighbour hardly change the IoU of a large object",
    ),
    "tube": (
        ("cldice", "betti0_error"),
        "one gap takes a tube apart and costs a few voxels",
    ),
    "sheet": (
        ("nsd", "cldice"),
        "a sheet is a few voxels thick: a shift by one halves its IoU and changes nothing that matters",
    ),
    "small and many": (
        ("f1_50", "count_error"),
        "the few large objects decide the IoU, and the count is the result",
    ),
}
"""By structure: the metrics to look at first, and why."""
