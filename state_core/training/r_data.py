"""R's lazy-load database, in which packages of R carry their data: lines of text by name.

An index (.rdx) says at which offset of the data (.rdb) each object lies. Both hold R's binary
serialisation: the index compressed as a whole, the data object by object, each after four bytes
that give its size. Only what an index and a character vector are made of is read; whatever else
a file holds is an error, not a guess. The format is that of "R Internals", section 1.8.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from state_core.errors import DataError

# Types of what follows, in the low byte of a word of flags.
PAIRLIST, CHARACTERS, LOGICAL, INTEGERS, STRINGS, LIST = 2, 9, 10, 13, 16, 19
SYMBOL, NULL, REFERENCE = 1, 254, 255
HAS_ATTRIBUTES, HAS_TAG, IS_LATIN1 = 0x200, 0x400, 0x4000
HEADER = b"X\n"
ZLIB_OR_GZIP = 47


def read_lazy_lines(index: bytes, data: bytes) -> dict[str, list[str]]:
    """The lines of each character vector of a database, by the name of the object.

    DataError if it is not such a database, or holds objects of another type.
    """
    try:
        places = _unserialise(zlib.decompress(index, ZLIB_OR_GZIP))["variables"]
        return {name: _lines(name, data[at : at + size]) for name, (at, size) in places.items()}
    except (zlib.error, struct.error, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not a lazy-load database of R: {error!r}") from error


def _lines(name: str, packed: bytes) -> list[str]:
    found = _unserialise(zlib.decompress(packed[4:]))
    if isinstance(found, list) and all(isinstance(line, str) for line in found):
        return found
    raise DataError(f"the object {name!r} of an R database is not a vector of character strings")


def _unserialise(data: bytes) -> Any:
    if not data.startswith(HEADER):
        raise ValueError("no binary serialisation: it does not begin with X")
    return _Reader(data, len(HEADER)).document()


@dataclass
class _Reader:
    """Reads one value after the other from `at`."""

    data: bytes
    at: int
    symbols: list[str] = field(default_factory=list)

    def document(self) -> Any:
        version, _, _ = self.word(), self.word(), self.word()
        if version not in (2, 3):
            raise ValueError(f"version {version} of the serialisation is not known")
        if version == 3:
            self.take(self.word())  # the encoding that was native where it was written
        return self.value()

    def take(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.data):
            raise ValueError("it ends too early")
        return self.data[self.at - count : self.at]

    def word(self) -> int:
        number: int = struct.unpack(">i", self.take(4))[0]
        return number

    def value(self) -> Any:
        flags = self.word()
        kind = flags & 0xFF
        if kind == CHARACTERS:
            return self.characters(flags)
        if kind == SYMBOL:
            self.symbols.append(self.value())
            return self.symbols[-1]
        if kind == REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        if kind == NULL:
            return None
        if kind == PAIRLIST:
            return self.pairs(flags)
        if kind in (LOGICAL, INTEGERS):
            items: list[Any] = [self.word() for _ in range(self.word())]
        elif kind in (STRINGS, LIST):
            items = [self.value() for _ in range(self.word())]
        else:
            raise ValueError(f"type {kind} at byte {self.at - 4} is not read here")
        names = (self.value() or {}).get("names") if flags & HAS_ATTRIBUTES else None
        return dict(zip(names, items, strict=True)) if names else items

    def characters(self, flags: int) -> str:
        size = self.word()
        if size < 0:
            raise ValueError("a string is missing (NA)")
        return self.take(size).decode("latin-1" if flags & IS_LATIN1 else "utf-8")

    def pairs(self, flags: int) -> dict[str, Any]:
        """Tagged values; what attributes a pair itself has says nothing here."""
        if flags & HAS_ATTRIBUTES:
            self.value()
        if not flags & HAS_TAG:
            raise ValueError("a pair has no name")
        tag = self.value()
        head = {tag: self.value()}
        return head | (self.value() or {})
