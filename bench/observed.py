"""What traces, metrics and notification cost a failover: the same one with and without them, by turns.

Two labs, of which one rests while the other is measured; which of them is first changes from run to run.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable

from bench.common import Result, Value, environment, figure, progress, slowest
from bench.stand import Stand, own_lab

LIMIT = 1.05
"""A median with all of it over the median without [issue 4]."""

OBSERVED = {
    "extras": ["jaeger"],
    "metrics": True,
    "overrides": {"notify": [{"kind": "log", "name": "log"}]},
}
PLAIN = {"metrics": False, "overrides": {"notify": []}}


def ratio(observed: list[Value], plain: list[Value]) -> Value:
    """Median over median; None where a run has no value, which could be anything."""
    if None in observed or None in plain or not observed:
        return None
    return statistics.median(filter(None, observed)) / statistics.median(filter(None, plain))


async def compare(runs: int, failover: Callable[[Stand], Awaitable[tuple[dict[str, Value], list[str]]]]) -> Result:
    """`failover` gives the seconds from kill to write by route, and what went wrong."""
    values: dict[str, list[Value]] = {"plain": [], "observed": []}
    problems: list[str] = []
    async with own_lab(**PLAIN) as plain, own_lab(**OBSERVED) as observed:
        stands = {"plain": plain, "observed": observed}
        about = environment(observed.lab, options={"plain": PLAIN, "observed": OBSERVED})
        for stand in stands.values():
            await stand.rest()
        for number in range(1, runs + 1):
            for name in sorted(stands, reverse=bool(number % 2)):
                waited, wrong = await failover(stands[name])
                await stands[name].rest()
                values[name].append(slowest(waited))
                problems += [f"run {number}, {name}: {problem}" for problem in wrong]
                progress(f"run {number} of {runs}, {name}: kill to write {values[name][-1] or 0:.3f} s")
    figures = [
        figure("kill_to_write_plain", "s", values["plain"]),
        figure("kill_to_write_observed", "s", values["observed"]),
        figure("observed_over_plain", "ratio", [ratio(values["observed"], values["plain"])], target=LIMIT),
    ]
    return Result(bench="failover with observability", environment=about, figures=figures, problems=problems)
