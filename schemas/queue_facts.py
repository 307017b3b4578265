"""What is seen of RabbitMQ clusters, and what a workflow orders to be done with them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.base import Fact
from schemas.facts import EpochRecord, RouteWrite
from schemas.orders import AnyEstate, AnyNodeOrder
from schemas.queue import QueueService
from schemas.zones import Zone

PROBE_QUEUE = "lifeboat.probe"
"""Lifeboat's own queue, in each virtual host: written and read to verify a route, and part of no move."""

SERVER_NAMED = "amq."
"""How names begin that a broker gives, and takes from nobody."""


class QueueEstate(AnyEstate):
    service: QueueService


class BrokerFacts(Fact):
    """One node as its own management API tells. `answers` False: only `error` and `listens` mean anything.

    One that listens and does not answer is not lost: its API, or Lifeboat's password there, is.
    """

    member: str
    at: datetime
    answers: bool
    listens: bool = False
    """Whether it speaks AMQP."""
    error: str = ""
    running: list[str] = []
    """Erlang names of the nodes that it sees running, itself included."""
    alarms: list[str] = []
    """`memory` or `disk` of a node of its cluster: publishers there are held."""
    partitions: list[str] = []
    without_shovels: list[str] = []
    """Running nodes of its cluster that do not have the shovel plugin."""
    epoch: int = 0
    """The newest epoch that a run has left on its cluster."""


class QueueFacts(Fact):
    """One queue. `ready` and `consumers` are live (a passive declaration); None: nobody could say.

    Of a quorum queue `members` and `online` are Erlang names; of a mirrored one, master and mirrors, and those that
    hold everything.
    """

    vhost: str
    name: str
    kind: str
    durable: bool
    leader: str = ""
    members: list[str] = []
    online: list[str] = []
    ready: int | None = None
    consumers: int | None = None
    auto_delete: bool = False
    expires: bool = False
    """Whether it ends by itself when nobody uses it (x-expires)."""
    mirrored_everywhere: bool = True
    """Whether a mirrored queue is on every node (`ha-mode: all`), and not on some (`exactly`, `nodes`)."""
    delivery_limit: int | None = None
    """How often a message may come back before a quorum queue drops it."""
    dead_letters: bool = False
    """Whether what it drops goes to a dead-letter exchange."""
    size: int | None = None
    """How many members a quorum queue was declared with; None: RabbitMQ's default."""

    @property
    def place(self) -> str:
        return f"{self.vhost}/{self.name}"

    def lacks(self, declared: set[str]) -> int:
        """How many members fewer a quorum queue has than it had: three where nobody said otherwise, as far as there
        are nodes. A replaced node leaves it with fewer, and RabbitMQ adds none by itself."""
        if self.kind != "quorum":
            return 0
        wanted = max(len(self.members), self.size or 3)
        return max(min(len(declared), wanted) - len(declared & set(self.members)), 0)

    def absent(self, declared: set[str]) -> list[str]:
        """Declared nodes that should hold it, and do not now."""
        if self.kind == "mirrored":
            wanted = declared if self.mirrored_everywhere else set(self.members)
            return sorted(wanted - set(self.online))
        if self.kind != "quorum":
            return []
        more = sorted(declared - set(self.members)) if self.lacks(declared) else []
        return sorted([*(declared & set(self.members) - set(self.online)), *more])


