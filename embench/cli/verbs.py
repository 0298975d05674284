"""Makes a command of a function: the fields of the dataclasses it takes become the options."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand


class Panels(TyperCommand):
    """A command whose help lists the options under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, panel by panel, in the order in which the panels first occur."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they stand, a command a line."""
        if self.epilog:
            formatter.write(f"\nExamples:{self.epilog}\n")


def verb(
    app: typer.Typer, name: str | None = None, *, without: Collection[str] = (), examples: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a command of ``app``.

    Parameters
    ----------
    app : Typer
    name : str, optional
        Default: the function's.
    without : collection of str
        Fields that the command does not offer; they keep their defaults.
    examples : str
        Shown at the end of the help.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        given = inspect.signature(function).parameters
        hints = get_type_hints(function, include_extras=True)
        groups = {key: hints[key] for key in given if is_dataclass(hints[key])}
        parameters: list[inspect.Parameter] = []
        lists: set[str] = set()
        offered: set[str] = set()
        for key, parameter in given.items():
            if key not in groups:
                parameters.append(parameter.replace(annotation=hints[key]))
                continue
            types = get_type_hints(groups[key])
            for each in fields(groups[key]):
                if each.name in without or not each.metadata:
                    continue
                kind, default = _plain(types[each.name]), each.default
                if isinstance(default, tuple):
                    default = list(default)
                offered.add(each.name)
                if each.metadata["names"]:
                    lists.add(each.name)
                flags = each.metadata["flags"] or ("--" + each.name.replace("_", "-"),)
                about = typer.Option(
                    *flags,
                    help=each.metadata["help"],
                    envvar=each.metadata["envvar"],
                    metavar=each.metadata["metavar"],
                    rich_help_panel=each.metadata["panel"] or None,
                )
                parameters.append(
                    inspect.Parameter(
                        each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, about]
                    )
                )

        def command(**values: Any) -> Any:
            for key in lists:
                values[key] = split(values[key])
            made = {
                key: kind(**{each.name: values.pop(each.name) for each in fields(kind) if each.name in offered})
                for key, kind in groups.items()
            }
            return function(**values, **made)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        order = sorted(parameters, key=lambda each: each.default is not inspect.Parameter.empty)
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in order]
        )
        command.__annotations__ = {each.name: each.annotation for each in order}
        app.command(name, cls=Panels, epilog=examples or None)(command)
        return function

    return register


def split(values: list[str]) -> list[str]:
    """Return the names in ``values``, each of which may hold several separated by commas."""
    return [name for value in values for name in value.split(",") if name]


def _plain(kind: Any) -> Any:
    """Return the type that typer knows for a field's: a list for any sequence."""
    origin = get_origin(kind)
    if isinstance(origin, type) and issubclass(origin, Collection) and origin is not str:
        return list[get_args(kind)[0]]  # type: ignore[misc]
    return kind
