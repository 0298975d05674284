"""Training states on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from embench.core import confined
from embench.core.errors import BadInput, TryAgain
from embench.core.files import replacing

MAX_BYTES = 2**40


def save_state(state: dict[str, Any], path: Path, below: Path | None = None) -> None:
    """Write a training state atomically, below a folder that may be anybody's (:mod:`embench.core.confined`)."""
    with replacing(path, below=below) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch ends its archive all the same, and then complains of that instead of the disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_state(path: Path, below: Path | None = None) -> dict[str, Any] | None:
    """Return a training state, or ``None`` where there is none.

    Raises
    ------
    BadInput
        When the file is not whole, or no file; it is named, and has to be removed to start again.
    TryAgain
        When it cannot be read.
    """
    try:
        with confined.reading(path, below or path.parent, MAX_BYTES, "a training state") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except BadInput:
        raise
    except OSError as error:
        raise TryAgain(f"{path}: cannot be read ({error.strerror or error}); run the same command again") from None
    except Exception as error:
        raise BadInput(f"{path}: not a training state ({type(error).__name__}); remove it to start again") from error
