"""What a task's test set is made of: constants that no result can change.

How many pixels of each class a test image has follows from the truth alone: it is TP + FN of every prediction of it. So
all results of one test set agree in their images and in these sums, and a result that does not was scored on something
else, or made up.

A repository of results may name its test sets in ``registry.json``: for each task the hashes of data on which results
may stand there, and what their test sets hold. The file is its maintainers', written from prepared data; a pull request
cannot change it (:mod:`embench.scoring.pull_request`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from embench.core import confined
from embench.core.errors import BadInput
from embench.core.files import write_atomic
from embench.core.types import Count, Digest, Name
from embench.scoring import verify
from embench.scoring.schema import TrialResult, digest_of

FILE = "registry.json"
MAX_BYTES = 64 * 2**20

Truth = dict[str, dict[int, int]]
"""Pixels of each class, by test image or volume."""


class TestSet(BaseModel):
    """The data of a task, by hash, and the pixels of each scored class by test image."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    __test__ = False  # no test class

    data_hash: Digest
    images: dict[Annotated[str, Field(max_length=400)], dict[int, Count]]


Registry = Mapping[str, tuple[TestSet, ...]]
"""Test sets by task: mostly one, and another where the data was published anew."""
_REGISTRY: TypeAdapter[dict[Name, tuple[TestSet, ...]]] = TypeAdapter(dict[Name, tuple[TestSet, ...]])


def truth_of(result: TrialResult) -> Truth | None:
    """Return TP + FN by image and class; ``None`` for a trial that has no scores."""
    if not result.snapshots:
        return None
    return {image.name: verify.truth_of(image) for image in result.snapshots[-1].images}


def digest(truth: Truth) -> str:
    """Return twelve digits that differ when a name or a number differs."""
    return digest_of(sorted((name, sorted(classes.items())) for name, classes in truth.items()))


def load(folder: Path) -> Registry:
    """Read the registry of a folder of results; empty where there is none.

    Raises
    ------
    BadInput
        A file that is none.
    """
    path = folder / FILE
    try:
        return _REGISTRY.validate_json(confined.read(path, folder, MAX_BYTES, "a registry"))
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadInput(f"{path}: not a registry of test sets ({first['msg']}); restore it") from None


def fault(result: TrialResult, registry: Registry) -> str | None:
    """Return in what a result contradicts the registered test set of its task; ``None`` for a task that has none."""
    known = registry.get(result.task)
    if not known:
        return None
    own = result.fingerprint.data_hash
    for each in known:
        if each.data_hash == own:
            return differences(result, each.images)
    hashes = ", ".join(each.data_hash[:12] for each in known)
    return f"data hash {own[:12]}, {FILE} has {hashes}; prepare the data again and compare the hashes"


def fault_of(task: str, data_hash: str, truth: str, registry: Registry) -> str | None:
    """Return what :func:`fault` does, from the digest of the truth that a result implies (empty: it implies none)."""
    known = registry.get(task)
    if not known:
        return None
    for each in known:
        if each.data_hash == data_hash:
            is_other = truth not in ("", digest(each.images))
            return f"its counts imply another test set than {FILE} has" if is_other else None
    hashes = ", ".join(each.data_hash[:12] for each in known)
    return f"data hash {data_hash[:12]}, {FILE} has {hashes}; prepare the data again and compare the hashes"


def differences(result: TrialResult, truth: Truth) -> str | None:
    """Return how the test set that a result implies differs from the true one."""
    own = truth_of(result)
    if own is None or own == truth:
        return None
    if own.keys() != truth.keys():
        odd = sorted(own.keys() ^ truth.keys())
        return f"its test images are not those of the task ({', '.join(map(repr, odd[:3]))})"
    image = next(name for name in own if own[name] != truth[name])
    return f"its counts of {image!r} imply {own[image]} pixels by class, the truth has {truth[image]}"


def save(registry: Registry, folder: Path) -> Path:
    """Write the registry of a folder of results, and return the file."""
    path = folder / FILE
    write_atomic(path, _REGISTRY.dump_json(dict(sorted(registry.items())), indent=1) + b"\n", below=folder)
    return path
