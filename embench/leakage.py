"""Images that are in two places at once: training and test, or pre-training and either.

What is compared are *patches*: every section cut into 224 x 224 pixels as CEM500K was (:mod:`embench.unlabelled`),
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

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.files import replacing
from embench.store import Prepared, Volume, prepared_path
from embench.task import SPLITS, Split

SIDE = 224
"""Pixels of a patch (protocol 2, CEM500K)."""
NEAR = 12
"""Difference hashes fewer than this many bits apart (of 64) may be of the same image."""
ALIKE = 0.9
"""Correlation of thumbnails from which on they are."""
FLAT = 2.0
"""Grey levels; a patch whose thumbnail has a smaller standard deviation has no image to compare."""
EXAMPLES = 5

PRINT = np.dtype([("sha256", "V32"), ("dhash", "<u8"), ("thumbnail", "u1", (16, 16)), ("flat", "?")])
"""What is kept of a patch."""

Prints = NDArray[np.void]
Place = tuple[Split, str, str, int]

KNOWN_OVERLAP = {"cem500k": "CEM500K contains about 5 % images of the benchmarks (Conrad & Narayan 2021)"}
"""What the makers of a pre-training set say of it; shown beside every result that starts from it."""

_BLOCK = 2**22


def fingerprint(patch_YX: NDArray[np.uint8]) -> Prints:
    """Return the print of one patch (224 x 224): a scalar of :data:`PRINT`.

    The difference hash is that of CEM500K's de-duplication: 9 x 8 pixels by Lanczos, each compared with its left
    neighbour; here without rounding in between, which would make ties of weak contrasts.
    """
    rows_YX, columns_XY = _resampling()
    grey_YX = patch_YX.astype(np.float32)
    small_YX = rows_YX[:8] @ grey_YX @ columns_XY[:, :9]
    thumbnail_YX = (rows_YX[8:] @ grey_YX @ columns_XY[:, 9:]).round().astype(np.uint8)
    found = np.zeros((), PRINT)
    found["sha256"] = hashlib.sha256(np.ascontiguousarray(patch_YX).data).digest()
    found["dhash"] = np.packbits(small_YX[:, 1:] > small_YX[:, :-1]).view("<u8")[0]
    found["thumbnail"] = thumbnail_YX
    found["flat"] = thumbnail_YX.std() < FLAT
    return found


@cache
def _resampling() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrices that shrink a patch: to 8 (Lanczos) and 16 (means) rows, to 9 and 16 columns."""
    from PIL import Image

    identity = Image.fromarray(np.eye(SIDE, dtype=np.float32))

    def shrink(size: int, filter: Image.Resampling) -> NDArray[np.float32]:
        return np.asarray(identity.resize((SIDE, size), filter), np.float32)

    means = shrink(16, Image.Resampling.BOX)
    rows, columns = (np.concatenate([shrink(size, Image.Resampling.LANCZOS), means]) for size in (8, 9))
    return rows, np.ascontiguousarray(columns.T)


