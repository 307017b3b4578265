"""The command line: the part of pgBackRest's that Lifeboat uses, and what only the plain layout has.

archive-push PATH       archive_command: 0 once it is stored; else PostgreSQL keeps the file, and comes again
archive-get NAME TO     restore_command: 0; 1 only where S3 says that there is no such object; else 255
backup [--type=full]    by pg_basebackup, from the server on this machine
adopt LABEL             the same of what pg_basebackup wrote by hand, once it is copied to base/LABEL
restore --set=LABEL --pg1-path=FOLDER [--delta]
info, repo-ls, repo-get what there is
expire, tier            retention: all of it; only what goes to an archive class. --dry-run says what would be done
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from archiver.errors import ArchiveError, Locked, NotThere, NotWritten, Unusable

DEFAULT = "/etc/lifeboat/archive.ini"
ABSENT, FAILED = 1, 255
"""archive-get's. PostgreSQL takes 1 to 125 for "there is no such file", and ends recovery there."""
LEVELS = ("off", "error", "warn", "info", "detail")
LOCK_S = 1.0
"""Whoever asks whether it is held, holds it for a moment."""
LOCKING = ("backup", "adopt", "expire", "tier")


class OutOfTime(BaseException):
    """The command's own limit. Nothing on the way may take it for a failure of the network, and try again."""


