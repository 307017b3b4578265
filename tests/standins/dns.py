"""An authoritative server of its own: Knot with one zone, updated by RFC 2136."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from lab.binaries import find_program
from schemas.zones import Rfc2136Zone
from tests.standins.server import Server, free_port

ZONE = "names.test"
SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI="
_CONF = """\
server:
    listen: 127.0.0.1@{port}
    rundir: {folder}
    udp-workers: 1
    tcp-workers: 2
    background-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: {folder}
    journal-db-max-size: 64M
key:
  - id: test
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: updates
    key: test
    action: update
zone:
  - domain: {zone}
    storage: {folder}
    file: zone
    acl: updates
    journal-content: changes
    zonefile-sync: -1
    zonefile-load: whole
"""


class NameServer(Server):
    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.server = f"127.0.0.1:{self.port}"
        folder.mkdir(parents=True)
        (folder / "key").write_text(SECRET)
        (folder / "knot.conf").write_text(_CONF.format(port=self.port, folder=folder, secret=SECRET, zone=ZONE))
        (folder / "zone").write_text(
            f"$ORIGIN {ZONE}.\n$TTL 1\n@ SOA ns hostmaster 1 3600 600 86400 1\n@ NS ns\nns A 127.0.0.1\n"
        )
        self.command = [str(find_program("knotd")), "-c", str(folder / "knot.conf")]
        self.ready = self.port

    def zone(self, *more: str) -> Rfc2136Zone:
        """This server's zone, as a topology declares it; `more` are further servers."""
        return Rfc2136Zone(
            name=ZONE, servers=[self.server, *more], key_name="test", key_secret=f"file:{self.folder / 'key'}"
        )


@contextlib.contextmanager
def name_server(folder: Path) -> Iterator[NameServer]:
    made = NameServer(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
