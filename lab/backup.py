"""pgBackRest of the lab: every server archives its WAL and can be backed up, and a host of its own restores.

There is no repository host: each node reaches object storage by itself (its manual, "S3-Compatible Object Store").
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lab import plain
from lab.binaries import find_program
from lab.command import run
from lab.config import template
from lab.layout import HOME, RESTORES, SERVICE, STORAGE
from lab.model import Lab, Node
from lab.owner import give, write_private
from lab.secrets import SUPERUSER
from lab.storage import BUCKET
from lab.world import server_env

STANZA = SERVICE
"""What the repository calls the database."""
_LIMIT_S = 120.0


def command(lab: Lab, name: str, *words: str) -> list[str]:
    """pgBackRest, or what the lab has in its place, as it is run on a node, as the servers' user."""
    if plain.is_plain(lab):
        return plain.command(lab, name, *words)
    program = str(find_program("pgbackrest"))
    return [program, f"--config={lab.paths.pgbackrest(name)}", f"--stanza={STANZA}", *words]


def archiving_conf(lab: Lab, node: Node) -> str:
    """What is added to postgresql.conf."""
    return template("archiving.conf").format(command=" ".join(command(lab, node.name, "archive-push", "%p")))


def sockets(lab: Lab, node: Node) -> Path:
    """pgBackRest reaches a server on its own host by a Unix socket only; nobody else may pass into this folder."""
    return lab.paths.node(node.name)


def pgbackrest_conf(lab: Lab, name: str) -> str:
    """A node's configuration without its server, the repository's secrets included."""
    storage = lab.node(STORAGE)
    return template("pgbackrest.conf").format(
        folder=lab.paths.node(name) / "pgbackrest",
        bucket=BUCKET,
        region=storage.region,
        host=storage.host,
        port=storage.port,
        authority=lab.paths.authority,
        key=lab.secret("s3-key"),
        secret=lab.secret("s3-secret"),
        cipher=lab.secret("repo-cipher"),
    )


def _server(lab: Lab, node: Node, data: Path) -> str:
    lines = (
        f"\n[{STANZA}]",
        f"pg1-path={data}",
        f"pg1-port={node.port}",
        f"pg1-socket-path={sockets(lab, node)}",
        f"pg1-user={SUPERUSER}",
    )
    return "\n".join(lines) + "\n"


def write_archiver(lab: Lab, node: Node, data: Path) -> None:
    """A server's pgBackRest as at the beginning: nothing is under way, and nothing is known of earlier attempts."""
    if plain.is_plain(lab):
        plain.write_archive(lab, node.name, node)
        return
    _begin(lab, node.name)
    write_private(
        lab.paths.pgbackrest(node.name), pgbackrest_conf(lab, node.name) + _server(lab, node, data), server=True
    )


def write_restores(lab: Lab) -> None:
    """The host of restores as at the beginning, with nothing restored. Nothing may run there."""
    folder = lab.paths.node(RESTORES)
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    if plain.is_plain(lab):
        plain.write_archive(lab, RESTORES)
    else:
        _begin(lab, RESTORES)
        write_private(lab.paths.pgbackrest(RESTORES), pgbackrest_conf(lab, RESTORES))
    write_private(folder / "copy_back.pgpass", f"*:*:*:lifeboat_restore:{lab.secret('lifeboat_restore')}\n")
    give(folder)


def _begin(lab: Lab, name: str) -> None:
    folder = lab.paths.node(name) / "pgbackrest"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for each in ("spool", "lock", "log"):
        (folder / each).mkdir(mode=0o700)
    give(folder)


def config(lab: Lab, name: str) -> Path:
    """The file that tells a node's program where the backups are."""
    return lab.paths.archive_ini(name) if plain.is_plain(lab) else lab.paths.pgbackrest(name)


def _repository(lab: Lab) -> dict[str, Any]:
    if plain.is_plain(lab):
        return plain.declared(lab, HOME)
    return {
        "kind": "pgbackrest",
        "stanza": STANZA,
        "program": str(find_program("pgbackrest")),
        "config": str(config(lab, HOME)),
    }


def declaration(lab: Lab) -> dict[str, Any]:
    """`backup` of the service in the lab's topology."""
    host, folder = lab.node(RESTORES), lab.paths.node(RESTORES)
    return {
        "repository": _repository(lab),
        "host": {
            "kind": "folder",
            "name": RESTORES,
            "region": host.region,
            "directory": str(folder / "copies"),
            "bin": str(lab.pg_bin),
            "config": str(config(lab, RESTORES)),
            "run_as": [str(lab.paths.control), "exec", RESTORES],
            "keep_free_bytes": 200_000_000,
            "host": host.host,
            "ports": [lab.base_port, lab.base_port + 2],
            "readers": [f"{lab.network}.0.0/16"],
        },
        "checks": [
            {
                "name": "counted",
                "sql": "SELECT count(*) = count(DISTINCT id) AND coalesce(min(count), 0) >= 0 FROM counting_results",
            }
        ],
        "newest": [{"table": "public.counting_results", "column": "counted_at"}],
        "copy_back": {"user": "lifeboat_restore", "passfile": str(folder / "copy_back.pgpass")},
    }


async def run_on(lab: Lab, name: str, *words: str, limit: float = _LIMIT_S) -> str:
    """What pgBackRest prints on this node; LabError with its last words when it fails."""
    argv = command(lab, name, *words)
    return await run(argv, cwd=lab.paths.node(name), env=server_env(lab.folder), server=True, limit=limit)


async def take_first(lab: Lab) -> None:
    """The first backup, of the first primary, which must run and archive."""
    if not plain.is_plain(lab):
        await run_on(lab, HOME, "stanza-create")
        await run_on(lab, HOME, "check")
    await run_on(lab, HOME, "backup", "--type=full")
