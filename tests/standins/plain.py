"""A PostgreSQL of one test that archives by lifeboat-archive, and a store for it; both run as the lab's servers do."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lab.binaries import find_pg_bin
from lab.owner import as_server, give, server_name, write_private
from lab.plain import install
from tests.standins.server import free_port

INI = """\
[archive]
stanza = unit
bucket = archive
prefix = unit
region = us-east-1
endpoint = {endpoint}
addressing = path
credentials = {folder}/credentials
lock_path = {folder}/lock
timeout = {timeout}
[server]
bin = {bin}
socket = {folder}
port = {port}
user = {user}
[thaw]
poll = 0.2
"""
CONF = """
listen_addresses = ''
unix_socket_directories = '{folder}'
port = {port}
fsync = off
archive_mode = on
archive_command = '{command}'
wal_level = replica
min_wal_size = 32MB
"""
LIMIT_S = 60.0


P = TypeVar("P", bound="Plain")


class Plain:
    """`folder` is short and the servers' own; `program` is installed there."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint, self.port = folder, endpoint, free_port()
        self.bin, self.data = find_pg_bin(), folder / "data"
        self.program = install(folder / "archiver")
        self.ini = self.configure("archive.ini")

    def configure(self, name: str, *, endpoint: str = "", timeout: float = 20.0, more: Mapping[str, str] = {}) -> Path:
        """A configuration of its own; `more` are other values of keys in it."""
        text = INI.format(
            folder=self.folder,
            endpoint=endpoint or self.endpoint,
            timeout=timeout,
            bin=self.bin,
            port=self.port,
            user=server_name(),
        )
        for key, value in more.items():
            lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
            text = "\n".join([lines[0], f"{key} = {value}", *lines[1:]]) + "\n"
        path = self.folder / name
        write_private(path, text, server=True)
        keys = "[default]\naws_access_key_id = lab\naws_secret_access_key = lab\n"
        write_private(self.folder / "credentials", keys, server=True)
        return path

    def argv(self, *words: str, ini: Path | None = None) -> list[str]:
        return [str(self.program), f"--config={ini or self.ini}", "--stanza=unit", *words]

    def run(self, *words: str, ini: Path | None = None, limit: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        """The program as the servers' user runs it."""
        return self.execute(*self.argv(*words, ini=ini), limit=limit)

    def well(self, *words: str, ini: Path | None = None) -> str:
        done = self.run(*words, ini=ini)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def execute(self, *argv: str, limit: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            **as_server(),
        )

    def begin(self, *argv: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(argv, cwd=self.folder, env=self.environment, text=True, **more, **as_server())

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    # The server

    def initialise(self) -> None:
        made = self.execute(
            *(str(self.bin / "initdb"), "-D", str(self.data), "-U", server_name(), "-A", "trust", "-k", "--no-sync")
        )
        assert made.returncode == 0, made.stderr
        command = " ".join(self.argv("archive-push", "%p"))
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(CONF.format(folder=self.folder, port=self.port, command=command))
        self.start()

    def start(self, data: Path | None = None) -> None:
        done = self.execute(
            str(self.bin / "pg_ctl"), *("-D", str(data or self.data)), *("-l", f"{self.folder}/log", "-w", "start")
        )
        assert done.returncode == 0, done.stdout + (self.folder / "log").read_text()

    def stop(self, data: Path | None = None) -> None:
        self.execute(str(self.bin / "pg_ctl"), "-D", str(data or self.data), "-m", "immediate", "-w", "stop")

    def sql(self, *statements: str, port: int | None = None) -> str:
        words = [word for each in statements for word in ("-c", each)]
        argv = (
            "psql",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            str(self.folder),
            "-p",
            str(port or self.port),
            "-d",
            "postgres",
        )
        done = self.execute(*argv, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def archived(self) -> str:
        """The name of a WAL file that is full of what was written last, once it is archived."""
        self.sql("CREATE TABLE IF NOT EXISTS switched (n int)", "INSERT INTO switched VALUES (1)")
        name = self.sql("SELECT pg_walfile_name(pg_switch_wal())")
        end = time.monotonic() + LIMIT_S
        while self.sql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver") < name:
            assert time.monotonic() < end, f"{name} is not archived: {(self.folder / 'log').read_text()[-2000:]}"
            time.sleep(0.05)
        return name


@contextlib.contextmanager
def plain(endpoint: str, kind: type[P]) -> Iterator[P]:
    """Without its server, which `initialise` makes."""
    folder = Path(tempfile.mkdtemp(prefix="lifeboat-unit-", dir="/var/tmp"))
    give(folder)
    made = kind(folder, endpoint)
    try:
        yield made
    finally:
        if (made.data / "postmaster.pid").exists():
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)
        assert not os.path.exists(folder)
