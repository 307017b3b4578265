"""Places in the WAL, and the names of the files that hold them (PostgreSQL's xlog_internal.h)."""

from __future__ import annotations


def position(lsn: str) -> int:
    """Bytes of `0/3000148`; 0 for none."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16) if low else 0


def number_of(name: str, size: int) -> int:
    """The how-manieth file of its timeline this is, where files have `size` bytes."""
    return int(name[8:16], 16) * (0x100000000 // size) + int(name[16:24], 16)


def named(timeline: str, number: int, size: int) -> str:
    """The file of this number; `timeline` has eight hexadecimal digits."""
    per = 0x100000000 // size
    return f"{timeline}{number // per:08X}{number % per:08X}"


def file_of(timeline: int, lsn: int, size: int) -> str:
    """The file that holds the byte at `lsn`."""
    return named(f"{timeline:08X}", lsn // size, size)


def following(name: str, size: int) -> str:
    """The file after this one."""
    return named(name[:8], number_of(name, size) + 1, size)
