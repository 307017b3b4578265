"""Warming: a cache that lost its keys is filled again, beside everything else and never before clients are served."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import cache_warming
    from schemas.cache_facts import CacheFacts
    from schemas.cache_orders import WarmOrder
    from workflows.cache import CacheRunbook

WARMING_S = 6 * 3600.0


class Warming(CacheRunbook):
    """What a runbook says of warming, and how it is done."""

    last: CacheFacts | None

    def would_warm(self) -> str:
        warming = self.estate.service.warming
        if warming is None:
            return "no warming is declared"
        by = f"by {' '.join(warming.command)}" if warming.command else "from the old keys"
        by = f"by the keys of {warming.access_list}" if warming.access_list else by
        return f"{by}, {warming.keys_per_s:g} keys a second, until {warming.hit_ratio:.0%} are there"

    async def warm(self) -> str:
        """Fill the leader from whoever has more keys than it and does not follow it, as far as there is anybody."""
        if self.estate.service.warming is None:
            return "no warming is declared"
        assert self.elected is not None
        leader = self.elected.member
        seen = await self.look()
        more = [
            each
            for each in seen.members
            if each.reachable and each.role == "master" and each.member != leader and each.keys > seen.of(leader).keys
        ]
        source = max(more, key=lambda each: each.keys).member if more else None
        order = WarmOrder.model_validate(
            {
                **self.within_epoch(),
                "leader": leader,
                "source": source,
                "expected": self.last.keys if self.last is not None else 0,
            }
        )
        found = await self.do(
            cache_warming.warm_cache, order, limit=WARMING_S, total=WARMING_S, attempts=5, heartbeat=10.0
        )
        if not found.looked:
            return found.why
        ratio = f"{found.ratio:.0%}" if found.ratio is not None else "an unknown part"
        return f"{found.filled} keys filled of {found.looked} looked for, {ratio} there at the end: {found.why}"
