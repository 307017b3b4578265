"""Which backups there are, in words that whoever reads pgBackRest's `info` and `repo-ls` understands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from archiver.errors import Damaged, Frozen, NotThere, Unfinished
from archiver.manifest import NAME, Manifest, read_manifest
from archiver.store import COLD, Store, Stored
from archiver.wal import NAMES, SEGMENT
from schemas.wal import file_of, position

ID = "plain"
"""What a listing calls the archive's only part: pgBackRest has one a cluster."""
OURS = re.compile(r"\d{8}-\d{6}F")
LARGEST = 1 << 30
"""Bytes of a WAL file (initdb --wal-segsize)."""
RECORD, INDEX = "backup.json", "index.json"


@dataclass
class Record:
    """backup.json: what a backup is. What has none is no backup. Times: seconds since 1970."""

    label: str
    start: int
    stop: int
    lsn_start: str
    lsn_stop: str
    wal_start: str
    wal_stop: str
    system: str
    bytes: int
    """Of the cluster;"""
    kept: int
    """and of what is stored."""
    tars: list[str]
    """The names of its objects: base.tar.gz, and OID.tar.gz of each tablespace."""
    error: bool = False
    """PostgreSQL found bad pages while it was taken."""

    @property
    def place(self) -> tuple[int, str, int]:
        """Where it ends in the WAL, which is what later and earlier mean: a copy has its own times."""
        return int(self.wal_stop[:8], 16), self.wal_stop[8:], position(self.lsn_stop)


def read_record(text: bytes, where: str) -> Record:
    """Damaged where it is none. What a later version says besides is left out."""
    known = {each.name for each in fields(Record)}
    try:
        record = Record(**{name: value for name, value in json.loads(text).items() if name in known})
        if not (
            all(SEGMENT.fullmatch(each) for each in (record.wal_start, record.wal_stop))
            and record.place[0]
            and int(record.system)
        ):
            raise ValueError("it names no WAL")
    except (ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"{where} is no record of a backup: {error}") from error
    return record


@dataclass
class Held:
    """A folder of base/, whoever made it."""

    label: str
    objects: list[Stored] = field(default_factory=list)
    record: Record | None = None
    wal_start: str = ""
    """Of what has no record, by its manifest; "" where it has none either."""
    unreadable: str = ""
    """Why neither says anything."""

    def has(self, name: str) -> bool:
        return any(each.name == name for each in self.objects)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.objects)

    @property
    def storage(self) -> str:
        """The class of its tars: the coldest."""
        cold = [each.storage for each in self.objects if each.storage in COLD]
        return cold[0] if cold else "STANDARD"

    @property
    def tars(self) -> list[Stored]:
        return [each for each in self.objects if ".tar" in each.name]


def write_record(store: Store, record: Record) -> None:
    """Unfinished where somebody removed what it is of."""
    for name in record.tars:
        if store.head(f"base/{record.label}/{name}") is None:
            where = store.config.where(f"base/{record.label}/{name}")
            raise Unfinished(f"{where} was stored, and is not there; whoever removes objects there must stop")
    body = json.dumps(asdict(record), indent=1).encode()
    key = f"base/{record.label}/{RECORD}"
    # An earlier attempt's own is of the same backup.
    store.put_text(key, body, once=False)


def needs_from(manifest: Manifest) -> str:
    """A WAL file that is not after the first that it needs, however large its server's files are: of smaller ones, that
    of the same place has a higher name.
    """
    return file_of(manifest.timelines[0], position(manifest.lsn_start), LARGEST)


def held(store: Store) -> list[Held]:
    """Every folder of base/, oldest name first. What can't be read of one says nothing of the others."""
    found: dict[str, Held] = {}
    for each in store.objects("base/"):
        label = each.key.split("/")[1]
        found.setdefault(label, Held(label)).objects.append(each)

    def learn(each: Held) -> None:
        try:
            if each.has(RECORD):
                key = f"base/{each.label}/{RECORD}"
                each.record = read_record(store.read(key), store.config.where(key))
            elif each.has(NAME):
                key = f"base/{each.label}/{NAME}"
                manifest = read_manifest(store.read(key), store.config.where(key))
                each.wal_start = needs_from(manifest)
        except NotThere:
            pass  # removed meanwhile
        except (Damaged, Frozen, ValueError) as error:
            each.unreadable = str(error)

    store.side_by_side(learn, found.values())
    return list(found.values())


def backups(found: list[Held]) -> list[Held]:
    """Those that are whole, oldest first, by where they end in the WAL."""
    return sorted((each for each in found if each.record), key=lambda each: each.record.place if each.record else ())


