"""Talking to the lab's supervisord over its Unix socket. Standard library and psutil only: node control starts fast."""

from __future__ import annotations

import http.client
import socket
import time
import xmlrpc.client
from dataclasses import dataclass
from typing import Any

from lab.paths import Folder
from lab.processes import is_alive

USER = "lifeboat"
GROUP = "lab"
"""One group of all programs: a shutdown takes groups one after another, a second each."""

# supervisor/xmlrpc.py, class Faults
_ALREADY_STARTED = 60
_NOT_RUNNING = 70


class SupervisorGone(Exception):
    """The lab's supervisor does not answer, so the lab is not running."""


@dataclass(frozen=True)
class Process:
    """`state` as supervisord names it: RUNNING, STARTING, BACKOFF, STOPPING, STOPPED, EXITED, FATAL, UNKNOWN."""

    name: str
    state: str
    pid: int | None


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("supervisor", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        _, self._extra_headers, _ = self.get_host_info(host)
        return _Connection(self._path)


class Supervisor:
    """The supervisor of one lab. Every call may raise SupervisorGone."""

    def __init__(self, folder: Folder) -> None:
        try:
            password = folder.secret("supervisor").read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SupervisorGone(str(error)) from error
        self._proxy = xmlrpc.client.ServerProxy(
            f"http://{USER}:{password}@supervisor", transport=_Transport(str(folder.supervisor_socket))
        )

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._proxy, f"supervisor.{method}")(*arguments)
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise SupervisorGone(f"{method}: {error}") from error

    @staticmethod
    def _process(found: dict[str, Any]) -> Process:
        return Process(name=found["name"], state=found["statename"], pid=found["pid"] or None)

    def all(self) -> dict[str, Process]:
        """Every program of the lab, by name."""
        return {found["name"]: self._process(found) for found in self._call("getAllProcessInfo")}

    def process(self, name: str) -> Process:
        return self._process(self._call("getProcessInfo", f"{GROUP}:{name}"))

    def start(self, name: str, *, limit: float = 5.0) -> int | None:
        """Start the program unless it runs; its pid. A process that has just died is reaped first."""
        until = time.monotonic() + limit
        while True:
            before = self.process(name)
            try:
                self._call("startProcess", f"{GROUP}:{name}", False)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != _ALREADY_STARTED:
                    raise SupervisorGone(f"{name} could not be started: {fault.faultString}") from fault
                if before.pid is not None and is_alive(before.pid):
                    return before.pid
                if before.state == "BACKOFF":
                    # It waits, longer after each failure, before it tries again: now is better.
                    self.stop(name)
                if time.monotonic() > until:
                    raise SupervisorGone(f"{name} is dead, and was not reaped within {limit:.0f} s") from fault
                time.sleep(0.01)
            else:
                return self.process(name).pid

    def stop(self, name: str) -> None:
        """Stop the program, so that it is not started again by itself; nothing to do when it doesn't run."""
        try:
            self._call("stopProcess", f"{GROUP}:{name}", True)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != _NOT_RUNNING:
                raise SupervisorGone(f"{name} could not be stopped: {fault.faultString}") from fault

    def shutdown(self) -> None:
        self._call("shutdown")
