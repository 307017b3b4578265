"""The one inequality (safety.md): R + W > N, for every synchronous set that binds.

With W of N voters acknowledging each commit, any R voters with R + W > N hold among them every acknowledged commit;
and once they are disconnected, the old primary can gather only N - R < W acknowledgements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from schemas.facts import EpochRecord


@dataclass(frozen=True)
class SyncSet:
    """`w` of `voters` acknowledge each commit of `leader`. No voters: it acknowledges alone, and `w` is 0."""

    w: int
    voters: tuple[str, ...]
    leader: str = ""

    @classmethod
    def of(cls, w: int, voters: Iterable[str], leader: str = "") -> SyncSet:
        """`w` is cut to the voters there are: a commit that waits for more is never acknowledged."""
        names = tuple(dict.fromkeys(voters))
        w = min(max(w, 0), len(names))
        return cls(w, names if w else (), leader)

    def reached(self, names: Collection[str]) -> list[str]:
        return [name for name in self.voters if name in names]

    def holds(self, names: Collection[str]) -> bool:
        """R + W > N, where R are the voters among `names`. Never true without voters."""
        return len(self.reached(names)) + self.w > len(self.voters)

    def binds(self, other: SyncSet) -> bool:
        """Whether every group that satisfies this set's inequality satisfies `other`'s too.

        The worst such group holds all of our voters that aren't `other`'s, and leaves W - 1 of the common ones
        out; so W and the voters that only `other` has must together be no more than `other`'s W.
        """
        if not self.w:
            return True  # No group satisfies it.
        strangers = [name for name in other.voters if name not in self.voters]
        return self.w + len(strangers) <= other.w

    def union(self, other: SyncSet) -> SyncSet:
        """The set that binds both: all voters of either, under the smaller W."""
        return SyncSet.of(min(self.w, other.w), self.voters + other.voters, self.leader)

    def same(self, other: SyncSet) -> bool:
        return self.w == other.w and set(self.voters) == set(other.voters)


def binding_sets(record: EpochRecord) -> list[SyncSet]:
    """The leader's set and, from its choice until it is routed, the candidate's as well: it may lead already."""
    sets = [SyncSet.of(record.w, record.voters, record.leader)]
    if record.candidate is not None:
        sets.append(SyncSet.of(record.w, record.candidate_voters, record.candidate))
    return sets
