"""The programs that the lab runs, and where they are looked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import MissingBuild, MissingProgram
from lab.world import SYSTEM_PATH, cache_folder

OLDEST_POSTGRES = 15


@dataclass(frozen=True)
class Binaries:
    """Absolute paths. `pg_bin` is the folder of PostgreSQL's programs."""

    temporal: Path
    pg_bin: Path
    pgbouncer: Path
    pgpool: Path
    knotd: Path
    redis: Path | None = None
    """Redis' server, which is Sentinel as well."""
    versitygw: Path | None = None
    """Object storage."""
    pgbackrest: Path | None = None
    jaeger: Path | None = None


def find_temporal() -> Path:
    """LIFEBOAT_TEMPORAL, else PATH, else the user's cache folder, where set-up puts it."""
    named = os.environ.get("LIFEBOAT_TEMPORAL")
    if named:
        if not os.access(named, os.X_OK):
            raise MissingProgram(f"LIFEBOAT_TEMPORAL={named} can't be run; correct or unset it")
        return Path(named).resolve()
    on_path = shutil.which("temporal")
    if on_path:
        return Path(on_path).resolve()
    cached = cache_folder() / "bin" / "temporal"
    if os.access(cached, os.X_OK):
        return cached
    raise MissingProgram(f"temporal: neither LIFEBOAT_TEMPORAL, nor on PATH, nor {cached}")


def find_jaeger() -> Path:
    """LIFEBOAT_JAEGER, else the user's cache folder, where `make jaeger` puts it."""
    named = os.environ.get("LIFEBOAT_JAEGER")
    found = Path(named) if named else cache_folder() / "bin" / "jaeger"
    if not os.access(found, os.X_OK):
        if named:
            raise MissingProgram(f"LIFEBOAT_JAEGER={named} can't be run; correct or unset it")
        raise MissingBuild(f"jaeger: neither LIFEBOAT_JAEGER nor {found}; `make jaeger` builds it (2 to 4 minutes)")
    return found.resolve()


def find_versitygw() -> Path:
    """PATH, else the user's cache folder, where set-up puts it."""
    found = shutil.which("versitygw") or cache_folder() / "bin" / "versitygw"
    if not os.access(found, os.X_OK):
        raise MissingBuild(f"versitygw: neither on PATH nor {found}; `scripts/setup versitygw` builds it (1 minute)")
    return Path(found).resolve()


def find_pg_bin() -> Path:
    """LIFEBOAT_PG_BIN, else the newest installed PostgreSQL that is new enough."""
    named = os.environ.get("LIFEBOAT_PG_BIN")
    if named:
        if not os.access(Path(named) / "initdb", os.X_OK):
            raise MissingProgram(f"LIFEBOAT_PG_BIN={named} holds no initdb; correct or unset it")
        return Path(named).resolve()
    found: list[tuple[int, Path]] = []
    for folder in Path("/usr/lib/postgresql").glob("*/bin"):
        version = folder.parent.name
        if version.isdigit() and int(version) >= OLDEST_POSTGRES and os.access(folder / "initdb", os.X_OK):
            found.append((int(version), folder))
    if not found:
        raise MissingProgram(f"PostgreSQL {OLDEST_POSTGRES} or newer")
    return max(found)[1]


def find_program(name: str) -> Path:
    """A system program, in the folders of administrators too, which a user's PATH may lack."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if found is None:
        raise MissingProgram(name)
    return Path(found)


def find_all(extras: Sequence[str] = (), parts: Sequence[str] = ()) -> Binaries:
    """Everything that a database, these parts and the extras run; MissingProgram names the first that is missing."""
    return Binaries(
        temporal=find_temporal(),
        pg_bin=find_pg_bin(),
        pgbouncer=find_program("pgbouncer"),
        pgpool=find_program("pgpool"),
        knotd=find_program("knotd"),
        redis=find_program("redis-server") if "cache" in parts else None,
        versitygw=find_versitygw() if "backup" in parts else None,
        pgbackrest=find_program("pgbackrest") if "backup" in parts else None,
        jaeger=find_jaeger() if "jaeger" in extras else None,
    )
