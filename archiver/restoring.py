"""A base backup back onto a disk: every file compared with backup_manifest, what is there and whole is let be."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archiver.catalogue import INDEX, RECORD, Record, read_record
from archiver.errors import Damaged, Differs, NotThere, NotWritten, Running, Unreachable, Unusable
from archiver.manifest import NAME, OURS, Entry, Manifest, must_match, read_manifest
from archiver.store import Store
from archiver.taking import CONTROL, progress
from archiver.tar import READ, Chunk, Read, Unpacker, members
from archiver.thawing import thaw_backup
from archiver.wal import cluster, must_be_begun

Say = Callable[[str], None]
ATTEMPTS = 3
"""At a part of a tar that did not come whole."""
MAP = "tablespace_map"
MARK = "lifeboat-archive.restore"
"""In a folder that is being restored into, and for good in that of the tablespaces: what lies there is a restore's."""
ASIDE = f"{CONTROL}.lifeboat"
"""No server starts on a folder without its pg_control: so that nobody takes half a restore for a whole one."""
BESIDE = (CONTROL, ASIDE, MARK)
KNOWN = ("PG_VERSION", NAME, MARK)
"""One of these says that a folder is a cluster's, or was to become one."""


@dataclass(frozen=True)
class Part:
    """What is fetched by one request: a chunk of a tar, or a tar that has no index (`chunk` None)."""

    tar: str
    chunk: Chunk | None

    @property
    def under(self) -> str:
        """Where its files are in the cluster: those of a tablespace have no prefix of their own."""
        space = self.tar.partition(".")[0]
        return "" if space == "base" else f"pg_tblspc/{space}/"


