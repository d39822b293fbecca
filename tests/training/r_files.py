"""Writes what R writes: a lazy-load database of character vectors, as its two files."""

from __future__ import annotations

import struct
import zlib

HEADER = b"X\n" + struct.pack(">3i", 3, 0x040201, 0x030500) + struct.pack(">i", 5) + b"UTF-8"
NULL = struct.pack(">i", 254)
NAMES = struct.pack(">i", 1)  # a symbol, then its name


def word(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}i", *numbers)


def characters(text: str, encoding: str = "utf-8") -> bytes:
    """One string, its flags telling ASCII, Latin-1 or UTF-8."""
    flag = 0x40000 if text.isascii() else 0x4000 if encoding == "latin-1" else 0x8000
    data = text.encode(encoding)
    return word(flag | 9, len(data)) + data


def strings(texts: list[str], encoding: str = "utf-8") -> bytes:
    return word(16, len(texts)) + b"".join(characters(t, encoding) for t in texts)


def named(values: dict[str, bytes], symbol: bytes) -> bytes:
    """A list with its names as an attribute; symbol: "names" itself, or a reference to it."""
    attributes = word(0x402) + symbol + strings(list(values)) + NULL
    return word(0x213, len(values)) + b"".join(values.values()) + attributes


def lazy_database(objects: dict[str, list[str]], encoding: str = "utf-8") -> tuple[bytes, bytes]:
    """The index (.rdx) and the data (.rdb) of objects by name."""
    data, places = b"", {}
    for name, lines in objects.items():
        raw = HEADER + strings(lines, encoding)
        packed = struct.pack(">I", len(raw)) + zlib.compress(raw)
        places[name] = word(13, 2, len(data), len(packed))
        data += packed
    again = word(0x1FF)  # the first symbol that was read
    variables = named(places, NAMES + characters("names"))
    parts = {
        "variables": variables,
        "references": named({}, again),
        "compressed": word(10, 1, 1),
    }
    return zlib.compress(HEADER + named(parts, again)), data
