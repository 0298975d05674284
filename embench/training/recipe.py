"""How a network is trained and applied, apart from the network: a named, frozen recipe (protocol 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from embench.core.errors import BadInput
from embench.core.names import is_name, unknown
from embench.core.plugins import points_of
from embench.data.task import Scale, Task
from embench.training.registries import AUGMENTATIONS, LOSSES, SAMPLERS, SCHEDULES, Own, Registry, own


@dataclass(frozen=True)
class WholeImage:
    """Predict a section in one piece (protocol 4.1).

    In 2D it is resized down to a multiple of ``multiple`` and back; in 3D it is reflect-padded and cropped.
    """

    multiple: int = 32


@dataclass(frozen=True)
class SlidingWindow:
    """Predict overlapping windows and average their logits with equal weight (protocol 4.2)."""

    window: int = 224
    overlap_2d: float = 0.5
    overlap_3d: float = 0.7
    batch: int = 4

    def starts(self, side: int, volume: bool) -> list[int]:
        """Return where windows begin along a side, padded to a window at least; the last one ends with the side."""
        step = max(int(self.window * (1 - (self.overlap_3d if volume else self.overlap_2d))), 1)
        last = max(side, self.window) - self.window
        return [min(start, last) for start in range(0, last + step, step)]


Inference = WholeImage | SlidingWindow
INFERENCES: dict[str, type[Inference]] = {"whole-image": WholeImage, "sliding-window": SlidingWindow}


@dataclass(frozen=True)
class Recipe:
    """Everything about training and prediction that is not the network, under one name.

    Where a name can stand, a callable of one's own can stand as well: results then tell its name and the digest of its
    source.

    Parameters
    ----------
    loss : str or callable
        A name (``embench list recipes``), or ``loss(logits_BCYX, target_BYX) -> Tensor``, a torch module say. Logits
        have one channel for a binary task; the target holds label values, int64.
    optimiser : str or callable
        A class of ``torch.optim`` by name (``AdamW``), or a callable like one.
    learning_rate, weight_decay, momentum : float
        ``momentum`` is for optimisers that have one (SGD, RMSprop).
    schedule : str or callable
        A name, or ``schedule(step, steps) -> float``: the factor on the learning rate in a step (from 0).
    inference : WholeImage or SlidingWindow, optional
        Default: sliding windows of the crop's size.
    crop, batch_size : int or None
        ``None``: the task's own.
    scale : {"full", "tiny"}
        Set by the harness, not by users: reduced tasks train networks of reduced width.
    precision : {"fp32", "bf16"}
        Arithmetic of training and prediction: bf16 is mixed precision, products alone are made in it.
    augmentation : str, albumentations transform, or callable
        A name; ``published`` is protocol 4.1's with what the task adds to it. A transform (``A.Compose([...])``) gets
        a random crop, and the whole section where one of its parts makes a crop itself. So does a callable ``(image_YX,
        labels_YX, rng) -> (image_YX, labels_YX)``; with a fourth parameter ``crop`` it gets the whole section.
    sampler : str or callable
        A name, or ``sampler(sections) -> positions``: which sections make an epoch, each as often as it says.
    optimiser_options : dict
        Further arguments of the optimiser, as ``{"betas": [0.9, 0.95]}``.
    warm_up : int
        Steps in which the learning rate rises linearly to what the schedule starts with.
    clip_gradient : float or None
        Largest norm of the gradient of all parameters together.
    ema : float
        Decay per step of a moving average of the parameters; with it the average is what predicts. 0: none.
    changed : tuple of str
        What was changed of a recipe that is not published, as ``learning_rate=0.001``.

    Raises
    ------
    BadInput
        A field that does not exist, or a value that cannot be: field and reason, all at once.
    """

    name: str
    loss: str | Own | Callable[..., Any] = "cross-entropy"
    optimiser: str | Own | Callable[..., Any] = "adamw"
    learning_rate: float = 0.001
    weight_decay: float = 0.0
    schedule: str | Own | Callable[..., Any] = "constant"
    inference: Inference = None  # type: ignore[assignment]  # until it is filled in for a task
    momentum: float = 0.9
    crop: int | None = None
    batch_size: int | None = None
    scale: Scale = "full"
    precision: Literal["fp32", "bf16"] = "fp32"
    # Results from before these fields have digests and file names without them: they are written where they differ from
    # their default. A new field belongs here.
    augmentation: str | Own | Callable[..., Any] = field(default="published", metadata={"later": True})
    sampler: str | Own | Callable[..., Any] = field(default="uniform", metadata={"later": True})
    optimiser_options: Mapping[str, Any] = field(default_factory=dict, metadata={"later": True})
    warm_up: int = field(default=0, metadata={"later": True})
    clip_gradient: float | None = field(default=None, metadata={"later": True})
    ema: float = field(default=0.0, metadata={"later": True})
    changed: tuple[str, ...] = field(default=(), metadata={"later": True})

    def __new__(cls, *_: Any, **given: Any) -> Recipe:
        """Refuse fields that do not exist, with near names."""
        for name in given:
            if name not in cls.__dataclass_fields__:
                raise unknown("recipe field", name, cls.__dataclass_fields__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if isinstance(self.optimiser, str):
            object.__setattr__(self, "optimiser", self.optimiser.lower())
        if faults := list(_faults(self)):
            raise BadInput([f"recipe {self.name}: {fault}" for fault in faults])

    def __hash__(self) -> int:
        return hash((self.name, self.learning_rate, self.crop, self.batch_size, self.scale, self.precision))

    def for_task(self, task: Task) -> Recipe:
        """Return the recipe with the task's crop and batch size filled in, tiny where the task is."""
        recipe = tiny(self) if task.scale == "tiny" and self.scale != "tiny" else self
        crop = recipe.crop or task.crop
        inference = recipe.inference or SlidingWindow(crop)
        return replace(recipe, crop=crop, batch_size=recipe.batch_size or task.batch_size, inference=inference)

    def resized(self, *, crop: int | None = None, batch_size: int | None = None) -> Recipe:
        """Return the recipe at another crop (and sliding window) or batch size."""
        inference = self.inference
        if crop and isinstance(inference, SlidingWindow):
            inference = replace(inference, window=crop)
        return replace(self, crop=crop or self.crop, batch_size=batch_size or self.batch_size, inference=inference)

    def plain(self) -> Recipe:
        """Return the recipe with every callable as it is written down, so that it can travel and be compared."""
        plain: dict[str, Any] = {name: _written(getattr(self, name), name) for name in OPEN}
        return replace(self, **plain)

    def revived(self, origin: Recipe) -> Recipe:
        """Return a plain recipe with the callables of the one that it was made of.

        Raises
        ------
        BadInput
            One of them is another now.
        """
        held = {name: value for name in OPEN if isinstance(value := getattr(self, name), Own)}
        for name, expected in held.items():
            if _written(getattr(origin, name), name) != expected:
                raise BadInput(f"recipe {self.name}: {name} changed since the run was planned; start it again")
        return replace(self, **{name: getattr(origin, name) for name in held})

    def facts(self) -> dict[str, Any]:
        """Return the recipe as JSON holds it; digests and file names follow from it."""
        found = {}
        for each in fields(self):
            value = getattr(self, each.name)
            default = {} if each.default is MISSING else each.default
            if each.metadata.get("later") and value == default:
                continue
            value = _written(value, each.name) if each.name in OPEN else value
            found[each.name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        return found


LATER = tuple(each.name for each in fields(Recipe) if each.metadata.get("later"))
"""Fields that a result has where they differ from their default."""

OPEN: dict[str, Registry | None] = {
    "loss": LOSSES,
    "optimiser": None,  # torch.optim is the registry
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
    "sampler": SAMPLERS,
}
"""Fields that hold a name or a callable, with the registry of the names."""


def _written(value: Any, name: str) -> str | Own:
    """Return a name or a callable as results hold it: our own names as they are, everything else with its source."""
    registry = OPEN[name]
    if isinstance(value, str):
        if registry is None or registry.is_built_in(value):
            return value
        return replace(own(registry.find(value), name), name=value)
    return own(value, name)


def _faults(recipe: Recipe) -> list[str]:
    """Say what cannot be, field by field; nothing heavy is imported."""
    faults = []
    if not is_name(recipe.name):
        faults.append(f"name {str(recipe.name)[:200]!r}: use lower-case letters, digits, '.', '_' and '-' (80 at most)")

    def number(name: str, least: float, most: float = math.inf, *, above: bool = False, whole: bool = False) -> None:
        value = getattr(recipe, name)
        kind = "a whole number" if whole else "a number"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not abs(value) < 1e300:
            faults.append(f"{name} {value!r:.80}: must be {kind}")
        elif not (least < value if above else least <= value) or not value < most:
            limit = f"above {least:g}" if above else f"at least {least:g}"
            faults.append(f"{name} {value!r}: must be {limit}" + (f" and below {most:g}" if most < math.inf else ""))

    number("learning_rate", 0, above=True)
    number("weight_decay", 0)
    number("momentum", 0, 1)
    number("warm_up", 0, whole=True)
    number("ema", 0, 1)
    if recipe.clip_gradient is not None:
        number("clip_gradient", 0, above=True)
    for name in ("crop", "batch_size"):
        if getattr(recipe, name) is not None:
            number(name, 1, whole=True)
    for name, allowed in (("scale", ("full", "tiny")), ("precision", ("fp32", "bf16"))):
        if getattr(recipe, name) not in allowed:
            faults.append(f"{name} {getattr(recipe, name)!r}: use {' or '.join(allowed)}")
    if not isinstance(recipe.inference, WholeImage | SlidingWindow | None):
        faults.append(f"inference {recipe.inference!r}: use WholeImage(...) or SlidingWindow(...)")
    for name, registry in OPEN.items():
        value = getattr(recipe, name)
        if isinstance(value, str):
            if registry is not None and not registry.has(value):
                faults.append(f"{name}: {unknown(registry.kind, value, registry.names())}")
        elif not isinstance(value, Own) and not callable(value):
            faults.append(f"{name} {value!r}: give a name or a callable")
    if recipe.schedule == "onecycle" and recipe.warm_up:
        faults.append(f"warm_up {recipe.warm_up}: onecycle has a warm-up of its own; leave it out")
    return faults


UNET = Recipe(
    name="unet",
    loss="cross-entropy",
    optimiser="adamw",
    learning_rate=0.003,
    weight_decay=0.1,
    schedule="onecycle",
    inference=WholeImage(32),
)
"""The published UNet-ResNet50 recipe (protocol 4.1)."""

RETINA = Recipe(
    name="retina",
    loss="cross-entropy+dice",
    optimiser="sgd",
    learning_rate=0.003,
    weight_decay=1e-4,
    schedule="polynomial",
    inference=SlidingWindow(224),
    crop=224,
)
"""The published fine-tuning recipe of TransUNet and RETINA (protocol 4.2)."""

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (UNET, RETINA)}
GROUP = "embench.recipes"


