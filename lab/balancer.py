"""Pgpool-II of the lab: the read-only route."""

from __future__ import annotations

import shlex
from pathlib import Path

from lab import config
from lab.model import Lab, Node
from lab.owner import write_private
from lab.secrets import pcp_text, pool_passwords_text


def write_balancer(lab: Lab, node: Node) -> None:
    """Configuration and passwords of one Pgpool-II. It keeps nothing over a start."""
    folder = lab.paths.node(node.name)
    write_private(folder / "pgpool.conf", config.pgpool_conf(lab, node), server=True)
    write_private(folder / "pool_hba.conf", config.pool_hba_conf(lab), server=True)
    write_private(folder / "pcp.conf", pcp_text(lab.secret("pcp")), server=True)
    passwords = {role: lab.secret(role) for role in ("lifeboat", "app", "lifeboat_probe")}
    write_private(folder / "pool_passwd", pool_passwords_text(passwords), server=True)


def command(lab: Lab, pgpool: Path, folder: Path) -> list[str]:
    """Its start: whatever it served before, it serves nobody until it is told whom.

    A status file in which all are down counts as none, and then all are up: so backend 0, which is nobody, is up in it.
    """
    status = "up\\n" + "down\\n" * len(lab.members())
    options = f"-n -f {folder}/pgpool.conf -F {folder}/pcp.conf -a {folder}/pool_hba.conf"
    return ["/bin/sh", "-c", f"printf '{status}' > pgpool_status && exec {shlex.quote(str(pgpool))} {options}"]
