"""backup_manifest, as PostgreSQL writes it (its manual, Backup Manifest Format)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from archiver.errors import Damaged

NAME = "backup_manifest"
OURS = {"SHA224": "sha224", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}
"""The checksums that are computed here; CRC32C, PostgreSQL's usual one, its own pg_verifybackup computes."""


@dataclass(frozen=True)
class Entry:
    """A file of the cluster. `checksum` is in hexadecimal digits."""

    path: str
    size: int
    algorithm: str
    checksum: str


@dataclass(frozen=True)
class Manifest:
    files: dict[str, Entry]
    lsn_start: str
    lsn_stop: str
    timelines: tuple[int, int]
    """At the backup's beginning, and at its end."""

    @property
    def bytes(self) -> int:
        return sum(each.size for each in self.files.values())

    @property
    def ours(self) -> bool:
        """Whether every file's checksum can be computed here."""
        return all(each.algorithm in OURS for each in self.files.values())


def read_manifest(text: bytes, where: str) -> Manifest:
    """Damaged where it is not what was written: its own last line has its checksum."""
    found = re.search(rb'"Manifest-Checksum": "([0-9a-f]{64})"', text)
    if found is None:
        raise Damaged(f"{where} is no whole backup_manifest")
    # All of the lines before that one.
    body = text[: text.rindex(b"\n", 0, found.start()) + 1]
    if hashlib.sha256(body).hexdigest() != found[1].decode():
        raise Damaged(f"{where}: its own checksum does not match")
    try:
        told: dict[str, Any] = json.loads(text)
        ranges = told["WAL-Ranges"]
        files = [_entry(each) for each in told["Files"]]
        return Manifest(
            files={each.path: each for each in files},
            lsn_start=ranges[0]["Start-LSN"],
            lsn_stop=ranges[-1]["End-LSN"],
            timelines=(ranges[0]["Timeline"], ranges[-1]["Timeline"]),
        )
    except (ValueError, KeyError, IndexError) as error:
        raise Damaged(f"{where} is no backup_manifest that is known: {error}") from error


def _entry(told: dict[str, Any]) -> Entry:
    path = told["Path"] if "Path" in told else bytes.fromhex(told["Encoded-Path"]).decode("utf-8", "surrogateescape")
    return Entry(path, told["Size"], told.get("Checksum-Algorithm", ""), told.get("Checksum", ""))


def must_match(manifest: Manifest, path: str, size: int, checksum: str, where: str) -> None:
    """Damaged names the file that is not what was backed up."""
    entry = manifest.files[path]
    if entry.size != size:
        raise Damaged(f"{where}: {path} has {size} bytes, and backup_manifest says {entry.size}")
    if entry.algorithm in OURS and entry.checksum != checksum:
        raise Damaged(f"{where}: {path}: its checksum does not match backup_manifest")
