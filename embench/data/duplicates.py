"""Images that are in two places at once: training and test, or pre-training and either.

What is compared are *patches*: every section cut into 224 x 224 pixels as CEM500K was (:mod:`embench.data.unlabelled`),
remainders padded by reflection. Two patches are

- *exact* duplicates when their bytes are equal (SHA-256);
- *near* duplicates when their 64-bit difference hashes (as CEM500K was de-duplicated with) are less than 12 bits apart
  **and** their 16 x 16 thumbnails correlate at 0.9 or above.

The hash alone does not tell: among 250,000 pairs of patches from two unrelated stacks of one tissue two agreed by
chance (correlation under 0.4), so every benchmark patch would find several partners among half a million. The
correlation of thumbnails, blind to brightness and contrast like the hash, tells copies from chance. Patches without
contrast (padding, empty resin) agree with each other by nature; they are left out and their number is told.

Volumes are cut along axis 0 alone; rotated or mirrored copies are not looked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from embench.core.files import replacing
from embench.core.paths import prepared_path
from embench.data.patches import PRINT, Prints, between, prints_of
from embench.data.store import Prepared

KNOWN_OVERLAP = {"cem500k": "CEM500K contains about 5 % images of the benchmarks (Conrad & Narayan 2021)"}
"""What the makers of a pre-training set say of it; shown beside every result that starts from it."""


def report(prepared: Prepared, pretraining: Prepared | None = None) -> dict[str, Any]:
    """Return how many test patches are in the training split, and how many of either in a pre-training set.

    Parameters
    ----------
    prepared : Prepared
        A task.
    pretraining : Prepared, optional
        An unlabelled set. Its prints are made once and kept beside its file.

    Returns
    -------
    dict
        ``test in train``, and with a pre-training set ``test in pretraining`` and ``train in pretraining``: see
        :func:`between`.
    """
    train, train_places = prints_of(prepared.volumes("train"))
    test, test_places = prints_of(prepared.volumes("test"))
    found = {"test in train": between(test, train, test_places)}
    if pretraining is not None:
        theirs = pretraining_prints(pretraining)
        found["test in pretraining"] = between(test, theirs, test_places)
        found["train in pretraining"] = between(train, theirs, train_places)
    return found


def of_trial(
    prepared: Prepared, pretraining: str | None = None, data_hash: str | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """Return what a result says of duplicates.

    Parameters
    ----------
    prepared : Prepared
        The task.
    pretraining, data_hash : str or None
        Name and hash of the unlabelled set that the weights come from; ``None`` for a model that starts at random.
    folder : Path, optional
        Where prepared files are.

    Returns
    -------
    dict
        As :func:`report`; ``pretraining`` names the set, ``checked`` says whether it was at hand to be compared, and
        ``note`` is what its makers say.
    """
    found: dict[str, Any] = {}
    if "leakage" in prepared.card:
        found["test in train"] = prepared.card["leakage"]
    if pretraining is None:
        return found
    found["pretraining"], found["checked"] = pretraining, False
    if note := KNOWN_OVERLAP.get(pretraining):
        found["note"] = note
    path = prepared_path(pretraining, folder)
    if path.is_file():
        with Prepared(path) as unlabelled:
            if unlabelled.hash == data_hash:
                found |= report(prepared, unlabelled)
                found["checked"] = True
    return found


def pretraining_prints(prepared: Prepared) -> Prints:
    """Return the prints of an unlabelled set, from beside its file when they are there and of its hash."""
    path = prints_path(prepared.path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["hash"]) == prepared.hash and stored["prints"].dtype == PRINT:
                return stored["prints"]
    except Exception:  # absent, or broken in any of the ways in which its parser fails: made anew
        pass
    found, _ = prints_of(prepared.volumes("train"))
    save_prints(prepared.path, prepared.hash, found)
    return found


def prints_path(prepared: Path) -> Path:
    """Return where the prints of a prepared file are kept."""
    return prepared.with_suffix(".prints.npz")


def save_prints(prepared: Path, digest: str, prints: Prints) -> None:
    """Keep the prints of a prepared file of hash ``digest`` beside it."""
    with replacing(prints_path(prepared)) as temporary, temporary.open("wb") as file:
        np.savez(file, hash=np.array(digest), prints=prints)
