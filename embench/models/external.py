"""A tool of somebody else as a model: a TOML file says how it is installed and called. Nothing is run here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embench.core.errors import BadInput
from embench.core.files import sha256
from embench.core.names import check_name, unknown
from embench.models.base import SegmentationModel

MAX_BYTES = 2**18
PLACEHOLDERS = {
    "work": "the trial's own folder, kept until it is done",
    "data": "the exported task",
    "train_images": "exported training images",
    "train_masks": "exported training masks",
    "test_images": "exported test images",
    "predictions": "where one label map per test image must be written",
    "seed": "of the trial",
    "iterations": "optimiser steps of the trial's budget",
    "device": "cpu or cuda",
    "threads": "CPU threads of the trial",
    "classes": "number of classes, the background included",
    "python": "the interpreter of the tool's own environment",
    "tool": "the folder of the TOML file",
}
"""What stands in braces in commands and variables."""

Command = Annotated[list[str], Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Environment(_Table):
    """How the tool's virtual environment is made.

    ``requirements`` are pip's; ``inherit`` lets it see the packages of embench's own environment, so that torch, say,
    is not installed a second time; ``variables`` are set for every command.
    """

    requirements: tuple[str, ...] = ()
    inherit: bool = False
    variables: dict[str, str] = {}


class Limits(_Table):
    """What a trial may take: ``hours`` of all commands together, ``memory_gb`` of address space of each process."""

    hours: float = Field(default=24.0, gt=0)
    memory_gb: float | None = Field(default=None, gt=0)


class Tool(_Table):
    """What a TOML file says of a tool.

    ``budget`` says in words what the tool trains for. ``layout`` is the format of :mod:`embench.scoring.export` in
    which it gets the task, ``place`` the folder below its work folder into which this is written. ``train`` and
    ``predict`` are commands, run one after the other without a shell; see :data:`PLACEHOLDERS`.
    """

    name: str
    title: str = ""
    family: Literal["cnn", "transformer", "hybrid", "mamba", "other"] = "other"
    licence: str = "unknown"
    citation: str = ""
    budget: str = Field(min_length=1)
    layout: Literal["nnunet", "folder"] = "folder"
    place: str = "data"
    environment: Environment = Environment()
    limits: Limits = Limits()
    train: tuple[Command, ...] = ()
    predict: Annotated[tuple[Command, ...], Field(min_length=1)]

    @cached_property
    def counts_iterations(self) -> bool:
        """Whether the tool is told how many iterations to train."""
        return any("{iterations}" in text for text in self.texts())

    def texts(self) -> Iterator[str]:
        """Yield everything in which placeholders may stand."""
        for command in (*self.train, *self.predict):
            yield from command
        yield from self.environment.variables.values()
        yield self.place


class ExternalTool(SegmentationModel):
    """A model that trains and predicts by programs of its own."""

    file: ClassVar[Path]
    tool: ClassVar[Tool]


def model(words: str) -> type[ExternalTool]:
    """Return the model called ``external:FILE.toml``.

    Raises
    ------
    BadInput
        No such file, or one that does not describe a tool: what and where.
    """
    path = Path(words)
    tool = read(path)
    facts: dict[str, Any] = {
        "name": tool.name,
        "group": "tool",
        "__doc__": f"Run in an environment of its own. Budget: {tool.budget}",
        "__module__": __name__,
        "title": tool.title or tool.name,
        "family": tool.family,
        "licence": tool.licence,
        "citation": tool.citation,
        "file": path.absolute(),
        "tool": tool,
        "source_hash": sha256(path),
    }
    return type("External", (ExternalTool,), facts)


def read(path: Path) -> Tool:
    """Read the description of a tool; raises as :func:`model` does."""
    try:
        if not path.is_file():
            raise BadInput(f"{path}: no such file; a tool is given as external:FILE.toml")
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path}: {path.stat().st_size} bytes; the description of a tool has at most {MAX_BYTES}")
        facts = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not TOML ({error})") from None
    try:
        tool = Tool.model_validate(facts)
    except ValidationError as error:
        raise BadInput([_told(path, fault) for fault in error.errors()]) from None
    check_name(tool.name, f"{path}: name")
    place = Path(tool.place)
    if place.is_absolute() or ".." in place.parts:
        raise BadInput(f"{path}: place {tool.place!r}: give a folder below the trial's own")
    for text in tool.texts():
        for name in re.findall(r"\{(\w*)\}", text):
            if name not in PLACEHOLDERS:
                raise unknown(f"placeholder of {path}", name, PLACEHOLDERS)
    return tool


def filled(texts: Sequence[str], values: dict[str, str]) -> list[str]:
    """Return texts with their placeholders filled in."""
    return [re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text) for text in texts]


def _told(path: Path, fault: Any) -> str:
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        tables: dict[str, type[BaseModel]] = {"environment": Environment, "limits": Limits}
        *outer, name = fault["loc"]
        known = tables.get(str(outer[0]), Tool) if outer else Tool
        return f"{path}: {unknown('key', str(name), known.model_fields)}"
    return f"{path}: {where}: {fault['msg']}"
