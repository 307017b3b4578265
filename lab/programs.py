"""What supervisord runs: its configuration, and its start."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from lab import balancer, jaeger, network, rabbit, storage
from lab.binaries import Binaries
from lab.errors import LabError
from lab.layout import LOOPBACK, ui_port
from lab.model import Lab, Node
from lab.owner import USER, server_ids, write_private
from lab.paths import Folder, log_tail
from lab.supervise import GROUP, Supervisor, SupervisorGone
from lab.supervise import USER as SUPERVISOR_USER
from lab.world import ROOT, scrubbed_env, server_env, worker_env
from schemas.attributes import INT_ATTRIBUTES, KEYWORD_ATTRIBUTES

_TUNED = (
    "history.transferProcessorMaxPollRPS=1000",
    "history.timerProcessorMaxPollRPS=1000",
    'history.timerProcessorMaxTimeShift="10ms"',
    "system.enableActivityEagerExecution=true",
    # A lab's few pollers would be spread over four partitions, and some of them seen by nobody for a minute.
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
)
"""The development server's throttles, opened: 12 to 28 ms an activity instead of 102 [temporal.md]."""

_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL")
"""SQLite's own default makes and deletes a journal file for each of the server's transactions. A killed server loses
nothing by this; a machine that loses its power may, and its lab with it."""

_START_S = 10.0


@dataclass(frozen=True)
class Program:
    """`restarts`: started again whenever it ends. `as_server`: runs as the servers' user."""

    node: Node
    argv: list[str]
    restarts: bool = False
    as_server: bool = False
    stop_signal: str = "TERM"
    env: Mapping[str, str] = field(default_factory=dict)


def programs(lab: Lab, binaries: Binaries) -> list[Program]:
    """Every node of the lab as a program, but for hosts, which have none."""
    found = (_program(lab, node, binaries) for node in lab.nodes)
    return [program for program in found if program is not None]


def _program(lab: Lab, node: Node, binaries: Binaries) -> Program | None:
    folder = lab.paths.node(node.name)
    match node.kind:
        case "postgresql":
            argv = [str(lab.pg_bin / "postgres"), "-D", str(lab.paths.data(node.name))]
            return Program(node, argv, as_server=True, stop_signal="INT")
        case "pgbouncer":
            argv = [str(binaries.pgbouncer), str(folder / "pgbouncer.ini")]
            return Program(node, argv, as_server=True, stop_signal="INT")
        case "pgpool":
            argv = balancer.command(lab, binaries.pgpool, folder)
            return Program(node, argv, as_server=True, stop_signal="INT")
        case "knot":
            return Program(node, [str(binaries.knotd), "-c", str(folder / "knot.conf")], as_server=True)
        case "temporal":
            return Program(node, _temporal(lab, node), restarts=True)
        case "worker":
            argv = [sys.executable, "-m", "workers.main", "--region", node.region, "--topology", str(lab.topology)]
            return Program(node, argv, restarts=True, env=worker_env(lab, node))
        case "jaeger":
            assert binaries.jaeger is not None
            return Program(node, jaeger.command(lab, node, binaries.jaeger), restarts=True)
        case "rabbitmq":
            return Program(node, rabbit.command(lab, node), as_server=True)
        case "epmd":
            return Program(node, rabbit.epmd_command(lab), restarts=True, as_server=True)
        case "redis":
            return Program(node, [str(binaries.redis), str(folder / "redis.conf")], as_server=True)
        case "sentinel":
            return Program(node, [str(binaries.redis), str(folder / "sentinel.conf"), "--sentinel"], as_server=True)
        case "s3":
            assert binaries.versitygw is not None
            return Program(node, storage.command(lab, node, binaries.versitygw), env=storage.environment(lab))
        case "host":
            return None
        case "health":
            argv = [sys.executable, "-m", "lab.health", str(lab.folder)]
            return Program(node, argv, restarts=True, env=scrubbed_env(lab))


def _temporal(lab: Lab, node: Node) -> list[str]:
    # 127.0.0.1 and 0.0.0.0 work, any other address lets every start hang [temporal.md, 15].
    ip = "127.0.0.1" if lab.network == LOOPBACK else "0.0.0.0"
    return [
        *(lab.temporal.cli, "server", "start-dev", "--ip", ip, "--port", str(node.port)),
        *("--ui-port", str(ui_port(lab.base_port)), "--log-level", "warn"),
        *("--db-filename", str(lab.paths.node(node.name) / "temporal.db")),
        *temporal_options(),
    ]


def temporal_options() -> list[str]:
    """What every development server of Lifeboat is started with: search attributes, tuning, and its database's mode."""
    attributes = [f"{name}=Keyword" for name in KEYWORD_ATTRIBUTES] + [f"{name}=Int" for name in INT_ATTRIBUTES]
    return [
        *(part for name in attributes for part in ("--search-attribute", name)),
        *(part for value in _TUNED for part in ("--dynamic-config-value", value)),
        *(part for value in _PRAGMAS for part in ("--sqlite-pragma", value)),
    ]


def _section(lab: Lab, program: Program) -> str:
    node, user, ids = program.node, "", server_ids() if program.as_server else None
    argv = [*network.enter(lab, node, ids), *program.argv]
    if ids is not None and not lab.netns:
        user = f"user={USER}\n"
    env = ",".join(f'{name}="{value}"' for name, value in program.env.items())
    text = f"""
[program:{node.name}]
command={shlex.join(argv)}
directory={lab.paths.node(node.name)}
{user}environment={env}
autostart=false
autorestart={str(program.restarts).lower()}
startsecs={1 if program.restarts else 0}
startretries=1000000
stopsignal={program.stop_signal}
stopwaitsecs=5
umask=077
redirect_stderr=true
stdout_logfile={lab.paths.log(node.name)}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=1
"""
    return text.replace("%", "%%")


def write_supervisor(lab: Lab, binaries: Binaries) -> None:
    """supervisord's configuration. It listens on a Unix socket that only the caller may open, with a password."""
    paths, password = lab.paths, lab.secret("supervisor")
    found = programs(lab, binaries)
    head = f"""\
[supervisord]
nodaemon=true
logfile={paths.log("supervisord")}
pidfile={paths.supervisor_pid}
directory={paths.root}
identifier=lifeboat-lab
umask=077

[unix_http_server]
file={paths.supervisor_socket}
chmod=0700
username={SUPERVISOR_USER}
password={password}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[group:{GROUP}]
programs={",".join(program.node.name for program in found)}
"""
    sections = [_section(lab, program) for program in found]
    write_private(paths.supervisor_conf, head + "".join(sections))


def start_supervisor(paths: Folder) -> Supervisor:
    """Start supervisord in the background; LabError when it does not answer within 10 s."""
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "lab" / "launcher.py"), str(paths.supervisor_conf)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=paths.log("launcher").open("wb"),
        cwd=paths.root,
        env=server_env(paths.root),
        timeout=_START_S,
        check=False,
    )
    until = time.monotonic() + _START_S
    supervisor = Supervisor(paths)
    while done.returncode == 0 and time.monotonic() < until:
        try:
            supervisor.all()
        except SupervisorGone:
            time.sleep(0.02)
        else:
            return supervisor
    raise LabError(f"supervisord did not start: {log_tail(paths.log('launcher'))}")