class Ended(BaseException):
    """SIGTERM: what is under way is taken back first."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="lifeboat-archive", description=__doc__.split("\n")[0] if __doc__ else None)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = __doc__
    made.add_argument("--config", default=DEFAULT)
    made.add_argument("--stanza", default="")
    made.add_argument("--output", choices=("text", "json"), default="text")
    made.add_argument("--json", dest="output", action="store_const", const="json")
    made.add_argument("--log-level-console", choices=LEVELS, default="info")
    made.add_argument("--log-level-stderr", choices=LEVELS, default="warn")
    made.add_argument("--lock-path", default="")
    made.add_argument("--type", default="")
    made.add_argument("--set", dest="label", default="")
    made.add_argument("--pg1-path", default="")
    made.add_argument("--tablespace-map-all", default="")
    made.add_argument("--filter", default=None)
    made.add_argument("--keep-fulls", type=int)
    made.add_argument("--keep-days", type=float)
    made.add_argument("--archive-class")
    made.add_argument("--keep-archived-days", type=float)
    for name in ("delta", "recurse", "ignore-missing", "dry-run"):
        made.add_argument(f"--{name}", action="store_true")
    for name in ("--repo", "--log-level-file"):  # of pgBackRest, and of no meaning here
        made.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--force", "--no-expire-auto"):
        made.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    made.add_argument("verb", choices=tuple(VERBS), metavar="VERB")
    made.add_argument("words", nargs="*")
    return made


class Command:
    """One command, as it was asked for."""

    def __init__(self, given: argparse.Namespace) -> None:
        from archiver.config import read_config

        self.given = given
        config = read_config(given.config)
        if given.lock_path:
            config = replace(config, lock_path=given.lock_path)
        self.config = config
        if given.verb not in ("info", "repo-ls") and given.stanza not in ("", config.stanza):
            raise Unusable(f"{config.path} is of {config.stanza}, and {given.stanza} was asked for")
        self.stanza = given.stanza or config.stanza

    @property
    def store(self) -> Any:
        from archiver.store import Store

        return Store(self.config)

    def say(self, told: str) -> None:
        level, _, text = told.partition(": ")
        if LEVELS.index(level.lower()) <= LEVELS.index(self.given.log_level_console):
            # Of one call: threads tell of files side by side.
            sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} {level}: {text}\n")
            sys.stdout.flush()

    def words(self, *names: str) -> list[str]:
        found: list[str] = self.given.words
        if len(found) != len(names):
            raise Unusable(f"{self.given.verb} takes {' '.join(names) or 'no words'}, and was given {' '.join(found)}")
        return found

    # WAL

    def archive_push(self) -> None:
        from archiver.wal import push

        (path,) = self.words("PATH")
        with limited(self.config.timeout_s):
            self.say(f"DETAIL: {push(self.store, path)}")

    def archive_get(self) -> None:
        from archiver.wal import get

        name, to = self.words("NAME", "TO")
        with limited(self.config.timeout_s):
            self.say(f"DETAIL: {get(self.store, name, to)}")

    # Backups

    def backup(self) -> None:
        from archiver.taking import take

        self.words()
        if self.given.type not in ("", "full"):
            raise Unusable(f"pg_basebackup takes full backups only, and {self.given.type} was asked for")
        take(self.store, self.say)

    def adopt(self) -> None:
        from archiver.taking import adopt

        (label,) = self.words("LABEL")
        record = adopt(self.store, label, self.say)
        self.say(f"INFO: {label} is a backup: {record.bytes} bytes, {record.wal_start} to {record.wal_stop}")

    def restore(self) -> None:
        from archiver.restoring import Restore

        self.words()
        if not self.given.label or not self.given.pg1_path:
            raise Unusable("restore takes --set=LABEL and --pg1-path=FOLDER")
        spaces = Path(self.given.tablespace_map_all) if self.given.tablespace_map_all else None
        made = Restore(self.store, self.given.label, Path(self.given.pg1_path), spaces, self.say)
        made.carry_out(delta=self.given.delta)

    def expire(self) -> None:
        self.retain(remove=True)

    def tier(self) -> None:
        self.retain(remove=False)

    def retain(self, *, remove: bool) -> None:
        from archiver.config import CLASSES, Limits
        from archiver.tiers import retain

        self.words()
        names = ("keep_fulls", "keep_days", "archive_class", "keep_archived_days")
        given = {name: value for name in names if (value := getattr(self.given, name)) is not None}
        if given.get("archive_class", "") not in ("", *CLASSES):
            raise Unusable(f"--archive-class={given['archive_class']} is none of {', '.join(CLASSES)}")
        # What is given is all that holds: half of it from elsewhere would keep what nobody meant.
        limits = Limits(**given) if given else self.config.limits
        say = self.say if self.given.output == "text" else lambda _: None
        told = retain(self.store, limits, say, remove=remove, dry_run=self.given.dry_run)
        if self.given.output == "json":
            print(json.dumps(told, indent=1))
            return
        for label, why in told["backups"].items():
            self.say(f"INFO: {label}: {why}")
        for what in ("moved", "removed"):
            sums = told[what]
            names_ = ", ".join(sums["backups"]) or "no backup"
            would = "would be " if told["dry_run"] else ""
            self.say(f"INFO: {would}{what}: {names_}, {sums['wal_files']} WAL files, {sums['bytes']} bytes")

    # What there is

    def info(self) -> None:
        from archiver.catalogue import info

        self.words()
        told = info(self.store, self.stanza, under_way=is_locked(self.config.lock_path, self.stanza))
        label = self.given.label
        if label:
            told[0]["backup"] = [each for each in told[0]["backup"] if each["label"] == label]
        if self.given.output == "json":
            # As pgBackRest writes it, which is looked at in sh.
            print(json.dumps(told, separators=(",", ":")))
            return
        for each in told[0]["backup"]:
            kept, wal = each["info"]["repository"], each["archive"]
            bad = ", BAD PAGES" if each["error"] else ""
            print(
                f"{each['label']}  {each['info']['size']} bytes, {kept['size']} kept in {kept['class']}, WAL"
                f" {wal['start']} to {wal['stop']}{bad}"
            )
        for each in told[0].get("not-adopted", []):
            print(f"{each}  not adopted (lifeboat-archive adopt {each})")
        for each, why in told[0].get("unreadable", {}).items():
            print(f"{each}  can't be read: {why}")
        print(f"{self.stanza}: {told[0]['status']['message']}")

    def repo_ls(self) -> None:
        from archiver.catalogue import listing

        (path,) = self.words("PATH")
        found = listing(self.store, path, self.given.filter, recurse=self.given.recurse)
        if self.given.output == "json":
            print(json.dumps({".": {"type": "path"}} | found, separators=(",", ":")))
        elif found:
            print("\n".join(found))

    def repo_get(self) -> None:
        (path,) = self.words("PATH")
        try:
            sys.stdout.write(self.store.read(f"wal/{path.rpartition('/')[2]}").decode())
        except NotThere:
            if not self.given.ignore_missing:
                raise


VERBS = {
    "archive-push": Command.archive_push,
    "archive-get": Command.archive_get,
    "backup": Command.backup,
    "adopt": Command.adopt,
    "restore": Command.restore,
    "info": Command.info,
    "repo-ls": Command.repo_ls,
    "repo-get": Command.repo_get,
    "expire": Command.expire,
    "tier": Command.tier,
}


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """OutOfTime after so long, whatever is being done."""

    def end(*_: object) -> None:
        raise OutOfTime(f"after {seconds:g} s (`timeout`)")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _lock_file(folder: str, stanza: str) -> Path:
    return Path(folder) / f"{stanza}.lock"


@contextlib.contextmanager
def locked(folder: str, stanza: str) -> Iterator[None]:
    """One backup or removal at a time on this machine; the lock goes with its process."""
    import fcntl

    path = _lock_file(folder, stanza)
    try:
        path.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    except OSError as error:
        raise NotWritten(f"{path}: {error.strerror}; name a folder of the servers' user in `lock_path`") from error
    end = time.monotonic() + LOCK_S
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    told = f"{path}: another backup or removal of {stanza} is under way on this machine"
                    raise Locked(told) from error
            time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def is_locked(folder: str, stanza: str) -> bool:
    import fcntl

    try:
        handle = os.open(_lock_file(folder, stanza), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _end(*_: object) -> None:
    raise Ended("it was ended")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code, whatever happens."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        given = parser().parse_intermixed_args(words)
    except SystemExit as wrong:
        # 2, which PostgreSQL would take for "there is no such file".
        return FAILED if wrong.code and "archive-get" in words else int(wrong.code or 0)
    try:
        command = Command(given)
        carry_out = VERBS[given.verb]
        if given.verb not in LOCKING:
            carry_out(command)
            return 0
        signal.signal(signal.SIGTERM, _end)
        with locked(command.config.lock_path, command.stanza):
            carry_out(command)
        return 0
    except NotThere as error:
        if given.verb == "archive-get":
            tell(given, f"{error}: it is not in the archive")
            return ABSENT
        return failed(given, error, error.code)
    except ArchiveError as error:
        return failed(given, error, error.code)
    except OutOfTime as error:
        return failed(given, error, 103)
    except (Ended, KeyboardInterrupt) as error:
        return failed(given, error, 63)
    except BrokenPipeError as error:
        return failed(given, error, 104)
    except BaseException as error:  # noqa: BLE001 an exit code is owed for everything
        import traceback

        traceback.print_exc()
        return failed(given, error, 125)


def failed(given: argparse.Namespace, error: BaseException, code: int) -> int:
    """Tell of it; the exit code, which is `code` but for archive-get."""
    exits = FAILED if given.verb == "archive-get" else code
    number = error.code if isinstance(error, ArchiveError) else min(exits, 125)
    told = " ".join(str(error).split()) or type(error).__name__
    tell(given, f"ERROR: [{number:03d}]: {given.verb}: {told}")
    return exits


def tell(given: argparse.Namespace, text: str) -> None:
    """To whoever reads: pgBackRest's callers have its errors on the console where stderr is off."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stdout if given.log_level_stderr == "off" else sys.stderr, flush=True)
