"""Jaeger beside the estate: traces in memory, on an address and ports of the lab."""

from __future__ import annotations

from pathlib import Path

from lab.model import Lab, Node, TracesAt

_ELSEWHERE = (
    "admin.http.host-port",
    "collector.grpc-server.host-port",
    "collector.http-server.host-port",
    "collector.otlp.grpc.host-port",
    "query.grpc-server.host-port",
)
"""Every port that all-in-one 1.76 opens beside the two that are used; each has a default, which may be somebody's."""


def traces_at(node: Node) -> TracesAt:
    """Where the node serves: its own port is that of UI and API, the next one takes spans."""
    return TracesAt(ui=f"http://{node.address}", otlp=f"http://{node.host}:{node.port + 1}")


def command(lab: Lab, node: Node, program: Path) -> list[str]:
    """All in one, with its store in memory: what a restart forgets, nothing but a look back depends on.

    Elsewhere it has a machine of its own; here it yields the processor to the estate that it looks at.
    """
    others = [f"--{name}={node.host}:{node.port + 2 + index}" for index, name in enumerate(_ELSEWHERE)]
    return [
        *("/usr/bin/nice", "-n", "10"),
        str(program),
        f"--query.http-server.host-port={node.address}",
        f"--collector.otlp.http.host-port={node.host}:{node.port + 1}",
        *others,
        "--memory.max-traces=2000",
        "--log-level=warn",
    ]
