"""``python -m embench``, for launchers that want a module (torchrun)."""

from embench.cli import main

main()
