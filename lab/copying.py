"""A folder made equal to its kept copy. Only what differs is copied: most files of a data folder never change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def make_equal(copy: Path, folder: Path) -> int:
    """Make `folder` equal to `copy`, owners and times as well; returns how many files were copied.

    A file counts as unchanged when size and modification time (nanoseconds) are the copy's: whoever writes to a file
    moves its time, and PostgreSQL sets none back. Nothing may write to either meanwhile.
    """
    if not folder.exists():
        folder.mkdir()
        _stamp(copy, folder)
    there = {entry.name: entry for entry in os.scandir(folder)}
    copied = 0
    for source in os.scandir(copy):
        target, found = folder / source.name, there.pop(source.name, None)
        if found is not None and found.is_dir(follow_symlinks=False) != source.is_dir(follow_symlinks=False):
            _remove(found)
            found = None
        if source.is_dir(follow_symlinks=False):
            copied += make_equal(Path(source.path), target)
        elif found is None or _differ(source, found):
            shutil.copy2(source.path, target, follow_symlinks=False)
            _stamp(Path(source.path), target)
            copied += 1
    for extra in there.values():
        _remove(extra)
    return copied


def _differ(source: os.DirEntry[str], found: os.DirEntry[str]) -> bool:
    one, other = source.stat(follow_symlinks=False), found.stat(follow_symlinks=False)
    return (one.st_size, one.st_mtime_ns) != (other.st_size, other.st_mtime_ns)


def _stamp(source: Path, target: Path) -> None:
    """Mode, times and, as root, the owner; changing the owner clears bits of the mode, so it comes first."""
    if os.geteuid() == 0:
        status = source.lstat()
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    shutil.copystat(source, target, follow_symlinks=False)


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    else:
        os.unlink(entry.path)
