"""A base backup back onto a disk: every file compared with backup_manifest, what is there and whole is let be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archiver.catalogue import INDEX, RECORD, Record
from archiver.errors import Damaged, NotThere, NotWritten, Unreachable, Unusable
from archiver.manifest import NAME, OURS, Entry, Manifest, must_match, read_manifest
from archiver.store import Store
from archiver.taking import progress
from archiver.tar import READ, Chunk, Read, Unpacker, members
from archiver.thawing import thaw_backup

Say = Callable[[str], None]
ATTEMPTS = 3
"""At a part of a tar that did not come whole."""
MAP = "tablespace_map"


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
            self.record = Record(**json.loads(self.store.read(self.key(RECORD))))
            text = self.store.read(self.key(NAME))
        except NotThere as error:
            raise Unusable(f"backup set {self.label} is not valid: {error}") from error
        self.manifest = read_manifest(text, self.store.config.where(self.key(NAME)))
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
        """Nothing is there that the backup has not, and what is there and whole is known."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in {part.tar: part for part in parts}.values():
            if each.under:
                self.link(each.under.rstrip("/"))
        if not delta:
            if [name for name in os.listdir(self.data) if name != "pg_tblspc"]:
                raise Unusable(f"{self.data} is not empty; empty it, or restore with --delta what differs")
        else:
            self.sweep(parts)
            if self.manifest.ours:
                self.store.side_by_side(self.look, self.manifest.files.values(), self.store.config.processes)
        for part in parts:
            for path in part.chunk.folders if part.chunk else ():
                self.folder(part.under + path)

    def link(self, path: str) -> None:
        if self.spaces is None:
            raise Unusable(f"{self.label} has tablespaces: say where they go (--tablespace-map-all)")
        to = self.spaces / Path(path).name
        to.mkdir(mode=0o700, parents=True, exist_ok=True)
        at = self.data / path
        at.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not at.is_symlink():
            at.symlink_to(to)

    def folder(self, path: str) -> None:
        at = self.place(path.rstrip("/"))
        if not at.is_symlink():
            at.mkdir(mode=0o700, parents=True, exist_ok=True)

    def sweep(self, parts: list[Part]) -> None:
        """A server that ran here since made files, and folders, of its own."""
        folders = {str(each) for path in self.manifest.files for each in Path(path).parents}
        for part in parts:
            folders |= {(part.under + path).rstrip("/") for path in (part.chunk.folders if part.chunk else ())}
        roots = [self.data, *(each for each in (self.data / "pg_tblspc").glob("*") if each.is_symlink())]
        for root in roots:
            for at, inner, names in os.walk(root, topdown=False):
                under = Path(at).relative_to(self.data)
                for name in names:
                    if str(under / name) not in self.manifest.files:
                        (Path(at) / name).unlink()
                for name in inner:
                    found = Path(at) / name
                    if not found.is_symlink() and str(under / name) not in folders:
                        shutil.rmtree(found, ignore_errors=True)

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
        at, size = self.place(path), 0
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
                [program, "--no-parse-wal", "--exit-on-error", str(self.data)],
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
