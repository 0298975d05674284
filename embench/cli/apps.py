"""The command and its groups; the modules beside this one register their verbs on them."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Does this segmentation model really beat the others on electron-microscopy data?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
listing = typer.Typer(help="List models, pre-training methods, tasks, suites, recipes.", no_args_is_help=True)
board = typer.Typer(help="Build the leaderboard page from results.", invoke_without_command=True)
checkpoint = typer.Typer(help="Checkpoints: what a file is, import a published one, download it.", no_args_is_help=True)
app.add_typer(listing, name="list")
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(board, name="leaderboard")

DataFolder = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="EMBENCH_DATA", help="Folder of prepared data (default: your user data folder)."),
]
TaskNames = Annotated[list[str], typer.Option("--task", help="Tasks, comma-separated.")]
ResultFolders = Annotated[list[Path], typer.Option("--results", help="Folder of results; may be repeated.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only check the files; write nothing.")]


def _print_version(asked: bool) -> None:
    if asked:
        from embench import __version__

        print(f"embench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Does this segmentation model really beat the others on electron-microscopy data?"""
