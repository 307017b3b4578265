"""PgBouncer of the lab."""

from __future__ import annotations

from lab import config
from lab.model import Lab, Node
from lab.owner import give, write_private
from lab.secrets import users_text


def write_pooler(lab: Lab, node: Node, verifiers: dict[str, str]) -> None:
    """Configuration and users of one pooler; `restore_pooler` writes its databases."""
    folder = lab.paths.node(node.name)
    write_private(folder / "pgbouncer.ini", config.pgbouncer_ini(lab, node), server=True)
    write_private(folder / "users.txt", users_text(verifiers), server=True)


def restore_pooler(lab: Lab, node: Node) -> None:
    """The databases file as it was at the beginning. The pooler must be stopped."""
    folder = lab.paths.node(node.name)
    write_private(folder / "databases.ini", config.databases_ini(lab), server=True)
    give(folder)
