"""Objects that an archive class holds: asked for, waited for, and how far that is."""

from __future__ import annotations

import time
from collections.abc import Callable

from archiver.catalogue import Record, backups, held, segments
from archiver.store import COLD, Head, Store

Say = Callable[[str], None]
SPANS = {
    ("GLACIER", "Expedited"): "minutes",
    ("GLACIER", "Standard"): "3 to 5 hours",
    ("GLACIER", "Bulk"): "5 to 12 hours",
    ("DEEP_ARCHIVE", "Standard"): "up to 12 hours",
    ("DEEP_ARCHIVE", "Bulk"): "up to 48 hours",
}
"""Amazon's own figures (S3 User Guide, Archive retrieval options)."""


def thaw_backup(store: Store, record: Record, say: Say) -> None:
    """Have the backup readable, and the WAL up to the end of the one after it, which is for later targets."""
    found = held(store)
    keys = [each.key for label in found if label.label == record.label for each in label.tars if each.storage in COLD]
    later = [each.record for each in backups(found) if each.record and each.record.place > record.place]
    last = min((each.wal_stop for each in later), key=lambda name: name[8:], default="")
    for each in segments(store):
        if each.storage in COLD and each.name[8:] >= record.wal_start[8:] and (not last or each.name[8:] <= last[8:]):
            keys.append(each.key)
    if keys:
        wait_for(store, keys, say)


def wait_for(store: Store, keys: list[str], say: Say) -> None:
    """Until all of them can be read. Asking twice is asking once: whoever was killed meanwhile goes on waiting."""
    thaw, began = store.config.thaw, time.time()
    asked = 0
    left = keys
    while True:
        heads = store.side_by_side(store.head, left)
        frozen: list[tuple[str, Head]] = [
            (key, head) for key, head in zip(left, heads, strict=True) if head is not None and not head.readable
        ]
        new = [key for key, head in frozen if not head.thawing]
        asked += sum(store.side_by_side(store.thaw, new))
        if not frozen:
            say(f"INFO: thawed: {len(keys)} objects can be read")
            return
        say(_how_far(frozen[0][1], thaw.tier, began, asked, len(keys), len(keys) - len(frozen), time.time() - began))
        left = [key for key, _ in frozen]
        time.sleep(thaw.poll_s)


def _how_far(head: Head, tier: str, began: float, asked: int, count: int, there: int, passed: float) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(began))
    span = SPANS.get((head.storage, tier), "hours")
    asked_for = f"asked for at {at}" if asked else f"asked for before {at}"
    return (
        f"INFO: thawing: {there} of {count} objects are there; {asked_for}, {head.storage}, tier {tier}: {span};"
        f" {passed / 3600:.1f} h have passed"
    )
