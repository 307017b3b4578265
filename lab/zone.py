"""Knot DNS of the lab: one zone, updated by RFC 2136 with a TSIG key."""

from __future__ import annotations

import shutil

from lab import config
from lab.model import Lab, Node
from lab.owner import give, write_private
from lab.secrets import key_text


def write_dns(lab: Lab, node: Node) -> None:
    """Configuration of the DNS server; `restore_dns` writes its zone."""
    folder = lab.paths.node(node.name)
    write_private(folder / "knot.conf", config.knot_conf(lab, node), server=True)
    write_private(folder / "key.conf", key_text(lab.secret("tsig")), server=True)


def restore_dns(lab: Lab, node: Node) -> None:
    """The zone as it was at the beginning, without any epoch. The server must be stopped."""
    state = lab.paths.node(node.name) / "state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(mode=0o700)
    (state / "lab.zone").write_text(config.zone_file(lab, node), encoding="utf-8")
    give(state)
