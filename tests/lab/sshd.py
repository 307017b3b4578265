"""A real OpenSSH server for tests: its own configuration, port and keys, in a folder of the test's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lab.waiting import until

_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv HOME={folder}
"""
"""HOME is the test's: the login shell would read the user's own start-up files, and hang where one of them does."""
PRIVILEGE_SEPARATION = Path("/run/sshd")
"""sshd insists on it as root; Debian's service makes it at its start, which tests never do."""


@dataclass(frozen=True)
class Sshd:
    folder: Path
    port: int

    def control(self, **more: Any) -> dict[str, Any]:
        """What an SshControl needs in order to log in here."""
        return {
            "kind": "ssh",
            "host": "127.0.0.1",
            "port": self.port,
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "key": f"file:{self.folder / 'user'}",
            "known_hosts": str(self.folder / "known_hosts"),
        } | more

    def know(self, name: str) -> None:
        """Put the public key `name`.pub into known_hosts as this server's, and no other."""
        kind, key = (self.folder / f"{name}.pub").read_text(encoding="utf-8").split()[:2]
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n", encoding="utf-8")


def make_key(folder: Path, name: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, timeout=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _folder_of_privilege_separation() -> Iterator[None]:
    made = os.geteuid() == 0 and not PRIVILEGE_SEPARATION.exists()
    if made:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    try:
        yield
    finally:
        if made:
            PRIVILEGE_SEPARATION.rmdir()


@contextlib.asynccontextmanager
async def running_sshd(folder: Path) -> AsyncIterator[Sshd]:
    """A server that takes the key `user` and is known by the key `host`; ended with all of its sessions."""
    for name in ("host", "user"):
        make_key(folder, name)
    sshd = Sshd(folder, free_port())
    (folder / "sshd_config").write_text(_CONFIG.format(port=sshd.port, folder=folder), encoding="utf-8")
    sshd.know("host")
    with _folder_of_privilege_separation(), (folder / "sshd.log").open("wb") as log:
        argv = ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
        server = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log)
        try:

            async def listens() -> bool:
                assert server.returncode is None, (folder / "sshd.log").read_text(encoding="utf-8")
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", sshd.port), 1):
                    return True
                return False

            await until("sshd listens", listens, 10)
            yield sshd
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in psutil.Process(server.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()
            with contextlib.suppress(ProcessLookupError):
                server.kill()
            await asyncio.wait_for(server.wait(), 10)
