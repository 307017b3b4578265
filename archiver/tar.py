"""A base backup's tar as it passes by: its members, and gzip members that can be read alone.

Files of gzip may follow each other in one (RFC 1952, 2.2), so that what is cut between two files of the tar is one tar
to whoever unpacks it, and many to a restore, which reads some of them, at once, or again.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from archiver.errors import Damaged

BLOCK = 512
READ = 1 << 20
CHUNK = 32 << 20
"""Bytes of the tar after which the next file begins a chunk."""
Read = Callable[[int], bytes]


@dataclass
class Chunk:
    """A part of a tar that begins and ends between files. `at`, `bytes`: of the object."""

    at: int = 0
    bytes: int = 0
    raw: int = 0
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {"at": self.at, "bytes": self.bytes, "raw": self.raw, "files": self.files, "folders": self.folders}


def exactly(read: Read, count: int, of: str) -> bytes:
    """`count` bytes; Damaged where there are fewer."""
    found = b""
    while len(found) < count:
        more = read(count - len(found))
        if not more:
            raise Damaged(f"{of} ends in the middle")
        found = found + more if found else more
    return found


def members(
    read: Read,
    of: str,
    passed: Callable[[bytes], None] = lambda _: None,
    before: Callable[[tarfile.TarInfo], None] = lambda _: None,
) -> Iterator[tuple[tarfile.TarInfo, Read]]:
    """Each file and folder, with a way to read what it holds. Whatever is read is `passed` on; `before` each member.

    `of` names the tar. PostgreSQL's tars have none of the format's extensions (src/port/tar.c).
    """

    def more(count: int) -> bytes:
        found = read(count)
        passed(found)
        return found

    while True:
        first = read(1)
        if not first:
            return
        header = first + exactly(read, BLOCK - 1, of)
        if not header.strip(b"\0"):
            # The end: whatever follows is filling.
            passed(header)
            while more(READ):
                pass
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise Damaged(f"{of} is no tar from some place on: {error}") from error
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE):
            raise Damaged(f"{of}: {info.name} is of the kind {info.type!r}, of which PostgreSQL writes none")
        before(info)
        passed(header)
        content = _Content(more, info.size if info.isreg() else 0, f"{of}, {info.name}")
        yield info, content.read
        while content.read(READ):
            pass
        if info.isreg() and info.size % BLOCK:
            passed(exactly(read, BLOCK - info.size % BLOCK, of))


class _Content:
    """What one member holds."""

    def __init__(self, read: Read, size: int, of: str) -> None:
        self._read, self._left, self._of = read, size, of

    def read(self, count: int) -> bytes:
        if not self._left:
            return b""
        found = self._read(min(count, self._left))
        if not found:
            raise Damaged(f"{self._of}: it ends in the middle")
        self._left -= len(found)
        return found


class Writer:
    """Takes a tar, and gives it on compressed, in chunks."""

    def __init__(self, level: int, give: Callable[[bytes], None]) -> None:
        self.level, self.give = level, give
        self.chunks: list[Chunk] = []
        self.total = 0
        self._packer: Any = None

    def cut_before(self, name: str, *, folder: bool) -> None:
        """A file or a folder begins: in a chunk of its own where the one before is large enough."""
        if not self.chunks or self.chunks[-1].raw >= CHUNK:
            self.end()
            self.chunks.append(Chunk(at=self.total))
            self._packer = zlib.compressobj(self.level, zlib.DEFLATED, 31) if self.level else None
        (self.chunks[-1].folders if folder else self.chunks[-1].files).append(name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        self.chunks[-1].raw += len(data)
        self._out(self._packer.compress(data) if self._packer else data)

    def end(self) -> None:
        if self._packer:
            self._out(self._packer.flush())
        self._packer = None

    def _out(self, data: bytes) -> None:
        if data:
            self.chunks[-1].bytes += len(data)
            self.total += len(data)
            self.give(data)


class Unpacker:
    """A stream that was compressed, in however many members; or one that was not."""

    def __init__(self, read: Read, of: str, *, packed: bool) -> None:
        self._read, self.of, self.packed = read, of, packed
        self._unpacker: Any = None
        self._rest = b""
        self._block = b""
        self._at = 0

    def read(self, count: int) -> bytes:
        """At most so much; nothing at the end. Small files are many, so that none of them costs a block."""
        if self._at >= len(self._block):
            self._block, self._at = self._more() if self.packed else self._read(READ), 0
        found = self._block[self._at : self._at + count]
        self._at += len(found)
        return found

    def _more(self) -> bytes:
        while True:
            data = self._rest or self._read(READ)
            if not data and self._unpacker is None:
                return b""
            if self._unpacker is None:
                self._unpacker = zlib.decompressobj(31)
            try:
                found: bytes = self._unpacker.decompress(data, READ)
            except zlib.error as error:
                raise Damaged(f"{self.of} can't be unpacked: {error}") from error
            if not data and not found:
                raise Damaged(f"{self.of} ends in the middle")
            if self._unpacker.eof:
                self._rest, self._unpacker = self._unpacker.unused_data, None
            else:
                self._rest = self._unpacker.unconsumed_tail
            if found:
                return found