def patches(section_YX: NDArray[np.uint8], side: int = SIDE) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Cut a section without overlap, a remainder of at least half a side being a patch of its own (protocol 2: C).

    Yields
    ------
    y, x : int
        Where the patch begins.
    patch_YX : ndarray of uint8
        (side, side); what is smaller is padded at its end by reflection.
    """
    from embench.unlabelled import spans

    for y, height in spans(section_YX.shape[0], side):
        for x, width in spans(section_YX.shape[1], side):
            yield y, x, padded(section_YX[y : y + height, x : x + width], side)


def padded(patch_YX: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """Return the patch at ``side`` x ``side`` pixels, padded at its ends by reflection as often as needed."""
    height, width = patch_YX.shape
    return np.pad(patch_YX, ((0, side - height), (0, side - width)), "reflect")


def prints_of(volumes: Iterable[Volume]) -> tuple[Prints, list[str]]:
    """Return the prints of every patch of some volumes, and where each is (``item z5 y224 x0``)."""
    found: list[Prints] = []
    places: list[str] = []
    for volume in volumes:
        for z, section_YX in _sections(volume.image):
            for y, x, patch_YX in patches(section_YX):
                found.append(fingerprint(patch_YX))
                places.append(f"{volume.name} z{z} y{y} x{x}")
    return np.array(found, PRINT), places


def between(ours: Prints, theirs: Prints, places: Sequence[str] = ()) -> dict[str, Any]:
    """Count the patches of ``ours`` that are also among ``theirs``.

    Returns
    -------
    dict
        ``patches``: of ours that have contrast; ``flat``: those without, left out; ``exact`` and ``near`` (which
        includes exact): how many have a duplicate; ``hash``: how many have a partner by the hash alone, chance
        included; ``examples``: where the first duplicates are.
    """
    pictures = np.flatnonzero(~ours["flat"])
    others = theirs[~theirs["flat"]]
    known = {each.tobytes() for each in others["sha256"]}
    is_exact = np.array([ours["sha256"][i].tobytes() in known for i in pictures], bool)
    is_near, is_hash = is_exact.copy(), is_exact.copy()
    if len(others):
        ours_scaled, theirs_scaled = _scaled(ours["thumbnail"][pictures]), _scaled(others["thumbnail"])
        step = max(1, _BLOCK // len(others))
        for start in range(0, len(pictures), step):
            here = slice(start, start + step)
            apart = np.bitwise_count(ours["dhash"][pictures[here], None] ^ others["dhash"][None])
            rows, columns = np.nonzero(apart < NEAR)
            alike = np.einsum("ij,ij->i", ours_scaled[start + rows], theirs_scaled[columns]) >= ALIKE
            is_hash[start + rows] = True
            is_near[start + rows[alike]] = True
    return {
        "patches": len(pictures),
        "flat": int(ours["flat"].sum()),
        "exact": int(is_exact.sum()),
        "near": int(is_near.sum()),
        "hash": int(is_hash.sum()),
        "examples": [places[pictures[i]] for i in np.flatnonzero(is_near)[:EXAMPLES]] if places else [],
    }


def between_splits(volumes: dict[Split, Sequence[Volume]], items: Iterable[Place]) -> dict[str, Any]:
    """Return what a prepared task's card says of itself: :func:`between` test and training, and :func:`interleaved`."""
    train, _ = prints_of(volumes["train"])
    test, places = prints_of(volumes["test"])
    return {**between(test, train, places), "interleaved": interleaved(items)}


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


def interleaved(items: Iterable[Place]) -> list[str]:
    """Say which images were taken from between those of another split; empty when none was.

    Training and test images must come from different files, or be blocks of one volume that do not interleave: an item
    called ``NAME-FIRST-LAST`` is such a block. Neighbouring sections show the same objects.

    Parameters
    ----------
    items : iterable of (split, name, origin, depth)
        Of :class:`embench.task.Item`, and its number of sections.
    """
    blocks: dict[str, list[tuple[Split, int, int, str]]] = {}
    for split, name, origin, depth in items:
        first, last = _range(name, depth)
        blocks.setdefault(origin or f"{split}/{name}", []).append((split, first, last, name))
    faults = []
    for origin, found in blocks.items():
        for split in SPLITS:
            inside = [(first, last) for each, first, last, _ in found if each == split]
            if not inside:
                continue
            least, most = min(first for first, _ in inside), max(last for _, last in inside)
            faults += [
                f"{origin}: {other} item {name} ({first}..{last}) lies within {split} ({least}..{most})"
                for other, first, last, name in found
                if other != split and first <= most and last >= least
            ]
    return faults


def _range(name: str, depth: int) -> tuple[int, int]:
    """Return first and last section of an item: those of its name where they agree with its depth."""
    _, *ends = name.rsplit("-", 2)
    if len(ends) == 2 and all(end.isdecimal() for end in ends) and int(ends[1]) - int(ends[0]) + 1 == depth:
        return int(ends[0]), int(ends[1])
    return 0, depth - 1


def _scaled(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return thumbnails as vectors whose scalar product is their correlation."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _sections(image: Any) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Read a volume in slabs of its own chunks."""
    step = image.chunks[0] if getattr(image, "chunks", None) else 1
    for start in range(0, image.shape[0], step):
        for offset, section_YX in enumerate(image[start : start + step]):
            yield start + offset, section_YX
