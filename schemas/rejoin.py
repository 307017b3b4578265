"""What a rejoin finds on a node, and what is done about it. LSNs are bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.base import Fact
from schemas.facts import Branch, MemberFacts
from schemas.orders import NodeOrder
from schemas.receipts import TableLoss


class FolderFacts(Fact):
    """A data folder as the node's own programs tell it. "" and 0 where it doesn't tell."""

    member: str
    running: bool
    major: int = 0
    programs: int = 0
    """Major version of the programs that are to work on it."""
    state: str = ""
    """Cluster state of pg_controldata: `shut down`, `in production` (it crashed, unless it runs) …"""
    system: str = ""
    checkpoint: int = 0
    recovered_to: int = 0
    timeline: int = 0
    """That of its newest WAL."""
    segment_bytes: int = 0
    hints: bool = False
    """wal_log_hints or checksums: without either, pg_rewind can't tell which pages differ."""
    standby: bool = False
    stamp: int = 0
    """The epoch that was last stamped on it, 0 for none."""
    begun: str = ""
    """`rewind`, `rebuild` or `restore`, when one has begun on it and not ended."""
    held: str = ""
    """Why nothing of it may be changed but by a person's word: it has what is nowhere else."""
    room_bytes: int = 0
    ancestors: list[Branch] = []
    """The history of its timeline, oldest first, by its own file."""

    def text(self) -> str:
        """How it stands, for a person."""
        if not self.major:
            return "an empty folder"
        if not self.state:
            return "a folder whose pg_control can't be read" if self.programs else "a folder, and no program to read it"
        # What pg_controldata calls a server that runs, or one that was not shut down.
        return "not shut down" if self.state == "in production" and not self.running else self.state

    @property
    def position(self) -> int:
        """How far its WAL goes at least."""
        return max(self.checkpoint, self.recovered_to)


class Examination(Fact):
    """A folder beside the leader: its branches, its timeline and its system identifier."""

    folder: FolderFacts
    leader: str
    leader_timeline: int
    leader_system: str
    leader_major: int
    branches: list[Branch]

    @property
    def fork(self) -> int | None:
        """Where the leader's history left the folder's timeline; None when it did not, or never was on it."""
        return next((each.switch for each in self.branches if each.timeline == self.folder.timeline), None)

    @property
    def left_last(self) -> bool:
        """Whether the leader's newest promotion is where it left the folder's timeline."""
        return bool(self.branches) and self.branches[-1].timeline == self.folder.timeline

    @property
    def parted(self) -> int | None:
        """From where on the folder's WAL is its own: the fork or, where it went off on a timeline that the leader never
        was on, where that left one they share; None where nothing is its own, or nobody knows.
        """
        if self.fork is not None or self.folder.timeline == self.leader_timeline:
            return self.fork
        left = {each.timeline: each.switch for each in self.branches}
        shared = [each for each in self.folder.ancestors if each.timeline in (*left, self.leader_timeline)]
        return min(shared[-1].switch, left.get(shared[-1].timeline, shared[-1].switch)) if shared else None


class Room(Fact):
    """What a copy of the leader takes (None: that takes too long to tell), what is free, and what is erased for it."""

    bytes: int | None
    free: int
    used: int


class Divergence(Fact):
    """What was counted past the fork. `missing`: the WAL file that isn't there any more."""

    records: int = 0
    end: int | None = None
    missing: str = ""
    kept: str = ""
    commits: int = 0
    own_commits: int = 0
    catalog_commits: int = 0
    first_commit: datetime | None = None
    last_commit: datetime | None = None
    last_commit_at: int | None = None
    """Where the record of the last commit begins that was not Lifeboat's own."""
    tables: list[TableLoss] = []


class Return(Fact):
    """How a member comes back. `refuse`: a person must look."""

    method: Literal["follow", "rewind", "rebuild", "refuse"]
    reason: str


class ShutOrder(NodeOrder):
    """Shut the member down, and look what the candidate has of it."""

    candidate: str


class Shut(Fact):
    """The folder of a primary that was shut down, and the candidate as it was seen after that."""

    folder: FolderFacts
    candidate: MemberFacts


class FolderOrder(NodeOrder):
    """Work on a member's data folder, for a `leader`. Refused once the epoch's record is another run's."""

    leader: str


class DivergenceOrder(FolderOrder):
    """Keep and count the WAL of `timeline` past `fork`, in the folder whose newest checkpoint is `checkpoint`."""

    timeline: int
    fork: int
    segment_bytes: int
    checkpoint: int


class ReturnOrder(FolderOrder):
    """`released`: why a folder that is held may be erased after all, in a person's words, and in nobody else's."""

    method: Literal["follow", "rewind", "rebuild"]
    released: str = ""


class HoldOrder(NodeOrder):
    """Hold the folder for this reason: nothing changes it until a person says so; "": let it go."""

    why: str


class FolderResult(Fact):
    """What came of it, and in how many seconds; `bytes` copied where that is known."""

    evidence: str
    seconds: float = 0.0
    bytes: int | None = None
