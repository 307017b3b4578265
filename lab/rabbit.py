"""RabbitMQ of the lab: a cluster of three in the east and a broker that stands by in the west, and what they define.

A node takes 5 s of processor time to start, so that a reset leaves those that run as they are, and takes away and
defines anew what is in them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aio_pika
import httpx

from lab.errors import LabError
from lab.layout import LOOPBACK, QUEUE_HOME, broker_port, epmd_port, management_port
from lab.model import Lab, Node
from lab.owner import give, write_private
from lab.waiting import until
from lab.world import SYSTEM_PATH
from schemas.queue_facts import PROBE_QUEUE

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
"""Debian's own start in /usr/sbin runs as `rabbitmq` or root only."""
QUEUES = {"counting": "counts", "mirrored": "mcounts"}
"""Virtual host → the queue that the load goes to: a quorum queue, and a classic one that `ha-all` mirrors."""
USERS = {"lifeboat": "administrator", "shovel": "", "app": ""}
"""Beside `referee`, the lab's own, which each node makes at its first start."""
_PLUGINS = ("rabbitmq_management", "rabbitmq_shovel", "rabbitmq_shovel_management")
_CALL_S = 10.0
_UP_S = 90.0
_EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}


def erlang_name(node: Node) -> str:
    return f"{node.name}@{node.host}"


def clusters(lab: Lab) -> dict[str, list[Node]]:
    """Region → its nodes, that of the home first."""
    found: dict[str, list[Node]] = {lab.node(QUEUE_HOME).region: []}
    for node in lab.of_kind("rabbitmq"):
        found.setdefault(node.region, []).append(node)
    return found


def rabbitmq_conf(lab: Lab, node: Node) -> str:
    """A node's configuration, its own first user's password included."""
    peers = clusters(lab)[node.region]
    lines = [
        f"listeners.tcp.1 = {node.host}:{node.port}",
        f"management.tcp.ip = {node.host}",
        f"management.tcp.port = {management_port(lab.base_port)}",
        "log.console = true",
        "log.console.level = warning",
        "log.file = false",
        "default_user = referee",
        f"default_pass = {lab.secret('queue-referee')}",
        "default_user_tags.administrator = true",
        "loopback_users = none",
        # A frozen node is noticed by the others within this; the default is a minute.
        "net_ticktime = 8",
        "disk_free_limit.absolute = 50MB",
        "cluster_formation.node_cleanup.only_log_warning = true",
    ]
    if len(peers) > 1:
        lines += ["cluster_partition_handling = pause_minority"]
        lines += ["cluster_formation.peer_discovery_backend = classic_config"]
        lines += [
            f"cluster_formation.classic_config.nodes.{number} = {erlang_name(each)}"
            for number, each in enumerate(peers, start=1)
        ]
    return "\n".join(lines) + "\n"


def environment(lab: Lab, node: Node) -> dict[str, str]:
    """Of the node and of its tools: its name, where the others find it, and nothing of /etc."""
    folder = lab.paths.node(node.name)
    interface = "{" + node.host.replace(".", ",") + "}"
    return {
        "PATH": f"{PROGRAMS}:{SYSTEM_PATH}",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        # Where Erlang looks for its cookie.
        "HOME": str(folder),
        "RABBITMQ_NODENAME": erlang_name(node),
        "RABBITMQ_USE_LONGNAME": "true",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(lab.paths.data(node.name)),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_DIST_PORT": str(broker_port(lab.base_port, lab.of_kind("rabbitmq").index(node))),
        # Several nodes on two processors: none of their schedulers may spin.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {interface}"
        " +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        "ERL_EPMD_PORT": str(epmd_port(lab.base_port)),
        "ERL_EPMD_ADDRESS": node.host,
        # Its dump of a crash at the start is 10 MB and tells less than the log.
        "ERL_CRASH_DUMP_SECONDS": "0",
    }


def with_environment(lab: Lab, node: Node) -> Path:
    """The program that runs another as the node's own: the broker, or one of its tools."""
    return lab.paths.node(node.name) / "as-node"


def command(lab: Lab, node: Node) -> list[str]:
    argv = [str(with_environment(lab, node)), str(PROGRAMS / "rabbitmq-server")]
    if lab.network == LOOPBACK:
        return argv
    # A network namespace has a loopback, and so an epmd, of its own.
    return [argv[0], "/bin/sh", "-c", 'epmd & exec "$@"', "sh", argv[1]]