class Restore:
    """One backup, into one folder. `spaces`: where tablespaces go, each into a folder below; never to their own."""

    def __init__(self, store: Store, label: str, data: Path, spaces: Path | None, say: Say) -> None:
        self.store, self.label, self.data, self.spaces, self.say = store, label, data, spaces, say
        self.record: Record
        self.manifest: Manifest
        self.good: set[str] = set()
        self.done = 0
        self._lock = threading.Lock()

    def key(self, name: str) -> str:
        return f"base/{self.label}/{name}"

    def carry_out(self, *, delta: bool) -> None:
        """Damaged names the file that is not what was backed up; what is whole stays for the next attempt (`delta`)."""
        try:
            text = self.store.read(self.key(RECORD))
            self.record = read_record(text, self.store.config.where(self.key(RECORD)))
            text = self.store.read(self.key(NAME))
        except NotThere as error:
            must_be_begun(self.store)
            raise Unusable(f"backup set {self.label} is not valid: {error}") from error
        self.manifest = read_manifest(text, self.store.config.where(self.key(NAME)))
        system = cluster(self.store)
        if system not in ("", self.record.system):
            raise Differs(
                f"{self.store.config.where('wal/')} is the archive of the cluster {system}, and {self.label} is of"
                f" {self.record.system}: it can't be recovered from there; the archive's owner must look"
            )
        parts = self.parts()
        thaw_backup(self.store, self.record, self.say)
        try:
            self.prepare(parts, delta=delta)
            todo = [each for each in parts if each.chunk is None or self.wanted(each)]
            self.store.side_by_side(self.fetch, todo, self.store.config.processes)
            missing = sorted(set(self.manifest.files) - self.good)
            if missing:
                raise Damaged(
                    f"{self.store.config.where(self.key(''))}: {missing[0]} is missing ({len(missing)} files)"
                )
            self.write(self.data / NAME, text)
            self.verify()
            self.lead_spaces()
            self.end()
        except OSError as error:
            raise NotWritten(
                f"{error.filename or self.data}: {error.strerror}; the machine's owner must look"
            ) from error
        self.say(f"INFO: restore of {self.label} ended: {len(self.good)} files, {self.manifest.bytes} bytes")

    def parts(self) -> list[Part]:
        try:
            told: dict[str, Any] = json.loads(self.store.read(self.key(INDEX)))["tars"]
        except NotThere:
            return [Part(name, None) for name in self.record.tars]
        return [Part(name, Chunk(**each)) for name, chunks in told.items() for each in chunks]

    # The folder

    def place(self, path: str) -> Path:
        """Where a file of the cluster goes; never outside."""
        found = Path(path)
        if found.is_absolute() or ".." in found.parts:
            raise Damaged(f"{self.store.config.where(self.key(''))}: {path} lies outside of the cluster")
        return self.data / found

    def prepare(self, parts: list[Part], *, delta: bool) -> None:
        """Nothing is there that the backup has not, and what is there and whole is known. The first that writes."""
        spaces = sorted({part.under.rstrip("/") for part in parts if part.under})
        if spaces and self.spaces is None:
            raise Unusable(f"{self.label} has tablespaces: say where they go (--tablespace-map-all)")
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.may_be_written(delta=delta)
        for path in spaces:
            self.space_may_be_written(path)
        self.write(self.data / MARK, f"{self.label}\n".encode())
        (self.data / CONTROL).unlink(missing_ok=True)
        for path in spaces:
            self.link(path)
        self.sweep(parts, spaces, delta=delta)
        if delta and self.manifest.ours:
            self.store.side_by_side(self.look, self.manifest.files.values(), self.store.config.processes)
        for part in parts:
            for path in part.chunk.folders if part.chunk else ():
                self.folder(part.under + path)

    def may_be_written(self, *, delta: bool) -> None:
        """What is in the folder may go: no server runs on it, and it is empty or a cluster's."""
        there = os.listdir(self.data)
        if "postmaster.pid" in there:
            raise Running(
                f"{self.data / 'postmaster.pid'}: a server runs there, maybe on another machine or in a container; stop"
                " it, and remove the file where none runs"
            )
        if there and not delta:
            raise Unusable(f"{self.data} is not empty; empty it, or restore with --delta what differs")
        if there and not any(name in there for name in KNOWN):
            raise Unusable(
                f"{self.data} is not empty, and is no cluster's ({', '.join(KNOWN)}): --delta would remove all that is"
                " there; name the cluster's folder, or empty it"
            )

    def space(self, path: str) -> Path:
        """Where a tablespace goes."""
        assert self.spaces is not None
        return self.spaces / Path(path).name

    def leads(self, path: str) -> bool:
        """Whether the cluster's link leads there."""
        at = self.data / path
        return at.is_symlink() and os.readlink(at) == str(self.space(path))

    def space_may_be_written(self, path: str) -> None:
        to = self.space(path)
        if to.is_symlink() or (to.exists() and not to.is_dir()):
            raise Unusable(f"{to} is no folder: name another one, or remove it")
        if not to.exists() or not os.listdir(to) or self.leads(path) or (to.parent / MARK).exists():
            return
        raise Unusable(f"{to} is not empty, and no restore made it: name another folder (--tablespace-map-all)")

    def link(self, path: str) -> None:
        to, at = self.space(path), self.data / path
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.listdir(to.parent):
            self.write(to.parent / MARK, b"")
        to.mkdir(mode=0o700, exist_ok=True)
        if at.parent.is_symlink():
            at.parent.unlink()
        at.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.leads(path):
            _remove(at)
            at.symlink_to(to)

    def folder(self, path: str) -> None:
        at = self.place(path.rstrip("/"))
        if not at.is_symlink():
            at.mkdir(mode=0o700, parents=True, exist_ok=True)

    def sweep(self, parts: list[Part], spaces: list[str], *, delta: bool) -> None:
        """A server that ran here since made files, and folders, of its own. No link is followed but to `spaces`, nor
        stays: what it leads to is not this restore's.
        """
        folders = {str(each) for path in self.manifest.files for each in Path(path).parents}
        for part in parts:
            folders |= {(part.under + path).rstrip("/") for path in (part.chunk.folders if part.chunk else ())}
        for root in ([self.data] if delta else []) + [self.data / path for path in spaces]:
            for at, inner, names in os.walk(root, topdown=False):
                under = Path(at).relative_to(self.data)
                for name in names:
                    path = str(under / name)
                    if path != MARK and (path not in self.manifest.files or (Path(at) / name).is_symlink()):
                        (Path(at) / name).unlink()
                for name in inner:
                    found, path = Path(at) / name, str(under / name)
                    if path not in spaces and (found.is_symlink() or path not in folders):
                        _remove(found)

    def look(self, entry: Entry) -> None:
        """Whether a file is there, and whole."""
        at = self.place(entry.path)
        try:
            if at.stat().st_size != entry.size:
                return
            with at.open("rb") as file:
                if hashlib.file_digest(file, OURS[entry.algorithm]).hexdigest() == entry.checksum:
                    with self._lock:
                        self.good.add(entry.path)
                        self.done += entry.size
        except FileNotFoundError:
            return

    # The files

    def wanted(self, part: Part) -> bool:
        assert part.chunk is not None
        paths = [part.under + path for path in part.chunk.files]
        return any(path in self.manifest.files and path not in self.good for path in paths)

    def fetch(self, part: Part) -> None:
        for left in reversed(range(ATTEMPTS)):
            try:
                self.unpack(part)
                return
            except Unreachable:
                # What came whole before is not written again.
                if not left:
                    raise

    def unpack(self, part: Part) -> None:
        key, where = self.key(part.tar), self.store.config.where(self.key(part.tar))
        chunk = part.chunk
        body, head = self.store.get(key, first=chunk.at, count=chunk.bytes) if chunk else self.store.get(key)
        came = 0

        def read(count: int) -> bytes:
            nonlocal came
            with self.store.asking("GET", key):
                found = bytes(body.read(count))
            came += len(found)
            if not found and came < head.bytes:
                raise Unreachable(f"{where}: {came} bytes of {head.bytes} came")
            return found

        last = "its beginning"
        unpacker = Unpacker(read, where, packed=part.tar.endswith(".gz"))
        try:
            for info, content in members(unpacker.read, where):
                last = path = part.under + info.name
                if info.isdir():
                    self.folder(path)
                elif info.isreg() and path in self.manifest.files and path not in self.good:
                    self.keep(path, info.mode, content, where)
        except Damaged as error:
            # What can't be unpacked has no name but that of the file in which it was found.
            raise Damaged(f"{error}" if last in str(error) else f"{error}, in {last}") from error

    def keep(self, path: str, mode: int, content: Read, where: str) -> None:
        entry = self.manifest.files[path]
        digest = hashlib.new(OURS.get(entry.algorithm, "sha256"))
        at, size = self.place(ASIDE if path == CONTROL else path), 0
        at.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with at.open("wb") as file:
            while block := content(READ):
                digest.update(block)
                size += len(block)
                file.write(block)
            os.fchmod(file.fileno(), mode & 0o777)
            file.flush()
            os.fsync(file.fileno())
        must_match(self.manifest, path, size, digest.hexdigest(), where)
        with self._lock:
            self.good.add(path)
            self.done += size
            self.say(progress("restore file", path, size, self.done, self.manifest.bytes))

    def write(self, at: Path, text: bytes) -> None:
        at.write_bytes(text)
        at.chmod(0o600)

    def verify(self) -> None:
        """Checksums of the kind that only PostgreSQL's own program computes."""
        if self.manifest.ours:
            return
        server = self.store.config.server.bin
        program = f"{server.rstrip('/')}/pg_verifybackup" if server else "pg_verifybackup"
        try:
            done = subprocess.run(
                # What is not the cluster's yet, or never; a server compares pg_control with its own checksum.
                [
                    program,
                    "--no-parse-wal",
                    "--exit-on-error",
                    *(f"--ignore={each}" for each in BESIDE),
                    str(self.data),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise Unusable(f"{program} is not there, which the checksums of {self.label} take") from error
        if done.returncode != 0:
            raise Damaged(f"{self.store.config.where(self.key(''))}: {done.stderr.strip()[-400:]}")

    def lead_spaces(self) -> None:
        """The server makes the links of its tablespaces anew, to where this file says."""
        at = self.data / MAP
        if not at.exists() or self.spaces is None:
            return
        lines = at.read_text(encoding="utf-8").splitlines()
        oids = [line.split(" ", 1)[0] for line in lines if line.strip()]
        self.write(at, "".join(f"{oid} {self.spaces / oid}\n" for oid in oids).encode())

    def end(self) -> None:
        """Now it is a cluster's folder, on which a server may start."""
        (self.data / ASIDE).replace(self.data / CONTROL)
        (self.data / MARK).unlink()
        for folder in (self.data / "global", self.data):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _remove(at: Path) -> None:
    """A link, a file, or an empty folder: whoever walks comes from below."""
    if at.is_symlink() or at.is_file():
        at.unlink()
    elif at.is_dir():
        at.rmdir()
