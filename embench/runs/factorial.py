"""The factorial design: two architectures, each with two starts, under two recipes."""

from __future__ import annotations

from collections.abc import Sequence

from embench.core.errors import BadInput
from embench.models.registry import find_model


def design(pairs: Sequence[str], recipes: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the architecture and the start (``random``, ``pre-trained``) of each model.

    Parameters
    ----------
    pairs : sequence of str
        Each ``ARCHITECTURE=RANDOM,PRETRAINED``: a name, and the models that stand for its two starts.
    recipes : sequence of str
        Names.

    Raises
    ------
    BadInput
        Not two architectures, not two recipes, a model in two cells, or in the cell of another start.
    """
    cells: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        architecture, equals, models = pair.partition("=")
        starts = models.split(",")
        if not (architecture and equals and len(starts) == 2 and all(starts)):
            raise BadInput(f"--pair {pair}: give ARCHITECTURE=RANDOM,PRETRAINED, as in TransUNet=transunet,retina")
        for spec, start in zip(starts, ("random", "pre-trained"), strict=True):
            if (getattr(find_model(spec), "pretraining", None) is None) != (start == "random"):
                raise BadInput(f"--pair {pair}: {spec} does not start {start}; the random one comes first")
            if spec in cells:
                raise BadInput(f"--pair {pair}: {spec} is in two cells")
            cells[spec] = (architecture, start)
    if len(pairs) != 2 or len({architecture for architecture, _ in cells.values()}) != 2:
        raise BadInput(f"--pair: {len(pairs)} given; a factorial has two architectures of different names")
    if len(set(recipes)) != 2:
        raise BadInput(f"--recipes {','.join(recipes)}: give two")
    return cells
