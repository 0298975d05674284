"""What a recipe can name: losses, schedules, augmentations and samplers, ours and anybody's.

A registry finds a callable by name: built in (imported at its first use), registered in this process, or offered by an
installed package under an entry point. A recipe can also hold a callable itself; it is then known by its name and by
the digest of its source (:class:`Own`), so that a result tells which one was used, and a changed one is another recipe.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from embench.core.errors import BadInput
from embench.core.names import check_name, unknown
from embench.core.plugins import points_of


class Registry:
    """Callables of one kind by name.

    Parameters
    ----------
    kind : str
        For messages: what is registered.
    group : str
        The entry points under which installed packages offer more.
    built_in : dict
        ``module:name`` by name.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.group = kind, group
        self._places = dict(built_in)
        self._registered: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that registers a callable under ``name`` in this process."""
        check_name(name)

        def keep(value: Callable[..., Any]) -> Callable[..., Any]:
            self._registered[name] = value
            return value

        return keep

    def is_built_in(self, name: str) -> bool:
        """Whether the name is this package's own, so that its version says what the callable is."""
        return name in self._places and name not in self._registered

    def has(self, name: str) -> bool:
        """Whether there is such a name; installed packages are asked for the others alone, as that takes its time."""
        return name in self._places or name in self._registered or name in self.names()

    def names(self) -> list[str]:
        """Return every name; nothing is imported."""
        return [*self._places, *self._registered, *(point.name for point in points_of(self.group))]

    def find(self, name: str) -> Callable[..., Any]:
        """Return the callable called ``name``; raise :class:`BadInput` with near names where there is none."""
        if name in self._registered:
            return self._registered[name]
        if name in self._places:
            module, _, attribute = self._places[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        for point in points_of(self.group):
            if point.name == name:
                return point.load()
        raise unknown(self.kind, name, self.names())


LOSSES = Registry(
    "loss",
    "embench.losses",
    {
        "cross-entropy": "embench.training.losses:cross_entropy",
        "cross-entropy+dice": "embench.training.losses:cross_entropy_and_dice",
        "dice": "embench.training.losses:dice",
        "focal": "embench.training.losses:focal",
    },
)
"""``loss(logits_BCYX, target_BYX) -> Tensor``; one with a parameter ``class_weights`` is given the task's."""

SCHEDULES = Registry(
    "schedule",
    "embench.schedules",
    {
        "onecycle": "torch.optim.lr_scheduler:OneCycleLR",
        "polynomial": "embench.training.optim:polynomial",
        "cosine": "embench.training.optim:cosine",
        "linear": "embench.training.optim:linear",
        "constant": "embench.training.optim:constant",
        "warm-cosine": "embench.training.optim:warm_cosine",
    },
)
"""``schedule(step, steps) -> float``: the factor on the learning rate in a step (from 0) of so many."""

AUGMENTATIONS = Registry(
    "augmentation",
    "embench.augmentations",
    {
        "published": "embench.training.augmentations:published",
        "flips": "embench.training.augmentations:flips",
        "none": "embench.training.augmentations:crop_alone",
        "volume": "embench.training.patches:volume",
    },
)
"""``augmentation(crop, task)`` returns ``(image_YX, labels_YX, rng) -> (image_YX, labels_YX)``, crop pixels a side."""

SAMPLERS = Registry(
    "sampler",
    "embench.samplers",
    {
        "uniform": "embench.training.sampler:uniform",
        "foreground": "embench.training.sampler:foreground",
    },
)
"""``sampler(sections) -> positions``: the sections of an epoch, one as often as it is to be drawn."""


# Callables that a recipe holds itself


@dataclass(frozen=True)
class Own:
    """A callable that a recipe holds itself, as it is written down.

    Parameters
    ----------
    name : str
    source : str
        Digest of its source text; of a transform of albumentations, the library's version.
    settings
        What it was made with, as JSON holds it; ``None`` where it is a function.
    """

    name: str
    source: str
    settings: Any = None


def own(value: Any, field: str) -> Own:
    """Return what is written down of a callable.

    Its own source text is hashed: what it calls elsewhere, and values that it reads from around it, are not seen.

    Raises
    ------
    BadInput
        It has no source that can be read, as where it was typed into a shell.
    """
    if isinstance(value, Own):
        return value
    if isinstance(value, partial):
        inner = own(value.func, field)
        given = [*(repr(each) for each in value.args), *(f"{key}={each!r}" for key, each in value.keywords.items())]
        return Own(inner.name, inner.source, given)
    if is_albumentations(value):
        from importlib.metadata import version

        theirs = {type(part) for part in parts_of(value) if not type(part).__module__.startswith("albumentations.")}
        sources = sorted(_digest(inspect.getsource(each)) for each in theirs)
        library = f"albumentations {version('albumentations')}"
        return Own(type(value).__name__, ", ".join([library, *sources]), _transforms(value))
    code: Any = value if inspect.isroutine(value) or isinstance(value, type) else type(value)
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):
        raise BadInput(
            f"{field}: the source of {name_of(code)} cannot be read, so results could not tell "
            "which one was used; define it in a file"
        ) from None
    return Own(name_of(code), _digest(source), None if code is value else _attributes(value))


def name_of(value: Any) -> str:
    """Return how messages and results call a name, a callable, or an object that can be called."""
    return value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)


def is_albumentations(value: Any) -> bool:
    """Whether a value is a transform of albumentations; the library is not imported for that."""
    return any(base.__module__.startswith("albumentations.") for base in type(value).__mro__)


def parts_of(transform: Any) -> Iterator[Any]:
    """Yield the transforms that alter pixels, without those that hold others."""
    inner = getattr(transform, "transforms", None)
    if inner is None:
        yield transform
    else:
        for each in inner:
            yield from parts_of(each)


def _transforms(value: Any) -> Any:
    """Return what albumentations itself writes down of a transform."""
    try:
        return json.loads(json.dumps(value.to_dict()["transform"]))
    except Exception:  # a transform of the user's own, or one that holds a function
        return repr(value)


def _attributes(value: Any) -> dict[str, str]:
    """Return the plain attributes of an object (a torch module's too): what it was made with."""
    plain = (str, int, float, bool, type(None), list, tuple, dict)
    found = {name: repr(each) for name, each in vars(value).items() if isinstance(each, plain) and name[:1] != "_"}
    buffers = {name: each for name, each in getattr(value, "_buffers", {}).items() if each is not None}
    return found | {name: repr(each.tolist()) for name, each in buffers.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
