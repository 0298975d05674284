"""Small changes to valid files that parsers find hard; every one follows from the generator that is passed in."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutate = Callable[[Random, Sequence[bytes]], bytes]
"""Returns one mutant of some seeds."""

EXTREMES: tuple[Any, ...] = (
    *(0, -1, 1, 255, 256, 2**31 - 1, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(10**400)),
    *(0.0, -0.0, 1e-320, 1.5, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "a" * 5000, "../../x", "/etc/passwd", "..", ".", "a/b", "a\\b", "C:\\x"),
    *(
        "\0",
        "\n",
        "\x1b[31m",
        "\ud800",
        "é" * 300,
        "e\u0301",
        "\u202e",
        "<script>",
        "%s%n",
        "NaN",
        "1e999",
        "${HOME}",
        "nul",
        "__class__",
    ),
    *(None, True, False, [], {}, [[]], [{}], {"": ""}, [None] * 1000, {"__class__": "os.system"}),
)
"""Values that are of the wrong type, outside the range, or mean something to some program."""
_LARGEST = 1 << 20
"""Bytes beyond which a mutant is cut: it is the parser that is to be tested, not the disk."""


def some_bytes(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Change one to four places of a seed, more often than not near its beginning."""
    content = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        rng.choice(_CHANGES)(rng, content, seeds)
    return bytes(content[:_LARGEST])


def _place(rng: Random, content: bytearray) -> int:
    end = len(content) if rng.random() < 0.5 else min(len(content), 512)
    return rng.randrange(end) if end else 0


def _flip(rng: Random, content: bytearray, _: Sequence[bytes]) -> None:
    if content:
        content[_place(rng, content)] ^= 1 << rng.randrange(8)


def _overwrite(rng: Random, content: bytearray, _: Sequence[bytes]) -> None:
    at, size = _place(rng, content), rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, -1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** rng.randrange(8 * size)))
    content[at : at + size] = (value % 256**size).to_bytes(size, rng.choice(("little", "big")))


def _truncate(rng: Random, content: bytearray, _: Sequence[bytes]) -> None:
    del content[_place(rng, content) :]


def _delete(rng: Random, content: bytearray, _: Sequence[bytes]) -> None:
    at = _place(rng, content)
    del content[at : at + rng.choice((1, 2, 4, 16, 100))]


def _repeat(rng: Random, content: bytearray, _: Sequence[bytes]) -> None:
    at = _place(rng, content)
    block = content[at : at + rng.choice((1, 2, 4, 16, 100))]
    content[at:at] = block * rng.choice((1, 2, 10, 300))


def _noise(rng: Random, content: bytearray, _: Sequence[bytes]) -> None:
    at = _place(rng, content)
    block = rng.randbytes(rng.choice((1, 2, 4, 16, 100)))
    content[at : at + (len(block) if rng.random() < 0.5 else 0)] = block


def _splice(rng: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    other = bytearray(rng.choice(seeds))
    content[_place(rng, content) :] = other[_place(rng, other) :]


_CHANGES = (_flip, _flip, _overwrite, _overwrite, _overwrite, _truncate, _delete, _repeat, _noise, _splice)


def json_values(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Change one to four values or keys of a JSON document; now and then some of its bytes as well."""
    if rng.random() < 0.15:
        return some_bytes(rng, seeds)
    seed = rng.choice(seeds)
    try:
        facts = json.loads(seed)
    except (ValueError, RecursionError):  # it was changed before
        return some_bytes(rng, [seed])
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        facts = _changed(rng, facts)
    text = json.dumps(facts, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        text = text.replace(b": ", b": " + rng.choice((b"[" * 50_000, b"9" * 50_000, b'{"a":' * 20_000)), 1)
    if rng.random() < 0.05 and (at := text.find(b"{")) >= 0:
        text = text[: at + 1] + text[at + 1 :].rstrip(b"}") + b"," + text[at + 1 :]  # every key twice
    return text[:_LARGEST]


def _changed(rng: Random, whole: Any) -> Any:
    facts = json.loads(json.dumps(whole))
    ways = _ways(facts)
    if not ways:
        return rng.choice(EXTREMES)
    holder, key = rng.choice(ways)
    match rng.randrange(9):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice([*map(str, EXTREMES), f"{key} ", str(key).upper()])[:9000]] = holder.pop(key)
        case 2:
            other, place = rng.choice(ways)
            try:
                holder[key], other[place] = other[place], holder[key]
            except (KeyError, IndexError):
                holder[key] = None
        case 3 if isinstance(holder, list):
            holder[key:key] = [holder[key]] * rng.choice((1, 2, 1000))
        case 4 if isinstance(holder[key], int | float):
            value = holder[key]
            holder[key] = rng.choice((-value, value + 1, value * 2, f"{value}.5", str(value)))
        case 5:
            holder[key] = [holder[key]]
        case _:
            holder[key] = rng.choice(EXTREMES)
    try:
        return json.loads(json.dumps(facts))
    except ValueError:  # a value was put into itself
        return whole


def _ways(facts: Any) -> list[tuple[Any, Any]]:
    """Return container and key of every value."""
    found, waiting = [], [facts]
    while waiting:
        value = waiting.pop()
        keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        found += [(value, key) for key in keys]
        waiting += [value[key] for key in keys]
    return found


def gzipped(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Change what is inside a gzip file as often as the file itself."""
    if rng.random() < 0.5:
        return some_bytes(rng, seeds)
    return gzip.compress(some_bytes(rng, [gzip.decompress(seed) for seed in seeds]), 1)


def png_chunks(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Change a PNG's chunks under right check sums (or the inflated pixels) as often as its bytes."""
    if rng.random() < 0.4:
        return some_bytes(rng, seeds)
    chunks = _chunks(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(chunks))
        kind, body = chunks[at]
        match rng.randrange(6):
            case 0:
                chunks.insert(rng.randrange(len(chunks) + 1), (kind, body))
            case 1:
                del chunks[at]
                chunks = chunks or [(b"IEND", b"")]
            case 2:
                chunks[at] = rng.choice((b"tRNS", b"PLTE", b"acTL", b"fcTL", b"zTXt", b"iCCP", b"gAMA", b"IDAT")), body
            case 3 if kind == b"IDAT":
                with contextlib.suppress(zlib.error):  # it was changed before
                    chunks[at] = kind, zlib.compress(some_bytes(rng, [zlib.decompress(body)]), 1)
            case _:
                chunks[at] = kind, some_bytes(rng, [body or b"\0"])
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def zip_members(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Change what is inside a zip archive (contents and names, under right check sums) as often as its bytes."""
    if rng.random() < 0.4:
        return some_bytes(rng, seeds)
    members = changed_members(rng, members_of(rng.choice(seeds)))
    return zipped(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def changed_members(rng: Random, members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Change contents or names of one or two files: JSON as JSON, the rest as bytes."""
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(members))
        name, content = members[at]
        match rng.randrange(8):
            case 0:
                members[at] = str(rng.choice([each for each in EXTREMES if isinstance(each, str)])), content
            case 1:
                members.append((name, some_bytes(rng, [content])))
            case 2 if len(members) > 1:
                del members[at]
            case _:
                is_json = content[:1] == b"{"
                members[at] = name, (json_values if is_json else some_bytes)(rng, [content or b"\0"])
    return members


def members_of(archive: bytes) -> list[tuple[str, bytes]]:
    """Return names and contents of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as contents:
        return [(name, contents.read(name)) for name in contents.namelist()]


def zipped(members: Sequence[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of some files; names that zip cannot hold are left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in members:
            if name.isprintable() and len(name) < 60_000:
                archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()
