"""What is ordered where a database's data is damaged."""

from __future__ import annotations

from schemas.base import Fact
from schemas.orders import NodeOrder
from schemas.topology import DatabaseService


class CheckOrder(NodeOrder):
    """Look at every heap and B-tree of the member, or ask it the owner's queries."""


class ReadOnlyOrder(Fact):
    """Transactions of the leader are read-only by default, or not any more; sessions of before are ended."""

    service: DatabaseService
    leader: str
    on: bool
