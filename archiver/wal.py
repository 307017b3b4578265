"""WAL files, one at a time: archive_command and restore_command."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from pathlib import Path

from archiver.errors import Damaged, Differs, Frozen, NotThere, NotWritten, Unreachable, Unusable
from archiver.store import COLD, Store
from schemas.wal import number_of

SEGMENT = re.compile(r"[0-9A-F]{24}")
NAMES = re.compile(r"[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")
"""Whatever PostgreSQL archives (xlog_internal.h, IsXLogFileName and its like)."""
AHEAD = 64
"""WAL files after one that is frozen which are thawed with it."""
BLOCK = 1 << 20
_HEADER = struct.Struct("<HHIQI4xQII")
"""Of a segment's first page: magic, info, timeline, address, remaining bytes; system, segment's size, page's size."""
_LONG = 0x0002
CLUSTER = "wal/system"
"""An object that says which cluster's WAL this is, by its system identifier."""
OVERWRITTEN = "overwritten"
"""And this, where the store overwrote it against the condition."""


def trouble(name: str, head: bytes, size: int) -> str:
    """What is wrong with a segment by its own header and its size; "" for nothing, or where it is no segment."""
    if not SEGMENT.fullmatch(name.removesuffix(".partial")):
        return ""
    if len(head) < _HEADER.size:
        return f"it has {size} bytes"
    _, info, timeline, address, _, _, whole, _ = _HEADER.unpack(head[: _HEADER.size])
    if not info & _LONG or whole < 1 << 20 or whole & (whole - 1):
        return "it does not begin as WAL does"
    if size != whole:
        return f"it has {size} bytes of {whole}"
    if address != number_of(name, whole) * whole:
        return f"it holds the WAL from {address >> 32:X}/{address & 0xFFFFFFFF:X} on, which is another file's"
    # The first file of a timeline begins with what is copied from the one before.
    return f"it is of timeline {timeline}" if timeline > int(name[:8], 16) else ""


def push(store: Store, path: str) -> str:
    """Store a WAL file, and see that it is there. What is stored already is never overwritten.

    Differs: other content has this name. Damaged: it is no whole segment. Else as the store fails.
    """
    name = os.path.basename(path)
    if not NAMES.fullmatch(name):
        raise Unusable(f"{path} is no file that PostgreSQL archives; archive_command's owner must end it in %p")
    key = f"wal/{name}"
    try:
        with open(path, "rb") as file:
            size, head = os.fstat(file.fileno()).st_size, file.read(_HEADER.size)
            if wrong := trouble(name, head, size):
                raise Damaged(f"{path}: {wrong}; the server's owner must look at its pg_wal")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
            # Asked first, for a store that does not know the condition, and to send nothing that is there.
            if store.head(key) is None:
                must_be_of(store, system_of(name, head, path), path, begin=True)
                file.seek(0)
                try:
                    put = store.put(key, file, digest)
                except Unreachable:
                    # Its answer may be what was lost.
                    if store.head(key) is None:
                        raise
                    put = False
                if put:
                    return _confirm(store, name, size, digest)
    except OSError as error:
        raise Unusable(f"{path} can't be read: {error.strerror}; the server's owner must look") from error
    return _compare(store, name, size, digest)


def system_of(name: str, head: bytes, path: str) -> str:
    """The system identifier of the cluster that a file is of; "" where nothing tells."""
    if SEGMENT.fullmatch(name.removesuffix(".partial")):
        return str(_HEADER.unpack(head[: _HEADER.size])[5])
    # Histories and backups' marks have none in them, but their server's folder has.
    control = os.path.join(os.path.dirname(os.path.dirname(path)), "global", "pg_control")
    try:
        with open(control, "rb") as file:
            return str(struct.unpack("<Q", file.read(8))[0])
    except (OSError, struct.error):
        return ""


def cluster(store: Store, *, writing: bool = False) -> str:
    """The system identifier of the cluster whose archive this is; "" where none has archived here."""
    try:
        told = store.read(CLUSTER).decode("utf-8", "replace").split()
    except NotThere:
        return ""
    if writing and OVERWRITTEN in told and store.config.conditional:
        raise Unusable(f"{store.config.where(CLUSTER)} was overwritten as it was made: {store.unconditional}")
    return told[0] if told else ""


def must_be_of(store: Store, system: str, what: str, *, begin: bool = False) -> None:
    """Differs where this is another cluster's archive. With `begin` it becomes that of the first that comes."""
    if not system:
        return
    held = cluster(store, writing=begin)
    if not held and not begin:
        return
    held = held or _begun_by(store)
    if not held:
        if store.put_text(CLUSTER, f"{system}\n".encode()) and store.config.conditional:
            # Nobody would hear of a store that overwrites in spite of the condition.
            store.put_text(CLUSTER, f"{system} {OVERWRITTEN}\n".encode())
        held = cluster(store, writing=True)
    if held != system:
        raise Differs(
            f"{store.config.where('wal/')} is the archive of the cluster {held}, and {what} is of {system}: two servers"
            " archive to one place, or one was begun anew (initdb, pg_upgrade). The archive's owner must give one of"
            " them another prefix"
        )


