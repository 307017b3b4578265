"""Redis and Sentinel of the lab: their configuration, and their data as it was at the beginning.

Both rewrite their own configuration, passwords included, so it lies with its node and belongs to the servers' user.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil

from lab import resp
from lab.config import template
from lab.errors import LabError
from lab.layout import CACHE_HOME, MONITORED
from lab.model import Lab, Node
from lab.owner import give, write_private
from lab.waiting import until
from lab.wire import Lost, NotConnected

ASK_S = 1.5
_FOLLOWED_S = 20.0

_CONNECTION = "+auth +hello +ping +client +acl|whoami"
_SERVER_RULES = {
    # What an application needs, WAIT included, and nothing that would hurt others (KEYS, FLUSHALL …).
    "app": "~* +@read +@write +@connection +@transaction -@dangerous +wait +role +info",
    # Reads everything, writes keys of its own and, warming, whole ones (RESTORE); leads and follows; sees and cuts
    # clients. It can neither debug nor stop the server, nor empty it, nor change who may do what.
    "lifeboat": f"%R~* ~lifeboat:* {_CONNECTION} +info +role +config|get +config|set +config|rewrite +replicaof +wait"
    " +get +set +del +unlink +exists +type +ttl +pttl +expire +pexpire +strlen +scan +dump +randomkey +dbsize +object"
    " +memory|usage +multi +exec +discard (%W~* +restore)",
    # The next two are Redis' own (its manual, "ACL", "ACL rules for Sentinel and Replicas").
    "replicator": "+psync +replconf +ping",
    "sentinel": "allchannels +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info"
    " +client|setname +client|kill +script|kill",
    "referee": "~* &* +@all",
}
_SENTINEL_RULES = {
    "app": f"allchannels {_CONNECTION} +subscribe +psubscribe +unsubscribe +punsubscribe +role"
    " +sentinel|get-master-addr-by-name +sentinel|master +sentinel|masters +sentinel|replicas +sentinel|slaves"
    " +sentinel|sentinels",
    "lifeboat": f"allchannels {_CONNECTION} +subscribe +psubscribe +unsubscribe +punsubscribe +role +info +sentinel",
    "peer": f"allchannels {_CONNECTION} +publish +subscribe +sentinel|is-master-down-by-addr",
}


def _user(name: str, password: str, rules: str) -> str:
    """The file holds the password's hash, as the server itself would write it."""
    return f"user {name} on #{hashlib.sha256(password.encode()).hexdigest()} resetchannels {rules}"


def _users(lab: Lab, prefix: str, rules: dict[str, str]) -> list[str]:
    return ["user default off", *(_user(name, lab.secret(f"{prefix}-{name}"), each) for name, each in rules.items())]


def redis_conf(lab: Lab, node: Node) -> str:
    """A server's configuration as it was at the beginning, its secrets included."""
    lines = [
        template("redis.conf").format(host=node.host, port=node.port, folder=lab.paths.node(node.name)),
        *_users(lab, "cache", _SERVER_RULES),
        "masteruser replicator",
        f"masterauth {lab.secret('cache-replicator')}",
    ]
    if node.upstream is not None:
        leader = lab.node(node.upstream)
        lines.append(f"replicaof {leader.host} {leader.port}")
    if not serves(lab, node):
        lines += ["replica-priority 0", "replica-announced no"]
    return "\n".join(lines) + "\n"


def serves(lab: Lab, node: Node) -> bool:
    """Whether the node stands in the region that serves at first; the others' stand by."""
    return node.region == lab.node(CACHE_HOME).region


def sentinel_conf(lab: Lab, node: Node) -> str:
    """A Sentinel's configuration as it was at the beginning, its secrets included.

    It knows the replicas and the other Sentinels, as one that has run for some time: finding them takes up to 10 s.
    """
    lines = [
        template("sentinel.conf").format(
            host=node.host, port=node.port, folder=lab.paths.node(node.name), myid=_run_id(lab, node.name)
        ),
        *_users(lab, "sentinel", _SENTINEL_RULES),
        "sentinel sentinel-user peer",
        f"sentinel sentinel-pass {lab.secret('sentinel-peer')}",
    ]
    if serves(lab, node):
        home = lab.node(CACHE_HOME)
        lines += [
            f"sentinel monitor {MONITORED} {home.host} {home.port} 2",
            f"sentinel auth-user {MONITORED} sentinel",
            f"sentinel auth-pass {MONITORED} {lab.secret('cache-sentinel')}",
            f"sentinel down-after-milliseconds {MONITORED} 5000",
            f"sentinel failover-timeout {MONITORED} 10000",
            f"sentinel parallel-syncs {MONITORED} 1",
        ]
        followers = [each for each in lab.of_kind("redis") if each.upstream == CACHE_HOME]
        lines += [f"sentinel known-replica {MONITORED} {each.host} {each.port}" for each in followers]
        others = [each for each in lab.of_kind("sentinel") if serves(lab, each) and each.name != node.name]
        lines += [
            f"sentinel known-sentinel {MONITORED} {each.host} {each.port} {_run_id(lab, each.name)}" for each in others
        ]
    return "\n".join(lines) + "\n"


