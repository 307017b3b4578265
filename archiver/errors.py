"""What can go wrong, each with an exit code: what happened, where, and who must act.

The codes are pgBackRest's own where it has one (src/build/error/error.yaml), since Lifeboat reads both.
"""

from __future__ import annotations


class ArchiveError(Exception):
    """`code`: the exit code, but for archive-get, which knows 0, 1 and 255 only."""

    code = 25


class Damaged(ArchiveError):
    """What is stored, or was to be stored, is not what it should be."""

    code = 26


class Unusable(ArchiveError):
    """The program was told what it can't use: its configuration's owner must mend it."""

    code = 27


class NotThere(ArchiveError):
    """S3 says that there is no such object."""

    code = 28


class Running(ArchiveError):
    """A server runs on the folder that was to be restored into, or may."""

    code = 38


class Differs(ArchiveError):
    """Another content is stored under this name, and is never overwritten."""

    code = 45


class Locked(ArchiveError):
    """Another backup or removal is under way on this machine."""

    code = 50


class NotWritten(ArchiveError):
    """A file could not be written here."""

    code = 64


class Unfinished(ArchiveError):
    """pg_basebackup failed, or what it needs did not come in time."""

    code = 82


class Unreachable(ArchiveError):
    """The store gave no good answer. It may at the next attempt."""

    code = 103


class Frozen(Unreachable):
    """The object is in an archive class, and must be thawed first."""
