"""The ways of the lab's clients to whoever leads, as DSNs: `lab status --json`, and what its load drives."""

from __future__ import annotations

from collections.abc import Sequence

from lab.layout import (
    CACHE_HOME,
    CACHE_RECORD,
    DATABASE,
    HOME,
    MONITORED,
    QUEUE_HOME,
    QUEUE_RECORD,
    READ_RECORD,
    RECORD,
)
from lab.model import Node
from lab.paths import Folder


def routes(folder: Folder, parts: Sequence[str], nodes: Sequence[Node]) -> dict[str, str]:
    """The routes of every part, by name."""
    found: dict[str, str] = {}
    if "database" in parts:
        found |= _to_database(_login(folder, "app"), nodes)
    if "cache" in parts:
        found |= _to_cache(_login(folder, "cache-app"), nodes)
    if "queue" in parts:
        found |= _to_queue(_login(folder, "queue-app"), nodes)
    return found


def _login(folder: Folder, secret: str) -> str:
    return f"app:{folder.secret(secret).read_text(encoding='utf-8')}"


def _to_database(login: str, nodes: Sequence[Node]) -> dict[str, str]:
    """By name, and through both databases of the first pooler where there is one."""
    home = next(each for each in nodes if each.name == HOME)
    found = {"dns": f"postgresql://{login}@{RECORD}:{home.port}/{DATABASE}"}
    for each in [each for each in nodes if each.kind == "pgbouncer"][:1]:
        found["pgbouncer-transaction"] = f"postgresql://{login}@{each.address}/counting"
        found["pgbouncer-session"] = f"postgresql://{login}@{each.address}/counting_session"
    return found


def _to_cache(login: str, nodes: Sequence[Node]) -> dict[str, str]:
    """By name, by asking the home region's Sentinels, and by name with each write awaited on replicas."""
    home = next(each for each in nodes if each.name == CACHE_HOME)
    sentinels = ",".join(each.address for each in nodes if each.kind == "sentinel")
    by_name = f"redis://{login}@{CACHE_RECORD}:{home.port}"
    return {
        "cache-dns": f"{by_name}/0",
        "cache-sentinel": f"redis+sentinel://{login}@{sentinels}/{MONITORED}",
        "cache-wait": f"{by_name}/0?wait=yes",
    }


def _to_queue(login: str, nodes: Sequence[Node]) -> dict[str, str]:
    """By name, into a quorum queue and into a mirrored one."""
    home = next(each for each in nodes if each.name == QUEUE_HOME)
    by_name = f"amqp://{login}@{QUEUE_RECORD}:{home.port}"
    return {
        "queue-dns": f"{by_name}/counting?queue=counts",
        "queue-mirrored": f"{by_name}/mirrored?queue=mcounts",
    }


def reads(folder: Folder, parts: Sequence[str], nodes: Sequence[Node]) -> dict[str, str]:
    """Read-only routes to the database: by name, and through each Pgpool-II."""
    if "database" not in parts:
        return {}
    login = _login(folder, "app")
    home = next(each for each in nodes if each.name == HOME)
    found = {"dns-ro": f"postgresql://{login}@{READ_RECORD}:{home.port}/{DATABASE}"}
    return found | {
        each.name: f"postgresql://{login}@{each.address}/{DATABASE}" for each in nodes if each.kind == "pgpool"
    }