def _run_id(lab: Lab, name: str) -> str:
    """By which Sentinels know each other: 40 hexadecimal digits, the same at each reset of a lab."""
    return hashlib.sha1(f"{lab.folder}/{name}".encode(), usedforsecurity=False).hexdigest()


def restore_server(lab: Lab, node: Node) -> None:
    """The server without any data, as at the beginning. It must be stopped."""
    data = lab.paths.data(node.name)
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    give(data)
    write_private(lab.paths.node(node.name) / "redis.conf", redis_conf(lab, node), server=True)


def restore_sentinel(lab: Lab, node: Node) -> None:
    """What the Sentinel knows, as at the beginning. It must be stopped."""
    write_private(lab.paths.node(node.name) / "sentinel.conf", sentinel_conf(lab, node), server=True)


async def session(lab: Lab, node: Node, *, limit: float = ASK_S) -> resp.Session | None:
    """The lab's own session on a server or Sentinel; None when it takes none within `limit` seconds."""
    user, secret = ("lifeboat", "sentinel-lifeboat") if node.kind == "sentinel" else ("referee", "cache-referee")
    try:
        return await resp.Session.open(node.host, node.port, user, lab.secret(secret), limit=limit)
    except NotConnected:
        return None


async def ask(lab: Lab, name: str, *words: str, limit: float = ASK_S) -> resp.Reply:
    """One command's answer, as the lab's own user; LabError when the node gives none, or an error."""
    node = lab.node(name)
    found = await session(lab, node, limit=limit)
    if found is None:
        raise LabError(f"{name} takes no session")
    try:
        (reply,) = await found.ask(words, limit=limit)
    except Lost as error:
        raise LabError(f"{name}: {error}") from error
    finally:
        found.close()
    if isinstance(reply, resp.Failure):
        raise LabError(f"{name}: {reply.text}")
    return reply


async def replicated(lab: Lab) -> bool:
    """Whether every server is in its first role, linked to whom it follows, and the master takes writes."""

    async def one(node: Node) -> bool:
        try:
            told = resp.info(await ask(lab, node.name, "INFO", "replication"))
        except LabError:
            return False
        if node.upstream is None:
            wanted = sum(each.upstream == node.name for each in lab.of_kind("redis"))
            # Counted once a replica has acknowledged: before that the master refuses each write.
            return told.get("connected_slaves") == str(wanted) and int(told.get("min_slaves_good_slaves", "0")) > 0
        leader = lab.node(node.upstream)
        following = (told.get("master_host"), told.get("master_port")) == (leader.host, str(leader.port))
        return following and told.get("master_link_status") == "up"

    return all(await asyncio.gather(*(one(node) for node in lab.of_kind("redis"))))


async def watched(lab: Lab) -> bool:
    """Whether every Sentinel of the home region would find its quorum."""

    async def one(node: Node) -> bool:
        try:
            told = await ask(lab, node.name, "SENTINEL", "CKQUORUM", MONITORED)
        except LabError:
            return False
        return isinstance(told, str) and told.startswith(f"OK {len(serving)} usable")

    serving = [node for node in lab.of_kind("sentinel") if serves(lab, node)]
    return all(await asyncio.gather(*(one(node) for node in serving)))


async def until_replicated(lab: Lab) -> None:
    await until(f"every replica of {CACHE_HOME} follows", lambda: replicated(lab), _FOLLOWED_S, every=0.05)


async def until_watched(lab: Lab) -> None:
    await until("the Sentinels have their quorum", lambda: watched(lab), _FOLLOWED_S, every=0.05)