def info(store: Store, stanza: str, *, under_way: bool) -> list[dict[str, Any]]:
    """pgBackRest's `info --output=json`, as far as Lifeboat reads it."""
    lock = {"backup": {"held": under_way}}
    if stanza != store.config.stanza:
        status = {"code": 1, "message": "missing stanza path"}
        repo = [{"key": 1, "cipher": "none", "status": status}]
        told = {"name": stanza, "archive": [], "backup": [], "db": [], "cipher": "none", "repo": repo}
        return [told | {"status": status | {"lock": lock}}]
    found = held(store)
    whole = backups(found)
    systems = list(dict.fromkeys(each.record.system for each in whole if each.record))
    ids = {system: number for number, system in enumerate(systems, start=1)}
    oldest, newest = _ends(store, whole)
    status = {"code": 0, "message": "ok"} if whole else {"code": 2, "message": "no valid backups"}
    return [
        {
            "name": stanza,
            "cipher": "none",
            "db": [{"id": number, "repo-key": 1, "system-id": int(system)} for system, number in ids.items()],
            "archive": [
                {"id": ID, "database": {"id": number, "repo-key": 1}, "min": oldest, "max": newest}
                for number in ids.values()
            ],
            "backup": [_told(each, each.record, ids) for each in whole if each.record],
            # pg_basebackup's own that nobody adopted: what is needed to restore one is not known.
            "not-adopted": [each.label for each in found if not each.record and each.has(NAME) and not each.unreadable],
            "unreadable": {each.label: each.unreadable for each in found if each.unreadable},
            "repo": [{"key": 1, "cipher": "none", "status": status}],
            "status": status | {"lock": lock},
        }
    ]


def _told(held: Held, record: Record, ids: dict[str, int]) -> dict[str, Any]:
    kept = {"size": record.kept, "delta": record.kept, "class": held.storage}
    return {
        "label": record.label,
        "type": "full",
        "error": record.error,
        "prior": None,
        "reference": None,
        "database": {"id": ids[record.system], "repo-key": 1},
        "timestamp": {"start": record.start, "stop": record.stop},
        "lsn": {"start": record.lsn_start, "stop": record.lsn_stop},
        "archive": {"start": record.wal_start, "stop": record.wal_stop},
        "info": {"size": record.bytes, "delta": record.bytes, "repository": kept},
        "database-ref": [],
    }


def _ends(store: Store, whole: list[Held]) -> tuple[str | None, str | None]:
    """The first WAL file that is there, and the newest."""
    first = next((each.name for each in segments(store)), None)
    since = whole[-1].record.wal_start if whole and whole[-1].record else ""
    newest = max((each.name for each in segments(store, after=since[:-1])), key=lambda name: name[8:], default=first)
    return first, newest


def segments(store: Store, prefix: str = "", after: str = "") -> Iterator[Stored]:
    """WAL files alone, in the order of their names."""
    for each in store.objects(f"wal/{prefix}", after=f"wal/{after}" if after else ""):
        if SEGMENT.fullmatch(each.name):
            yield each


def histories(store: Store) -> Iterator[str]:
    """The names of timelines' histories. Of each timeline only its first object is asked for, which its history is."""
    after = "wal/"
    while found := list(store.objects("wal/", after=after, most=1)):
        name = found[0].name
        if name.endswith(".history"):
            yield name
        after = f"wal/{name[:8]}~"


def listing(store: Store, path: str, pattern: str | None, *, recurse: bool) -> dict[str, dict[str, Any]]:
    """`repo-ls` of archive/STANZA/ID: folders of 256 WAL files, as pgBackRest has them, and the files in each."""
    parts = path.strip("/").split("/")
    if parts[:1] != ["archive"] or parts[1:2] != [store.config.stanza] or parts[2:3] not in ([], [ID]):
        return {}
    if len(parts) < 3:
        return {ID: {"type": "path"}}
    wanted = re.compile(pattern or "")
    found: dict[str, dict[str, Any]] = {}
    if len(parts) == 4:
        for each in store.objects(f"wal/{parts[3]}"):
            if wanted.search(each.name):
                found[each.name] = {"type": "file", "size": each.bytes}
        return found
    if pattern and "history" in pattern:
        return {name: {"type": "file"} for name in histories(store) if wanted.search(name)}
    # What the pattern begins with says which names to ask for.
    begins = re.match(r"\^([0-9A-F]+)", pattern or "")
    for each in store.objects(f"wal/{begins[1] if begins else ''}"):
        if not NAMES.fullmatch(each.name):
            continue
        name = each.name if each.name.endswith(".history") else each.name[:16]
        if recurse and name != each.name:
            found[f"{name}/{each.name}"] = {"type": "file", "size": each.bytes}
        elif wanted.search(name):
            found[name] = {"type": "path"} if name != each.name else {"type": "file", "size": each.bytes}
    return found
