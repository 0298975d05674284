"""Perceptual hashes of image patches, and the patches that two sets share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embench.data.store import Volume
from embench.data.task import SPLITS, Split

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


def interleaved(items: Iterable[Place]) -> list[str]:
    """Say which images were taken from between those of another split; empty when none was.

    Training and test images must come from different files, or be blocks of one volume that do not interleave: an item
    called ``NAME-FIRST-LAST`` or ``NAME-zFIRST-LAST`` is such a block. Neighbouring sections show the same objects.

    Parameters
    ----------
    items : iterable of (split, name, origin, depth)
        Of :class:`embench.data.task.Item`, and its number of sections.
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
                f"{PurePath(origin).name}: {other} item {name} ({first}..{last}) lies within {split} ({least}..{most})"
                for other, first, last, name in found
                if other != split and first <= most and last >= least
            ]
    return faults


def _range(name: str, depth: int) -> tuple[int, int]:
    """Return first and last section of an item: those of its name where they agree with its depth."""
    ends = re.search(r"-z?(\d+)-(\d+)$", name)
    if ends and int(ends[2]) - int(ends[1]) + 1 == depth:
        return int(ends[1]), int(ends[2])
    return 0, depth - 1


def _scaled(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return thumbnails as vectors whose scalar product is their correlation."""
    flat = thumbnails.reshape(len(thumbnails), 16 * 16).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _sections(image: Any) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Read a volume in slabs of its own chunks."""
    step = image.chunks[0] if getattr(image, "chunks", None) else 1
    for start in range(0, image.shape[0], step):
        for offset, section_YX in enumerate(image[start : start + step]):
            yield start + offset, section_YX


def spans(length: int, side: int) -> list[tuple[int, int]]:
    """Return (start, length) of the tiles along an axis; a remainder counts from half a side on."""
    whole, rest = divmod(length, side)
    found = [(n * side, side) for n in range(whole)]
    if rest and (not whole or 2 * rest >= side):
        found.append((whole * side, rest))
    return found
