"""Files that others read while they are replaced."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


class Changed(Exception):
    """Another has written the file since it was read."""


def replace_file(path: Path, text: str, *, seen: str | None = None) -> None:
    """Replace the file whole, keeping its owner and mode: who reads it may run as another user. OSError as it comes.

    Changed where it no longer says what was `seen`, looked at last before it is replaced.
    """
    before = path.stat() if path.exists() else None
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".lifeboat-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            os.chmod(temporary, before.st_mode & 0o777)
            if os.geteuid() == 0:
                os.chown(temporary, before.st_uid, before.st_gid)
        if seen is not None and path.read_text(encoding="utf-8") != seen:
            raise Changed(str(path))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