class ClusterFacts(Fact):
    """One region's cluster, from the first of its nodes that answers."""

    region: str
    at: datetime
    brokers: list[BrokerFacts]
    read: bool = False
    """Whether what follows could be read; if not, it is unknown, and not nothing."""
    queues: list[QueueFacts] = []
    clients_let_in: bool = False
    """Whether a client user has permissions on one of the virtual hosts."""
    digest: str = ""
    """Of what is defined there; "" where it could not be read."""
    strangers: list[str] = []
    """Users who may use the service's virtual hosts, and are no clients in the topology."""
    differ: list[str] = []
    """What of that which a standby was last told is not there any more, or otherwise; the first few."""
    known: int | None = None
    """Messages ready in all queues whose count was read; None where none was."""
    shovels: list[str] = []
    """Shovels of ours that are defined there."""
    foreign: list[str] = []
    """Shovels and federation upstreams of others in the service's virtual hosts, who publish or take beside clients."""
    transient: dict[str, int] = {}
    """Classic queue → messages in it that are not persistent, and end with the node."""
    dropped: int = 0
    """Messages that were published without `mandatory`, and had nowhere to go, since the nodes started."""

    @property
    def answering(self) -> list[BrokerFacts]:
        return [each for each in self.brokers if each.answers]

    @property
    def reached(self) -> bool:
        return bool(self.answering)

    def running(self) -> list[str]:
        """Erlang names that some node sees running."""
        return sorted({name for each in self.answering for name in each.running})


class Mirror(Fact):
    """What a standby cluster was last told of the one that serves: it outlives that one."""

    region: str
    at: datetime
    digest: str
    counts: dict[str, int]
    """Queue → messages ready by then."""


class QueueObservation(Fact):
    """The epoch's record (None: there is none, or `epoch_error` says why it can't be read), and every cluster."""

    record: EpochRecord | None
    epoch_error: str = ""
    clusters: list[ClusterFacts]
    mirrors: dict[str, Mirror] = {}
    """Standby's region → what it was last told."""

    def cluster(self, region: str) -> ClusterFacts:
        """That of the region; KeyError when there is none."""
        for each in self.clusters:
            if each.region == region:
                return each
        raise KeyError(region)


class QueueOrder(Fact):
    """Do it on the cluster of `region`, behind the epoch: that on the cluster, and with `zone` the record's as well."""

    service: QueueService
    region: str
    epoch: int
    zone: Zone | None = None
    run: str = ""
    """As the record names the run."""


class BrokerOrder(AnyNodeOrder):
    """Start or stop one node. `whatever`: also one without which its queues have no majority."""

    service: QueueService
    whatever: bool = False


class DoorOrder(QueueOrder):
    """Let clients in; without `write` they only consume."""

    write: bool = True


class MoveOrder(QueueOrder):
    """From the cluster of `region` to that of `target`; by `until` a drain has ended, and taken its shovels away."""

    target: str
    until: datetime | None = None


class Definitions(Fact):
    """What comparing two clusters' definitions found; `differ` says in words what one has and the other has not."""

    digest: str
    defined: int
    differ: list[str] = []


class Closed(Fact):
    """A cluster that no client gets into any more: `refused` says how each was."""

    region: str
    ended: int
    """Connections that were closed."""
    refused: list[str]


class Drained(Fact):
    """`moved`: queue → how many messages were in it when the drain began; `left` what is still there, {} when empty.

    `shovelled` False: nothing had to be moved.
    """

    moved: dict[str, int]
    left: dict[str, int] = {}
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.moved.values())


class Counted(Fact):
    """Messages ready in each queue of a cluster: exact where nobody publishes or consumes."""

    counts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class RouteCheck(Fact):
    """Publish with confirm and `mandatory`, and read back, through every name, from the region of the worker."""

    service: QueueService
    zone: Zone
    region: str
    expected: str


class Verified(Fact):
    writes: list[RouteWrite]


class Grown(Fact):
    """Quorum queues whose members were completed: queue → the nodes that were added."""

    added: dict[str, list[str]] = {}
    whole: bool
    missing: dict[str, list[str]] = {}
    """Queue → nodes that are declared and no online member of it."""
    waits: list[str] = []
    """Of these nodes those that run, and were waited for in vain."""


Loss = Literal["nothing", "node", "majority", "cluster", "partitioned", "unclear"]
"""`partitioned`: nodes that answer don't see each other. `unclear`: nodes speak AMQP, and can't be asked."""


class QueueState(Fact):
    """What is wrong with the cluster that should serve, in words."""

    loss: Loss
    reason: str
    down: list[str] = []
    """Members that don't serve."""
    led_to: str = ""
    """The member that clients are led to."""
