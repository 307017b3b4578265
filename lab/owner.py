"""Who the lab's servers run as: as root, `postgres`, since PostgreSQL refuses root; otherwise the caller."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

from lab.errors import MissingProgram

USER = "postgres"


def server_ids() -> tuple[int, int] | None:
    """User and group id to change to; None when servers run as the caller."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(USER)
    except KeyError as error:
        raise MissingProgram(f"there is no user {USER}, which Debian's PostgreSQL makes") from error
    return entry.pw_uid, entry.pw_gid


def server_name() -> str:
    """The name of the user that servers run as."""
    ids = server_ids()
    return pwd.getpwuid(os.geteuid() if ids is None else ids[0]).pw_name


def as_server() -> dict[str, Any]:
    """Arguments of subprocess.run that make a command run as the servers do."""
    ids = server_ids()
    return {} if ids is None else {"user": ids[0], "group": ids[1], "extra_groups": []}


def give(path: Path) -> None:
    """Hand a file or folder, with all in it, to the servers' user."""
    ids = server_ids()
    if ids is None:
        return
    os.chown(path, *ids)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), *ids, follow_symlinks=False)


def write_private(path: Path, text: str, *, server: bool = False) -> None:
    """Write a file that only its owner may read: the caller, or with `server` the servers' user."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    if server:
        give(path)
