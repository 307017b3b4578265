"""The estate of docker-compose.yml: the usual shape at the addresses of a lab whose nodes have networks of their own.

`python -m lab.containers configuration FOLDER` writes the servers' configuration, from the lab's own templates;
`python -m lab.containers polls REGION` exits 0 while a worker of that region polls, which is a container's health.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from lab import config
from lab.layout import SERVICE, USUAL, nodes, shape_of
from lab.model import Lab, Node, NodeKind, TemporalAt
from lab.paths import Folder
from schemas.attributes import region_queue
from workers.connect import connect

NETWORK = "10.251"
"""The lab's own networks are 10.200 to 10.249 (lab/network.py)."""
PORTS: dict[NodeKind, int] = {"postgresql": 5432, "pgbouncer": 6432, "knot": 1053, "temporal": 7233}
WITHOUT: tuple[NodeKind, ...] = ("pgpool",)
"""What the containers' estate is without: Pgpool-II keeps its clients' passwords as text.

It is profile `database`, so it has no cache either: Redis and Sentinel write passwords into the configuration that
they rewrite, and what containers mount holds none. Nor are there backups: pgBackRest's holds the repository's keys.
"""
ROOT = Path("/var/lib/lifeboat")
"""Stands for the lab's folder in every container."""
OBJECTS, GRANTS = "objects.sql", "lifeboat.sql"

_POLLED = timedelta(seconds=120)
"""A long poll is asked again within a minute."""
_RPC_S = 5.0


def estate() -> Lab:
    """The estate as the lab's modules know one; there is no such lab to start."""
    paths = Folder(ROOT)
    found = [_at_own_port(node) for node in nodes(shape_of(USUAL), NETWORK, 0) if node.kind not in WITHOUT]
    return Lab(
        folder=paths.root,
        created=datetime.min.replace(tzinfo=UTC),
        network=NETWORK,
        netns=True,
        base_port=0,
        service=SERVICE,
        temporal=TemporalAt(address=f"temporal:{PORTS['temporal']}", ui="http://127.0.0.1:8233", cli="temporal"),
        nodes=found,
        routes={},
        dns=next(node.address for node in found if node.kind == "knot"),
        pg_bin=Path("/usr/lib/postgresql/15/bin"),
        topology=Path("/etc/lifeboat/topology.yaml"),
        secrets=Path("/run/secrets"),
        ledger=paths.ledger,
    )


def _at_own_port(node: Node) -> Node:
    return node.model_copy(update={"address": f"{node.host}:{PORTS[node.kind]}"}) if node.kind in PORTS else node


def write_configuration(lab: Lab, folder: Path) -> None:
    """Every configuration file, readable for all: none of them holds a secret."""
    for name, text in {**config.files(lab), OBJECTS: config.objects_sql(), GRANTS: config.lifeboat_sql()}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


async def polls(client: Client, region: str) -> bool:
    """Whether a worker has asked the region's own queue for work lately."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=region_queue(region)),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    )
    found = await client.workflow_service.describe_task_queue(request)
    oldest = datetime.now(UTC) - _POLLED
    return any(poller.last_access_time.ToDatetime(UTC) > oldest for poller in found.pollers)


async def _healthy(region: str) -> bool:
    async with asyncio.timeout(_RPC_S):
        return await polls(await connect(), region)


def main(argv: list[str] | None = None) -> int:
    """0 when it is done or healthy, 1 when nobody polls, 2 for bad arguments."""
    match sys.argv[1:] if argv is None else argv:
        case ["configuration", folder]:
            write_configuration(estate(), Path(folder))
            return 0
        case ["polls", region]:
            return 0 if asyncio.run(_healthy(region)) else 1
    print("usage: lab.containers configuration FOLDER | polls REGION", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