def epmd_command(lab: Lab) -> list[str]:
    """One for all nodes of the lab, which share 127.0.0.1, where each registers."""
    hosts = ",".join(node.host for node in lab.of_kind("rabbitmq"))
    return ["/usr/bin/epmd", "-address", hosts, "-port", str(epmd_port(lab.base_port))]


def write_broker(lab: Lab, node: Node) -> None:
    """The node's files; its data begins empty."""
    folder = lab.paths.node(node.name)
    for name in ("generated", "log"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    write_private(folder / "rabbitmq.conf", rabbitmq_conf(lab, node))
    write_private(folder / "enabled_plugins", f"[{','.join(_PLUGINS)}].\n")
    write_private(folder / ".erlang.cookie", lab.secret("queue-cookie"))
    (folder / ".erlang.cookie").chmod(0o400)
    exports = [f"export {name}='{value}'" for name, value in environment(lab, node).items()]
    script = with_environment(lab, node)
    script.write_text("\n".join(["#!/bin/sh", *exports, 'exec "$@"']) + "\n", encoding="utf-8")
    script.chmod(0o700)
    restore_broker(lab, node)
    give(folder)


def restore_broker(lab: Lab, node: Node) -> None:
    """Without any data, as at the beginning. The node must be stopped."""
    data = lab.paths.data(node.name)
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    give(data)


class Management:
    """The management API of one node, as the lab's own user."""

    def __init__(self, lab: Lab, node: Node) -> None:
        self.node = node
        self._client = httpx.AsyncClient(
            base_url=f"http://{node.host}:{management_port(lab.base_port)}/api",
            auth=("referee", lab.secret("queue-referee")),
            timeout=_CALL_S,
            trust_env=False,
        )

    async def __aenter__(self) -> Management:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def call(self, method: str, *parts: str, body: object = None) -> Any:
        """What it answers; None where nothing is there. LabError otherwise."""
        where = "/" + "/".join(quote(part, safe="?=&") for part in parts)
        try:
            answer = await self._client.request(method, where, json=body)
        except httpx.HTTPError as error:
            raise LabError(f"{self.node.name}: {method} {where}: {str(error) or type(error).__name__}") from error
        if answer.status_code == 404:
            return None
        if not answer.is_success:
            raise LabError(f"{self.node.name}: {method} {where}: {answer.status_code} {answer.text[:300]}")
        return answer.json() if answer.content else {}


async def _sees(lab: Lab, node: Node, wanted: Sequence[Node]) -> bool:
    try:
        async with asyncio.timeout(3.0), Management(lab, node) as api:
            nodes = await api.call("GET", "nodes")
    except (LabError, TimeoutError):
        return False
    running = {each["name"] for each in nodes or [] if each.get("running")}
    return {erlang_name(each) for each in wanted} <= running


async def whole(lab: Lab, region: str) -> bool:
    """Whether every node of the region's cluster sees all of them run."""
    nodes = clusters(lab)[region]
    return all(await asyncio.gather(*(_sees(lab, node, nodes) for node in nodes)))


async def until_whole(lab: Lab) -> None:
    for region in clusters(lab):

        async def complete(region: str = region) -> bool:
            return await whole(lab, region)

        await until(f"RabbitMQ's nodes in {region} see each other", complete, _UP_S, every=0.2)


async def kept(lab: Lab) -> list[str]:
    """Of a reset: the nodes that may run on, since most of their cluster does; the rest are laid anew."""
    found = ["epmd"] if lab.of_kind("epmd") else []
    for nodes in clusters(lab).values():
        answers = await asyncio.gather(*(_sees(lab, node, [node]) for node in nodes))
        if 2 * sum(answers) > len(nodes) and await _is_ours(lab, nodes[answers.index(True)]):
            found += [node.name for node in nodes]
    return found if len(found) > 1 else []


async def _is_ours(lab: Lab, node: Node) -> bool:
    """Whether the load's queues are there and of their kind, so that they need only be emptied."""
    try:
        async with Management(lab, node) as api:
            quorum = await api.call("GET", "queues", "counting", QUEUES["counting"])
            classic = await api.call("GET", "queues", "mirrored", QUEUES["mirrored"])
    except LabError:
        return False
    return bool(quorum and classic) and (quorum.get("type"), classic.get("type")) == ("quorum", "classic")


async def define(lab: Lab) -> None:
    """What is defined at first, and nothing else: users, virtual hosts, the queues; the west's clients are kept out."""
    for region, nodes in clusters(lab).items():
        async with Management(lab, nodes[0]) as api:
            await _clear(api)
            await _define(lab, api, nodes, serves=region == lab.node(QUEUE_HOME).region)


async def _clear(api: Management) -> None:
    """All that is not there at first. Our own queues are emptied and never deleted: one that is declared again under
    its name is empty after its node is killed, whatever was confirmed since [T, RabbitMQ 3.10.8]."""
    for each in await api.call("GET", "parameters", "shovel") or []:
        await api.call("DELETE", "parameters", "shovel", each["vhost"], each["name"])
    there = [each["name"] for each in await api.call("GET", "vhosts") or []]
    for name in there:
        if name not in ("/", *QUEUES):
            await api.call("DELETE", "vhosts", name)
    for each in await api.call("GET", "users") or []:
        if each["name"] != "referee":
            await api.call("DELETE", "users", each["name"])
    for each in await api.call("GET", "global-parameters") or []:
        if each["name"].startswith("lifeboat"):
            await api.call("DELETE", "global-parameters", each["name"])
    for vhost in [each for each in QUEUES if each in there]:
        for each in await api.call("GET", "policies", vhost) or []:
            await api.call("DELETE", "policies", vhost, each["name"])
        await api.call("DELETE", "vhost-limits", vhost, "max-connections")
        for each in await api.call("GET", "queues", f"{vhost}?disable_stats=true&enable_queue_totals=true") or []:
            if each["name"] in (QUEUES[vhost], PROBE_QUEUE):
                await api.call("DELETE", "queues", vhost, each["name"], "contents")
            else:
                await api.call("DELETE", "queues", vhost, each["name"])


async def _define(lab: Lab, api: Management, nodes: Sequence[Node], *, serves: bool) -> None:
    for user, tags in USERS.items():
        await api.call("PUT", "users", user, body={"password": lab.secret(f"queue-{user}"), "tags": tags})
    for vhost in QUEUES:
        await api.call("PUT", "vhosts", vhost, body={})
        users = ["referee", "lifeboat", "shovel", *(["app"] if serves else [])]
        for user in users:
            await api.call("PUT", "permissions", vhost, user, body=_EVERYTHING)
    mirrored = {"ha-mode": "all", "ha-sync-mode": "automatic"}
    body = {"pattern": ".*", "apply-to": "queues", "definition": mirrored}
    await api.call("PUT", "policies", "mirrored", "ha-all", body=body)
    # Of both clusters the same, as of one that was imported; each has as many members as it has nodes.
    for vhost, kind in (("counting", "quorum"), ("mirrored", "classic")):
        found = await api.call("GET", "queues", vhost, QUEUES[vhost])
        if not found:
            arguments = {"x-queue-type": "quorum", "x-quorum-initial-group-size": 3} if kind == "quorum" else {}
            await api.call("PUT", "queues", vhost, QUEUES[vhost], body={"durable": True, "arguments": arguments})


async def ready(lab: Lab, node: Node, vhost: str) -> int:
    """Messages ready in the virtual host's queue, as the queue itself says: the API's figures are seconds old."""
    connection = await aio_pika.connect(
        host=node.host,
        port=node.port,
        login="referee",
        password=lab.secret("queue-referee"),
        virtualhost=vhost,
        timeout=5,
    )
    try:
        channel = await connection.channel(publisher_confirms=False)
        queue = await channel.declare_queue(QUEUES[vhost], passive=True)
        return int(queue.declaration_result.message_count or 0)
    finally:
        await connection.close()


async def until_defined(lab: Lab) -> None:
    """Define, and wait until the quorum queue has a leader and all its members, and the mirrors are there."""
    await define(lab)
    home = clusters(lab)[lab.node(QUEUE_HOME).region]

    async def there() -> bool:
        async with Management(lab, home[0]) as api:
            quorum = await api.call("GET", "queues", "counting", QUEUES["counting"])
            classic = await api.call("GET", "queues", "mirrored", QUEUES["mirrored"])
        if not quorum or not classic:
            return False
        online = len(quorum.get("online", []))
        mirrors = len(classic.get("synchronised_slave_nodes") or [])
        return bool(quorum.get("leader")) and online == len(home) and mirrors == len(home) - 1

    await until("the queues have their members", there, 30.0, every=0.1)
