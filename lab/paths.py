"""Where things lie in a lab's folder. Standard library only: node control must start fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PREFIX = "lifeboat-"
"""Labs are /var/tmp/lifeboat-XXXXXXXX: short, since a Unix socket's path is at most 107 bytes."""
PARENT = Path("/var/tmp")


@dataclass(frozen=True)
class Folder:
    """A lab's folder."""

    root: Path

    @property
    def lab_file(self) -> Path:
        return self.root / "lab.json"

    @property
    def topology(self) -> Path:
        return self.root / "topology.yaml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def home(self) -> Path:
        """HOME of every process of the lab, so that no profile of the user is read."""
        return self.root / "home"

    @property
    def nodes(self) -> Path:
        return self.root / "nodes"

    @property
    def pristine(self) -> Path:
        """The stopped primary that every member is a copy of."""
        return self.root / "pristine"

    @property
    def stored(self) -> Path:
        """What object storage held at first."""
        return self.root / "stored"

    @property
    def authority(self) -> Path:
        """The certificate by which object storage is known, readable for all."""
        return self.nodes / "authority.pem"

    @property
    def passfile(self) -> Path:
        """Passwords of replication, as libpq reads them on every member."""
        return self.nodes / "replication.pgpass"

    @property
    def control(self) -> Path:
        """The command that stands for node control (systemctl, the provider's API …)."""
        return self.root / "run" / "node"

    @property
    def supervisor_conf(self) -> Path:
        return self.root / "run" / "supervisord.conf"

    @property
    def supervisor_pid(self) -> Path:
        return self.root / "run" / "supervisord.pid"

    @property
    def supervisor_socket(self) -> Path:
        return self.root / "run" / "supervisor.sock"

    def node(self, name: str) -> Path:
        """A node's own folder, which is also the working directory of its processes."""
        return self.nodes / name

    def data(self, name: str) -> Path:
        return self.node(name) / "data"

    def kept(self, name: str) -> Path:
        """What outlives a rebuild of the node's data."""
        return self.node(name) / "lifeboat"

    def pgbackrest(self, name: str) -> Path:
        """The configuration of a node's pgBackRest."""
        return self.node(name) / "pgbackrest.conf"

    def archive_ini(self, name: str) -> Path:
        """The same of its lifeboat-archive, where the lab has that."""
        return self.node(name) / "archive.ini"

    def log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def secret(self, name: str) -> Path:
        return self.secrets / name

    def frozen_mark(self, name: str) -> Path:
        """There while the node is frozen as a whole."""
        return self.root / "marks" / f"{name}.frozen"

    def autostart_mark(self, name: str) -> Path:
        """There while the node may not return by itself."""
        return self.root / "marks" / f"{name}.autostart-off"

    def make(self) -> None:
        """Lay out the folder, 0700 but for what the servers' own user must pass through."""
        self.root.chmod(0o711)
        self.nodes.mkdir(mode=0o711)
        for path in (self.secrets, self.home, *(self.root / name for name in ("logs", "run", "marks"))):
            path.mkdir(mode=0o700)


def log_tail(path: Path, lines: int = 12) -> str:
    """The end of a log, for an error's text; what is missing when there is none."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"{path}: {error.strerror}"
