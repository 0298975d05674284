"""What a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, Literal

from embench.scoring.metrics.masks import Masks

Evidence = tuple[float, ...]
"""The numbers from which a score follows."""
Need = Literal["scores", "instances", "voxel size", "tubular"]


class Metric(ABC):
    """A figure of how well a prediction agrees with the truth, for one class in one image.

    It is made in two steps. :meth:`evidence` reduces masks to a few numbers, which a result file keeps; :meth:`score`
    is a function of these numbers alone, so that whoever reads the file can compute it again.

    Attributes
    ----------
    name : str
        Under which results, tables and JSON know it.
    title : str
        Human name.
    unit : str
        Of the score: ``nm``, ``bits``, ``objects``; empty for a plain number.
    higher_is_better : bool
    needs : frozenset of str
        What it needs beside label maps: ``scores`` (predicted probabilities), ``instances`` (objects, from identities
        or from connected components), ``voxel size`` (its figures are lengths), ``tubular`` (only for classes whose
        structures are tubes or sheets).
    parts : tuple of str
        Names of the numbers of the evidence.
    additive : bool
        Whether the evidence of several images, added up, is the evidence of the images taken together.
    ranks : bool
        Whether rows may be ranked by it: not by what is undefined for an empty prediction.
    best : float
        The score of a perfect prediction.
    description : str
        One sentence for a reader who has never heard of it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset()
    parts: ClassVar[tuple[str, ...]]
    additive: ClassVar[bool] = True
    ranks: ClassVar[bool] = True
    description: ClassVar[str] = ""

    @abstractmethod
    def evidence(self, masks: Masks) -> Evidence | None:
        """Return the numbers named by :attr:`parts`, finite; ``None`` where the metric is undefined on these masks."""

    @abstractmethod
    def score(self, evidence: Evidence) -> float | None:
        """Return the score that follows from evidence; ``None`` where it is undefined."""

    @property
    def best(self) -> float:
        """The score of a perfect prediction."""
        return 1.0 if self.higher_is_better else 0.0

    def __call__(self, masks: Masks) -> float | None:
        """Return the score of one image."""
        evidence = self.evidence(masks)
        return None if evidence is None else self.score(evidence)

    def mean(self, images: Iterable[Evidence | None]) -> float | None:
        """Return the mean of the scores of images, over those where it is defined; ``None`` where none is."""
        scores = [self.score(evidence) for evidence in images if evidence is not None]
        known = [score for score in scores if score is not None]
        return sum(known) / len(known) if known else None

    def pooled(self, images: Iterable[Evidence | None]) -> float | None:
        """Return the score of several images taken together; ``None`` where evidence does not add up."""
        known = [evidence for evidence in images if evidence is not None]
        if not self.additive or not known:
            return None
        return self.score(tuple(map(sum, zip(*known, strict=True))))
