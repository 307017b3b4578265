"""The command line of the plain archive: its lock."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

import pytest

from archiver.errors import Locked
from archiver.main import is_locked, locked


def test_whoever_asks_whether_it_is_held_locks_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "unit.lock"
    with path.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with locked(str(tmp_path), "unit"):
            assert is_locked(str(tmp_path), "unit")
    assert not is_locked(str(tmp_path), "unit")


def test_whoever_holds_it_does(tmp_path: Path) -> None:
    with locked(str(tmp_path), "unit"):
        began = time.monotonic()
        with pytest.raises(Locked, match="another backup or removal of unit"), locked(str(tmp_path), "unit"):
            pass
        assert time.monotonic() - began < 5
