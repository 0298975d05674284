"""The command line: words and options, no science."""


def main() -> None:
    """Run the command line; the entry point of ``embench``."""
    from embench.cli.app import main as run

    run()
