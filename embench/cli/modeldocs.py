"""docs/models.md, written from the registered models: ``python -m embench.cli.modeldocs > docs/models.md``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from embench.models.base import GROUPS, SegmentationModel, TorchModel
from embench.models.registry import find_model, model_names
from embench.pretraining.initial_checkpoint import start_command
from embench.pretraining.registry import find_pretraining, pretraining_names

GUIDE = Path(__file__).with_name("models_guide.md")
"""What is written by hand and stands first: models by what one wants to do."""
_MODELS = ("model", "what", "network", "start", "transferred", "frozen", "recipe", "parameters", "trained", "source")
_METHODS = ("method", "what", "network", "epochs", "batch", "crop", "learning rate", "made with")


def markdown() -> str:
    """Return the page: a table of models for each group, one of pre-trainings, then what is to be said of each."""
    models = [find_model(name) for name in model_names()]
    grouped = {group: [model for model in models if model.group == group] for group in GROUPS}
    parts = [
        GUIDE.read_text().rstrip(),
        "# Registered models",
        "Generated from the registered models by `python -m embench.cli.modeldocs`; do not edit.",
        "Each row is a network and its start; `embench run --model NAME` or `--model GROUP` runs it. Parameters are "
        "those of a binary task at full size. *Transferred* and *frozen* are beginnings of the names of the network's "
        "tensors: what the pre-training gives, and what is then trained no more. DATA stands for the unlabelled set "
        "that the task names (`cem500k` for the published ones).",
    ]
    for group, members in grouped.items():
        if members:
            parts += [f"## {group.capitalize()}: {GROUPS[group]}", _table(_MODELS, map(_row, members))]
    parts += [
        "## Pre-trainings",
        "One loop runs them all (`embench pretrain METHOD --data DATA`), on one device or, started by `torchrun`, on "
        "several. A model of your own that names one of those of *any* network as its `pretraining` is pre-trained by "
        "`embench pretrain METHOD --model FILE.py:CLASS --data DATA`, and then starts from that: reconstruction trains "
        "its network with one output, or what its `reconstruction` returns, and `transferred` says which part is the "
        "encoder.",
        _table(_METHODS, map(_method_row, pretraining_names())),
        "## Notes",
        "\n".join(
            [f"- `{model.name}`: {_said(type(model))}" for members in grouped.values() for model in members]
            + [f"- pre-training `{name}`: {_said(find_pretraining(name))}" for name in pretraining_names()]
        ),
        "## Sources",
        *(f"```bibtex\n{citation}\n```" for citation in dict.fromkeys(model.citation for model in models) if citation),
    ]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]] | map[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))


def _row(model: SegmentationModel) -> tuple[str, ...]:
    found = re.match(r"@\w+\{([^,]+),", model.citation)
    source = f"{found[1] if found else 'none given'}; licence of the code: {model.licence}"
    if not isinstance(model, TorchModel):
        return (f"`{model.name}`", model.title, *["–"] * 7, source)
    random = _random(type(model))
    sizes = _sizes(random)  # type: ignore[arg-type]
    frozen = sum(size for name, size in sizes.items() if name.startswith(model.frozen)) if model.frozen else 0
    return (
        f"`{model.name}`",
        model.title,
        f"`{random.name}`",
        f"`{start_command(model, model.name, 'DATA', 'full')}`" if model.pretraining else "random",
        _names(model.transferred),
        _names(model.frozen),
        model.recipe_name,
        f"{sum(sizes.values()):,}",
        f"{sum(sizes.values()) - frozen:,}",
        source,
    )


def _names(beginnings: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in beginnings) or "–"


def _random(model: type[TorchModel]) -> type[TorchModel]:
    """Return the model of the same network that starts at random."""
    while model.pretraining is not None:
        model = model.base
    return model


@cache
def _sizes(model: type[TorchModel]) -> dict[str, int]:
    return {name: parameter.numel() for name, parameter in model().at("full").network(1).named_parameters()}


def _method_row(name: str) -> tuple[str, ...]:
    method = find_pretraining(name)
    return (
        f"`{name}`",
        method.title,
        f"any (default: `{method.trains.name}`)" if method.takes_any_model else f"`{method.trains.name}`",
        str(method.epochs),
        str(method.batch_size),
        str(method.crop),
        f"{method.learning_rate:g}",
        f"`embench pretrain {name} --data DATA`",
    )


def _said(documented: type) -> str:
    """Return what the class's own docstring says before its sections, as Markdown on one line."""
    text = inspect.cleandoc(documented.__doc__ or "")
    prose = re.split(r"\n\n[A-Z]\w+\n-{3,}", text)[0]
    plain = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", prose).replace("``", "`")
    return " ".join(plain.split())


if __name__ == "__main__":
    print(markdown(), end="")
