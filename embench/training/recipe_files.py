"""Recipes in files: ``FILE.py:NAME``, which is code and is run, and ``FILE.toml``, which is data.

A TOML file has the fields of :class:`embench.training.recipe.Recipe` by name; ``augmentation`` may be a list of tables,
each a transform of albumentations with its arguments::

    name = "gentle"
    loss = "focal"
    optimiser = "AdamW"
    learning_rate = 0.001
    schedule = "cosine"

    [inference]
    kind = "sliding-window"
    overlap_2d = 0.25

    [[augmentation]]
    transform = "HorizontalFlip"
    p = 0.5
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from embench.core.errors import BadInput
from embench.core.names import unknown
from embench.core.plugins import from_file
from embench.training.recipe import INFERENCES, OPEN, Inference, Recipe, checked


def read(spec: str) -> Recipe:
    """Return the recipe in ``FILE.py:NAME`` or ``FILE.toml``.

    Raises
    ------
    BadInput
        No such file or name, an unknown field, or a value that cannot be: file, field and reason.
    """
    return checked(from_python(spec) if ".py:" in spec else _from_toml(Path(spec)), spec)


def from_python(spec: str) -> Any:
    """Return what ``FILE.py:NAME`` names; the file is imported only because it was named."""
    return from_file(spec, "a recipe or a part of one")


def _from_toml(path: Path) -> Recipe:
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not TOML ({error})") from None
    known = [field.name for field in fields(Recipe) if field.name not in ("scale", "changed")]
    for name in given:
        if name not in known:
            raise unknown(f"recipe field in {path}", name, known)
    given.setdefault("name", path.stem)
    for name in OPEN:
        value = given.get(name)
        if isinstance(value, str) and ".py:" in value:  # beside the recipe
            file, _, attribute = value.rpartition(":")
            given[name] = from_python(f"{path.parent / file}:{attribute}")
    if "inference" in given:
        given["inference"] = _inference(path, given["inference"])
    if isinstance(given.get("augmentation"), list):
        given["augmentation"] = _composed(path, given["augmentation"])
    try:
        return Recipe(**given)
    except BadInput as error:
        raise BadInput([f"{path}: {line}" for line in error.lines]) from None


def _inference(path: Path, given: Any) -> Inference:
    table: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"kind": given}
    kind = str(table.pop("kind", ""))
    if kind not in INFERENCES:
        raise unknown(f"{path}: inference", kind, INFERENCES)
    known = [field.name for field in fields(INFERENCES[kind])]
    for name in table:
        if name not in known:
            raise unknown(f"field of inference in {path}", name, known)
    made: Any = INFERENCES[kind]
    return made(**table)


def _composed(path: Path, tables: list[Any]) -> Any:
    from embench.training.augmentations import albumentations

    A = albumentations()
    known = [name for name, value in vars(A).items() if isinstance(value, type) and issubclass(value, A.BasicTransform)]
    transforms = []
    for number, table in enumerate(tables, start=1):
        place = f"{path}: augmentation {number}"
        if not isinstance(table, Mapping) or "transform" not in table:
            raise BadInput(f'{place}: give transform = "NAME" and its arguments')
        options = {name: value for name, value in table.items() if name != "transform"}
        if table["transform"] not in known:
            raise unknown(f"{place}: transform of albumentations", str(table["transform"]), known)
        try:
            transforms.append(getattr(A, table["transform"])(**options))
        except Exception as error:  # whatever the library says of the arguments
            raise BadInput(f"{place}: {table['transform']}: {str(error).splitlines()[0]}") from None
    return A.Compose(transforms)
