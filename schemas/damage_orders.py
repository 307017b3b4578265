"""What is ordered where a database's data is damaged."""

from __future__ import annotations

from schemas.base import Fact
from schemas.damage import Damaged
from schemas.orders import NodeOrder
from schemas.routes import PgBouncerRoute
from schemas.topology import DatabaseService


class CheckOrder(NodeOrder):
    """Look at every heap and B-tree of the member, or ask it the owner's queries, and after these `relations`."""

    relations: list[Damaged] = []


class ReadOnlyOrder(Fact):
    """Transactions of the leader are read-only by default, or not any more; sessions of before are ended (`cut`)."""

    service: DatabaseService
    leader: str
    on: bool
    cut: bool = True


class ShareOrder(Fact):
    """Of the sessions that a pooler opens on the leader from now on, this share may write; 0: none does by itself."""

    service: DatabaseService
    route: PgBouncerRoute
    share: float


class PulseOrder(Fact):
    """Watch how the leader fares for so many seconds."""

    service: DatabaseService
    leader: str
    hold_s: float
