"""Where random numbers come from: one stream for each name, seed and place, the same on every machine."""

from __future__ import annotations

import hashlib


def entropy(name: str, seed: int) -> list[int]:
    """Return the beginning of every stream of one piece of work, to be followed by a purpose and a place.

    Parameters
    ----------
    name : str
        What is trained, how and on what: another name gives other streams.
    seed : int
    """
    return [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]), seed]
