"""The lab's own world: what its processes see of the environment, and the addresses that they may go to.

A user's profile for production (TEMPORAL_*, AWS_*, PG*, proxies, files under HOME) must never be reached, so the
environment is built from nothing, not filtered.
"""

from __future__ import annotations

import os
from pathlib import Path

from lab.errors import OutsideLab
from lab.model import Lab, Node

ROOT = Path(__file__).resolve().parent.parent
"""Where the packages are imported from."""

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_NOWHERE = "http://127.0.0.1:9"
"""RFC 863's port, where nothing listens: a call to AWS that forgot its endpoint fails at once."""


def cache_folder() -> Path:
    """The user's cache of Lifeboat: the Temporal CLI, and bytecode.

    Compiling anew would cost each worker, and node control, a second of processor time at every start; the virtual
    environment may hold no bytecode, and may not be writable.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "lifeboat"


def server_env(folder: Path) -> dict[str, str]:
    """Environment of a data store: nothing of the caller's, and nothing of the checkout."""
    return {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": str(folder / "home")}


def scrubbed_env(lab: Lab | None = None) -> dict[str, str]:
    """Environment of a Python process of Lifeboat: dummy AWS keys, and of a lab its Temporal, home and folder."""
    env = {
        "PATH": SYSTEM_PATH,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPYCACHEPREFIX": str(cache_folder() / "bytecode"),
        "AWS_ACCESS_KEY_ID": "lab",
        "AWS_SECRET_ACCESS_KEY": "lab",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": _NOWHERE,
    }
    for name in ("LD_LIBRARY_PATH", "TERM"):
        if name in os.environ:
            env[name] = os.environ[name]
    if lab is None:
        env["HOME"] = "/nonexistent"
    else:
        env |= {
            "HOME": str(lab.paths.home),
            "LIFEBOAT_LAB": str(lab.folder),
            "TEMPORAL_ADDRESS": lab.temporal.address,
            "TEMPORAL_NAMESPACE": lab.temporal.namespace,
        }
    return env


def worker_env(lab: Lab, node: Node) -> dict[str, str]:
    """Environment of a worker: where its metrics are served, and where its traces go."""
    env = scrubbed_env(lab)
    if node.metrics is not None:
        env["LIFEBOAT_METRICS"] = node.metrics
    if lab.traces is not None:
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = lab.traces.otlp
    return env


def addresses(lab: Lab) -> set[tuple[str, int]]:
    """Every host and port that belongs to the lab."""
    known = {(node.host, node.port) for node in lab.nodes if node.port}
    host, _, port = lab.dns.rpartition(":")
    ui_host, _, ui_port = lab.temporal.ui.removeprefix("http://").rstrip("/").rpartition(":")
    return known | {(host, int(port)), (ui_host, int(ui_port))}


def assert_inside(lab: Lab, host: str, port: int) -> None:
    """OutsideLab unless host and port are one of the lab's own addresses."""
    if (host, port) not in addresses(lab):
        raise OutsideLab(f"{host}:{port}, from a process of the lab in {lab.folder}")


_USERS = ("TEMPORAL_", "AWS_", "PG", "OTEL_")
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")


def leave_the_users() -> None:
    """Forget this process's own TEMPORAL_*, AWS_*, PG*, OTEL_* and proxy variables; what works on a lab calls it."""
    for name in list(os.environ):
        if name.startswith(_USERS) or name.lower() in _PROXIES:
            del os.environ[name]
