"""Model adapters by name: registered by entry point, or a class in the user's own file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embench.core.errors import BadInput
from embench.core.files import sha256
from embench.core.names import check_name, unknown
from embench.core.plugins import from_file, registered_under
from embench.models.base import GROUPS, SegmentationModel, TorchModel

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "embench.models"
FAMILIES = "embench.model_families"
"""Entry points of functions that make a model of the words behind a colon, as ``smp:Unet:resnet34``."""


def model_names() -> list[str]:
    """Return the names of the registered adapters, in order of registration; none is imported."""
    return list(registered_under(GROUP))


def find_model(spec: str) -> SegmentationModel:
    """Return the adapter that ``spec`` names.

    Parameters
    ----------
    spec : str
        A registered name, ``path/to/file.py:Class``, or ``FAMILY:WORDS``; with ``@full``, ``@frozen`` or ``@lora`` at
        its end the same model tuned in that way (:mod:`embench.models.tuning`). A file is code and is run: it is
        imported only because it was named.

    Raises
    ------
    BadInput
        Unknown name (with near ones), no such file or class, a class that is not an adapter, or what a family refuses.
    """
    return _checked(_class_of(spec), spec)()


def _class_of(spec: str) -> object:
    named, at, tuning = spec.rpartition("@")
    if at and tuning.isalpha():
        from embench.models.tuning import tuned

        return tuned(_checked(_class_of(named), named), tuning)
    if spec.endswith(".py"):
        raise BadInput(f"{spec}: say which class of it is the model, as in {spec}:MyModel")
    if ".py:" in spec:
        found = _with_a_name_of_its_own(from_file(spec, "a model"), spec)
        if isinstance(found, type):
            found.source_hash = sha256(Path(spec.rpartition(":")[0]))  # type: ignore[attr-defined]
        return found
    family, colon, words = spec.partition(":")
    families = registered_under(FAMILIES)
    if colon and family in families:
        return families[family].load()(words)
    registered = registered_under(GROUP)
    if spec not in registered:
        raise unknown("model", spec, [*registered, *GROUPS, *(f"{name}:..." for name in families), "all"])
    point = registered[spec]
    return _of_package(point.load(), point)


def _of_package(adapter: object, point: EntryPoint) -> object:
    """Note the version of another package than this one, whose adapters change when it does."""
    package = point.dist
    if isinstance(adapter, type) and package is not None and package.name.lower() not in _OURS:
        adapter.source_hash = f"{package.name}=={package.version}"  # type: ignore[attr-defined]
    return adapter


_OURS = ("embench", "embench-em")


def code_of(spec: str) -> Path | None:
    """Return the file that ``spec`` names, which is code or has programs run; ``None`` where there is none."""
    if ".py:" in spec:
        return Path(spec.rpartition(":")[0])
    family, _, words = spec.partition(":")
    return Path(words) if family == "external" and words.endswith(".toml") else None


def absolute(spec: str) -> str:
    """Return ``spec`` with the absolute path of its file, for a process that starts in another folder."""
    file = code_of(spec)
    return spec if file is None else spec.replace(str(file), str(file.absolute()), 1)


def chosen_models(specs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the models that ``specs`` name, each once: those named, and those that a group or ``all`` stands for."""
    named: dict[str, None] = {}
    grouped: dict[str, None] = {}
    for spec in specs:
        if spec == "all":
            grouped |= dict.fromkeys(model_names())
        elif spec in GROUPS:
            grouped |= dict.fromkeys(name for name in model_names() if find_model(name).group == spec)
        else:
            named[spec] = None
    return list(named), [name for name in grouped if name not in named]


def _with_a_name_of_its_own(adapter: object, spec: str) -> object:
    """Return a user's adapter; raise for one that has the name of a registered model, whose row it would take."""
    name = getattr(adapter, "name", "")
    point = registered_under(GROUP).get(name) if isinstance(name, str) else None
    own = f"{adapter.__module__}:{adapter.__qualname__}" if isinstance(adapter, type) else ""
    if point is not None and point.value != own:
        raise BadInput(f"{spec}: its name {name} is that of a registered model; give it one of its own")
    return adapter


def _checked(adapter: object, spec: str) -> type[SegmentationModel]:
    if not (isinstance(adapter, type) and issubclass(adapter, SegmentationModel)):
        raise BadInput(
            f"{spec}: not a model adapter; derive it from embench.models.base.TorchModel or SegmentationModel"
        )
    check_name(adapter.name, f"{spec}: name")
    if issubclass(adapter, TorchModel) and adapter.fit is not SegmentationModel.fit:
        raise BadInput(
            f"{spec}: a TorchModel is trained by the harness, which never calls its `fit`; say what it is to do by a "
            "recipe, or derive from SegmentationModel and train in `fit`"
        )
    if adapter.group not in GROUPS:
        raise unknown(f"group of {spec}", adapter.group, GROUPS)
    return adapter