def recipe_names() -> list[str]:
    """Return the names of all recipes: the published ones, then those of installed packages."""
    return [*RECIPES, *(point.name for point in points_of(GROUP) if point.name not in RECIPES)]


def find_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``; ``-tiny`` at the end gives its reduced form.

    Parameters
    ----------
    name : str
        Of a published recipe or of one that an installed package offers under the entry points ``embench.recipes``;
        ``FILE.py:NAME``, which is code and is run; or ``FILE.toml``.

    Raises
    ------
    BadInput
        No such recipe, file or name in it; or a recipe that cannot be (field and reason).
    """
    if ".py:" in name or name.endswith(".toml"):
        from embench.training.recipe_files import read

        return read(name)
    base = name.removesuffix("-tiny")
    recipe = published_recipe(name) or _installed(base)
    if recipe is None:
        raise unknown("recipe", name, recipe_names())
    return tiny(recipe) if name.endswith("-tiny") and recipe.scale != "tiny" else recipe


def published_recipe(name: str) -> Recipe | None:
    """Return the published recipe called ``name``, whoever gives the name: nothing is read, imported or run."""
    base = name.removesuffix("-tiny")
    recipe = RECIPES.get(base)
    return tiny(recipe) if recipe and base != name else recipe


def _installed(name: str) -> Recipe | None:
    for point in points_of(GROUP):
        if point.name == name:
            return checked(point.load(), f"{point.value} (entry point {GROUP})")
    return None


def checked(value: Any, place: str) -> Recipe:
    """Return ``value`` if it is a recipe, and none that pretends to be a published one; ``place``: where it stands."""
    if not isinstance(value, Recipe):
        raise BadInput(f"{place}: {type(value).__name__}, not a recipe; make it with embench.Recipe(name=..., ...)")
    own_name = value.name.removesuffix("-tiny")
    if own_name in RECIPES and value not in (RECIPES[own_name], tiny(RECIPES[own_name])):
        raise BadInput(f"{place}: recipe name {value.name!r} is that of a published recipe; choose another")
    return value


def tiny(recipe: Recipe) -> Recipe:
    """Return the reduced form of ``recipe`` used on the synthetic suite: narrow network, crop 64, batch 8.

    Of the published recipes SGD runs at 0.1 and AdamW at 0.01: at the published 0.003 the narrow networks hardly move
    within the suite's short budgets. A recipe of one's own keeps its learning rate, and crop and batch size where they
    are smaller.
    """
    if recipe.name not in RECIPES:
        crop, batch_size = min(recipe.crop or 64, 64), min(recipe.batch_size or 8, 8)
        return replace(recipe.resized(crop=crop, batch_size=batch_size), scale="tiny")
    rate = 0.1 if recipe.optimiser == "sgd" else 0.01
    return replace(recipe.resized(crop=64, batch_size=8), name=f"{recipe.name}-tiny", scale="tiny", learning_rate=rate)


# Changes of single fields


def with_changes(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return the recipe with single fields changed, each as ``field=value``.

    A recipe that is not published notes them in ``changed``, which tells its rows apart by name.
    """
    given: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        settable = [each.name for each in fields(Recipe) if each.name not in ("name", "scale", "changed")]
        if not equals:
            raise BadInput(f"--set {change}: give field=value, as in learning_rate=0.001")
        if name not in settable:
            raise unknown("recipe field", name, settable)
        given[name] = value_of(name, text, f"--set {change}")
    if not given:
        return recipe
    changed = recipe.changed if published_recipe(recipe.name) else (*recipe.changed, *changes)
    return replace(recipe, **given, changed=changed)


def value_of(name: str, text: str, place: str) -> Any:
    """Return a field's value from its text: a number, ``none``, a name, or ``FILE.py:NAME`` for a callable.

    Raises
    ------
    BadInput
        The text is no value of that field; ``place`` says where it stands.
    """
    if name in OPEN:
        if ".py:" in text:
            from embench.training.recipe_files import from_python

            return from_python(text)
        return text
    if name == "inference":
        if text not in INFERENCES:
            raise unknown(f"{place}: inference", text, INFERENCES)
        return INFERENCES[text]()
    if name == "optimiser_options":
        import json

        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise BadInput(f'{place}: give JSON, as in optimiser_options={{"betas": [0.9, 0.95]}}')
        return found
    if name == "precision":
        return text
    if text.lower() == "none":
        return None
    try:
        return int(text) if name in ("crop", "batch_size", "warm_up") else float(text)
    except ValueError:
        raise BadInput(f"{place}: {text!r} is no number") from None
