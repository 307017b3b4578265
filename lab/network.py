"""`--netns`: a network namespace for each node, so that any two can be cut off from each other, one way too.

All hang on a bridge in a namespace of its own, where no firewall of the host applies; the host holds one more end.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable

from lab.binaries import find_program
from lab.errors import LabError
from lab.model import Lab, Node

_CHAIN = "LIFEBOAT"


class NoNamespaces(LabError):
    """Partitions need network namespaces; start the lab as root with `lifeboat lab up --netns`."""


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _ip(*argv: str) -> str:
    return _run(str(find_program("ip")), *argv)


def _id(lab: Lab) -> str:
    """The lab's part of every name: interfaces have at most 15 characters."""
    return "lb" + lab.network.partition(".")[2]


def namespace(lab: Lab, name: str) -> str:
    return f"{_id(lab)}-{name}"


def choose_network() -> str:
    """10.x with an x that no address or route of this host uses."""
    taken = _ip("-4", "-o", "addr") + _ip("-4", "route", "show", "table", "all")
    for second in range(200, 250):
        if f"10.{second}." not in taken:
            return f"10.{second}"
    raise LabError("no network 10.200 to 10.249 is free; end a lab that is no longer needed")


def require_root() -> None:
    """NoNamespaces for an ordinary user."""
    if os.geteuid() != 0:
        raise NoNamespaces("this is not root")


def make(lab: Lab) -> None:
    """Namespaces, bridge and addresses of every node of the lab."""
    mark, hub = _id(lab), namespace(lab, "hub")
    _ip("netns", "add", hub)
    _ip("-n", hub, "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
    _ip("-n", hub, "link", "set", "bridge", "up")
    _ip("link", "add", f"{mark}host", "type", "veth", "peer", "name", "host", "netns", hub)
    _ip("-n", hub, "link", "set", "host", "master", "bridge", "up")
    _ip("addr", "add", f"{lab.network}.0.1/16", "dev", f"{mark}host")
    _ip("link", "set", f"{mark}host", "up")
    for index, node in enumerate(lab.nodes):
        inside = namespace(lab, node.name)
        _ip("netns", "add", inside)
        _ip("-n", hub, "link", "add", f"n{index}", "type", "veth", "peer", "name", "eth0", "netns", inside)
        _ip("-n", hub, "link", "set", f"n{index}", "master", "bridge", "up")
        _ip("-n", inside, "addr", "add", f"{node.host}/16", "dev", "eth0")
        _ip("-n", inside, "link", "set", "eth0", "up")
        _ip("-n", inside, "link", "set", "lo", "up")
        _iptables(lab, node.name, "-N", _CHAIN)
        _iptables(lab, node.name, "-I", "INPUT", "-j", _CHAIN)


def _iptables(lab: Lab, name: str, *argv: str) -> None:
    inside = namespace(lab, name)
    _ip("netns", "exec", inside, str(find_program("iptables")), "-w", "5", *argv)


def remove(lab: Lab) -> None:
    """Remove whatever of the lab's network is there; its processes must have ended."""
    if not lab.netns:
        return
    # First, and with it its other end in the hub: a namespace takes its ends along some time after it is deleted.
    if f"{_id(lab)}host" in _ip("-o", "link"):
        _ip("link", "delete", f"{_id(lab)}host")
    present = {line.split()[0] for line in _ip("netns", "list").splitlines() if line}
    for name in ("hub", *(node.name for node in lab.nodes)):
        if namespace(lab, name) in present:
            _ip("netns", "delete", namespace(lab, name))


def enter(lab: Lab, node: Node, ids: tuple[int, int] | None) -> list[str]:
    """What comes before a node's command: into its namespace, then down to the servers' user."""
    if not lab.netns:
        return []
    user = [] if ids is None else ["--setuid", str(ids[0]), "--setgid", str(ids[1])]
    return [str(find_program("nsenter")), f"--net=/run/netns/{namespace(lab, node.name)}", *user, "--"]


def enter_by_name(lab: Lab, name: str, ids: tuple[int, int] | None) -> str:
    """The same in a shell, where `name` is a word of it: into the node's namespace, down to the servers' user."""
    if lab.netns:
        user = "" if ids is None else f"--setuid {ids[0]} --setgid {ids[1]} "
        return f"{find_program('nsenter')} --net=/run/netns/{_id(lab)}-{name} {user}--"
    if ids is None:
        return ""
    return f"{find_program('setpriv')} --reuid {ids[0]} --regid {ids[1]} --clear-groups --"


def expand(lab: Lab, name: str) -> list[Node]:
    """One node, or all nodes of a region."""
    found = [node for node in lab.nodes if node.region == name]
    return found or [lab.node(name)]


def _cut(lab: Lab, sources: Iterable[Node], targets: Iterable[Node]) -> None:
    sources = list(sources)
    for target in targets:
        for source in sources:
            if source.name != target.name:
                _iptables(lab, target.name, "-A", _CHAIN, "-s", source.host, "-j", "DROP")


def partition(lab: Lab, a: str, b: str, *, one_way: bool = False) -> None:
    """Nothing that `a` sends reaches `b`, and unless `one_way` the other way round. Each is a node or a region."""
    if not lab.netns:
        raise NoNamespaces("this lab runs on loopback addresses")
    first, second = expand(lab, a), expand(lab, b)
    _cut(lab, first, second)
    if not one_way:
        _cut(lab, second, first)


def heal(lab: Lab) -> None:
    """End every partition."""
    if lab.netns:
        for node in lab.nodes:
            _iptables(lab, node.name, "-F", _CHAIN)
