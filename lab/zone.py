"""Knot DNS of the lab: one zone, updated by RFC 2136 with a TSIG key."""

from __future__ import annotations

import shutil

from lab.estate import KEY_NAME
from lab.layout import HOME, RECORD, ZONE
from lab.model import Lab, Node
from lab.owner import give, write_private

# The journal holds changes, never `none`: that fell back two epochs after kill -9 (safety.md). The zone file stays
# as it was written, so the journal alone carries every update over a restart.
_CONF = """\
server:
    listen: {host}@{port}
    rundir: {folder}
    udp-workers: 1
    tcp-workers: 2
    background-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: {folder}/state
    journal-db-max-size: 64M
key:
  - id: {key}
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: updates
    key: {key}
    action: update
zone:
  - domain: {zone}
    storage: {folder}/state
    file: lab.zone
    acl: updates
    journal-content: changes
    zonefile-sync: -1
    zonefile-load: whole
"""

_ZONE = """\
$ORIGIN {zone}.
$TTL 1
@ SOA ns hostmaster 1 3600 600 86400 1
@ NS ns
ns A {host}
{record}. A {leader}
"""


def write_dns(lab: Lab, node: Node) -> None:
    """Configuration of the DNS server; `restore_dns` writes its zone."""
    folder = lab.paths.node(node.name)
    text = _CONF.format(
        folder=folder, host=node.host, port=node.port, key=KEY_NAME, secret=lab.secret("tsig"), zone=ZONE
    )
    write_private(folder / "knot.conf", text, server=True)


def restore_dns(lab: Lab, node: Node) -> None:
    """The zone as it was at the beginning, without any epoch. The server must be stopped."""
    state = lab.paths.node(node.name) / "state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(mode=0o700)
    text = _ZONE.format(zone=ZONE, host=node.host, record=RECORD, leader=lab.node(HOME).host)
    (state / "lab.zone").write_text(text, encoding="utf-8")
    give(state)
