"""Retention carried out: to the archive class, or away; and what is stored then, in bytes by class."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from archiver.catalogue import RECORD, held
from archiver.config import Limits
from archiver.errors import ArchiveError
from archiver.keeping import LEFT_OVER_S, Plan, plan
from archiver.manifest import NAME
from archiver.store import COLD, Store, Stored
from archiver.wal import SEGMENT

Say = Callable[[str], None]
LEAST_MOVED = 128 * 1024
"""Smaller objects cost more to move than they ever save: 40 kB are paid for beside each that is archived."""


def retain(store: Store, limits: Limits, say: Say, *, remove: bool, dry_run: bool = False) -> dict[str, Any]:
    """Move what is to be archived, and with `remove` have go what goes. A second time there is nothing to do.

    What is moved comes first, then backups, then WAL: whatever ends this half way, no backup has lost what it needs.
    """
    found, wal = held(store), list(store.objects("wal/"))
    made = plan(found, wal, limits, time.time())
    by_label = {each.label: each for each in found}
    tars = [tar for label in made.archive for tar in by_label[label].tars if tar.storage not in COLD]
    moved = [*tars, *(each for each in made.wal_archive if each.bytes >= LEAST_MOVED)]
    going = [each for label in [*made.remove, *made.debris] for each in by_label[label].objects]
    uploads = unended(store) if remove else []
    if not dry_run:
        for moving in moved:
            say(f"INFO: {store.config.where(moving.key)} to {limits.archive_class}")
        store.side_by_side(lambda each: move(store, each, limits.archive_class), moved)
        if remove:
            for label in [*made.remove, *made.debris]:
                say(f"INFO: remove base/{label}")
                store.remove(_record_first([each.key for each in by_label[label].objects]))
            store.remove([each.key for each in made.wal_remove])
            for key, ident in uploads:
                with store.asking("DELETE", key):
                    store.client.abort_multipart_upload(**store.at(key), UploadId=ident)
    for warning in [*made.warnings, *former_versions(store)]:
        say(f"WARN: {warning}")
    classes = sums(store)
    for name, (objects, bytes_) in classes.items():
        say(f"INFO: class {name} {objects} objects {bytes_} bytes")
    return _told(made, moved, going if remove else [], made.wal_remove if remove else [], uploads, classes, dry_run)


def _record_first(keys: list[str]) -> list[str]:
    """What is half removed is no backup any more."""
    return sorted(keys, key=lambda key: (not key.endswith(f"/{RECORD}"), not key.endswith(f"/{NAME}")))


def move(store: Store, each: Stored, to: str) -> None:
    """A copy onto itself, in another class, with what is said of it; of any size."""
    at = store.at(each.key)
    with store.asking("HEAD", each.key):
        told = store.managed.head_object(**at)
    more = {"StorageClass": to, "MetadataDirective": "REPLACE", "Metadata": told.get("Metadata", {})}
    with store.asking("COPY", each.key):
        store.managed.copy(CopySource=at, **at, ExtraArgs=more)


def unended(store: Store) -> list[tuple[str, str]]:
    """Uploads that were begun and never ended: they are paid for, and no listing of objects has them."""
    found, oldest = [], datetime.now(UTC) - timedelta(seconds=LEFT_OVER_S)
    # Backups, and what was being moved to another class.
    for under in ("base/", "wal/"):
        with store.asking("LIST", under):
            pages = store.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=store.config.bucket, Prefix=f"{store.config.prefix}{under}"
            )
            for page in pages:
                for each in page.get("Uploads", []):
                    if each["Initiated"] < oldest:
                        found.append((each["Key"][len(store.config.prefix) :], each["UploadId"]))
    return found


def sums(store: Store) -> dict[str, tuple[int, int]]:
    """Objects and bytes by storage class: what is paid for."""
    found: dict[str, tuple[int, int]] = {}
    for each in [*store.objects("wal/"), *store.objects("base/")]:
        objects, bytes_ = found.get(each.storage, (0, 0))
        found[each.storage] = (objects + 1, bytes_ + each.bytes)
    return dict(sorted(found.items()))


def former_versions(store: Store) -> list[str]:
    """In a bucket that keeps versions nothing is freed by removing it, nor made cheaper by moving it."""
    try:
        with store.asking("GET", ""):
            versioned = store.client.get_bucket_versioning(Bucket=store.config.bucket).get("Status") == "Enabled"
    except ArchiveError:
        return []  # which these credentials may not ask
    if not versioned:
        return []
    try:
        with store.asking("GET", ""):
            rules = store.client.get_bucket_lifecycle_configuration(Bucket=store.config.bucket).get("Rules", [])
    except ArchiveError:
        rules = []
    if any("NoncurrentVersionExpiration" in each for each in rules if each.get("Status") == "Enabled"):
        return []
    return [
        f"the bucket {store.config.bucket} keeps former versions, and no rule of its own removes them"
        " (NoncurrentVersionExpiration): what is removed or moved here is paid for still"
    ]


def _told(
    made: Plan,
    moved: list[Stored],
    going: list[Stored],
    wal_going: list[Stored],
    uploads: list[tuple[str, str]],
    classes: dict[str, tuple[int, int]],
    dry_run: bool,
) -> dict[str, Any]:
    wal = [each for each in moved if each.key.startswith("wal/")]
    wal_files = [each for each in wal_going if SEGMENT.fullmatch(each.name)]
    return {
        "dry_run": dry_run,
        "backups": made.why,
        "moved": {
            "backups": sorted({each.key.split("/")[1] for each in moved if each.key.startswith("base/")}),
            "wal_files": len(wal),
            "bytes": sum(each.bytes for each in moved),
        },
        "removed": {
            "backups": made.remove if going else [],
            "left_over": [*made.debris, *(key for key, _ in uploads)] if going or uploads else [],
            "wal_files": len(wal_files),
            "bytes": sum(each.bytes for each in [*going, *wal_going]),
        },
        "classes": {name: {"objects": objects, "bytes": bytes_} for name, (objects, bytes_) in classes.items()},
        "warnings": made.warnings,
    }