def _begun_by(store: Store) -> str:
    """By the first WAL file, of an archive that others began (aws s3 cp) and that says nothing itself."""
    for each in store.objects("wal/", most=AHEAD):
        if SEGMENT.fullmatch(each.name) and each.storage not in COLD and each.bytes >= _HEADER.size:
            body, _ = store.get(each.key, count=_HEADER.size)
            with store.asking("GET", each.key):
                head = bytes(body.read())
            if not trouble(each.name, head, each.bytes):
                system = system_of(each.name, head, each.name)
                store.put_text(CLUSTER, f"{system}\n".encode())
                return system
    return ""


def must_be_begun(store: Store) -> None:
    """Unusable where nothing at all is archived: what is not there says nothing then."""
    if not cluster(store) and not any(store.objects("wal/", most=1)):
        raise Unusable(
            f"nothing is archived at {store.config.where('wal/')}; {store.config.path}'s owner must look at `bucket`"
            " and `prefix`"
        )


def _confirm(store: Store, name: str, size: int, digest: bytes) -> str:
    found = store.head(f"wal/{name}")
    if found is None or found.bytes != size or found.sha256 != digest.hex():
        raise Unreachable(f"{store.config.where(f'wal/{name}')} was stored, and is not what is there: {found}")
    return f"{name} is stored"


def _compare(store: Store, name: str, size: int, digest: bytes) -> str:
    where = store.config.where(f"wal/{name}")
    found = store.head(f"wal/{name}")
    if found is None:
        raise Unreachable(f"{where} was there, and is not; whoever removes objects there must stop")
    same = found.bytes == size and (found.sha256 or _digest(store, f"wal/{name}")) == digest.hex()
    if not same:
        raise Differs(
            f"{where} holds other content than this server's {name}: two servers archive to one place, or one was begun"
            " anew. It is not overwritten, and the server keeps its own; the archive's owner must give one of them"
            " another prefix"
        )
    return f"{name} was stored before"


def _digest(store: Store, key: str) -> str:
    """Of what another program stored."""
    body, digest = store.get(key)[0], hashlib.sha256()
    with store.asking("GET", key):
        while block := body.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def get(store: Store, name: str, to: str) -> str:
    """Fetch a WAL file, whole and as it was stored, or nothing. NotThere only where S3 says so itself."""
    if not NAMES.fullmatch(name):
        raise Unusable(f"{name} is no file that PostgreSQL archives; restore_command's owner must pass %f and %p")
    # Beside where it goes, so that there is never half of it.
    beside = Path(f"{to}.lifeboat-archive")
    try:
        for left in reversed(range(3)):
            try:
                _fetch(store, name, beside)
                break
            except Frozen as error:
                raise Frozen(f"{error}; {thaw_from(store, name)}") from error
            except NotThere:
                must_be_begun(store)
                raise
            except (Unreachable, Damaged):
                if not left:
                    raise
        beside.replace(to)
    except OSError as error:
        raise NotWritten(f"{to} can't be written: {error.strerror}; the machine's owner must look") from error
    finally:
        beside.unlink(missing_ok=True)
    return f"{name} is fetched"


def _fetch(store: Store, name: str, beside: Path) -> None:
    key = f"wal/{name}"
    body, head = store.get(key)
    digest, size, begins = hashlib.sha256(), 0, b""
    with beside.open("wb") as file:
        while True:
            with store.asking("GET", key):
                block = body.read(BLOCK)
            if not block:
                break
            begins = begins or block[: _HEADER.size]
            digest.update(block)
            size += len(block)
            file.write(block)
    if size != head.bytes:
        raise Unreachable(f"{store.config.where(key)}: {size} bytes of {head.bytes} came")
    wrong = trouble(name, begins, size)
    if not wrong and head.sha256 and head.sha256 != digest.hexdigest():
        wrong = "its checksum does not match that with which it was stored"
    if wrong:
        raise Damaged(f"{store.config.where(key)}: {wrong}; the archive's owner must have a former version of it back")


def thaw_from(store: Store, name: str) -> str:
    """Have this WAL file and those after it thawed."""
    thaw = store.config.thaw
    some = [f"wal/{name}"]
    some += [each.key for each in store.objects(f"wal/{name[:8]}", after=f"wal/{name}", most=AHEAD)]
    asked = 0
    for key in some:
        found = store.head(key)
        if found is not None and not found.readable and not found.thawing:
            asked += store.thaw(key)
    return f"{asked} files from it on are asked for, tier {thaw.tier}: hours; it is asked for again"
