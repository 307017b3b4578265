"""A hosted zone of Route 53: a batch of changes takes effect whole or not at all, which is the compare-and-set.

DELETE must name the record as it stands, TTL and value, and CREATE refuses a name that has one (API reference,
ChangeResourceRecordSets), so that a batch of DELETE old, CREATE new and UPSERT address is refused when another came
first. The control plane answers from us-east-1: it is lost with that region (docs/adopting.md, "Routes").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from activities.aws import FAILED, call, client, code_of
from activities.names import Record, RecordSet, absolute
from schemas.failures import RouteUnavailable
from schemas.zones import Route53Zone

_servers: dict[tuple[str, str | None], list[str]] = {}
"""Of each zone that was asked for: they don't change, and Route 53 answers five questions a second."""


class Route53Names:
    """See `activities.names.Names`."""

    def __init__(self, zone: Route53Zone) -> None:
        self.zone = zone

    async def _call(self, method: str, **given: Any) -> Any:
        try:
            return await call(client("route53", None, self.zone.endpoint), method, **given)
        except FAILED as error:
            if code_of(error) == "InvalidChangeBatch":
                raise
            raise RouteUnavailable(f"Route 53, zone {self.zone.hosted_zone_id}: {error}") from error

    async def servers(self) -> list[str]:
        if self.zone.servers:
            return self.zone.servers
        place = (self.zone.hosted_zone_id, self.zone.endpoint)
        if place not in _servers:
            found = await self._call("get_hosted_zone", Id=self.zone.hosted_zone_id)
            names = found.get("DelegationSet", {}).get("NameServers", [])
            if not names:
                raise RouteUnavailable(
                    f"Route 53, zone {self.zone.hosted_zone_id}: it has no name servers of its own (a private zone);"
                    " its owner must name `servers` in the topology"
                )
            _servers[place] = [f"{name}:53" for name in names]
        return _servers[place]

    async def read(self, name: str, kind: str) -> list[str]:
        """As the control plane has it, changes that are still on their way to the servers included."""
        found = await self._find(name, kind)
        return [value["Value"] for value in found.get("ResourceRecords", [])] if found is not None else []

    async def _find(self, name: str, kind: str) -> dict[str, Any] | None:
        found = await self._call(
            "list_resource_record_sets",
            HostedZoneId=self.zone.hosted_zone_id,
            StartRecordName=absolute(name),
            StartRecordType=kind,
            MaxItems="1",
        )
        for each in found["ResourceRecordSets"]:
            if absolute(each["Name"]).lower() == absolute(name).lower() and each["Type"] == kind:
                return dict(each)
        return None

    async def _removal(self, record: Record | RecordSet) -> list[dict[str, Any]]:
        """DELETE must name what stands there; nothing to do where nothing does."""
        found = await self._find(record.name, record.kind)
        if found is None:
            return []
        there = tuple(value["Value"] for value in found["ResourceRecords"])
        return [_change("DELETE", RecordSet(record.name, record.kind, found["TTL"], there))]

    async def apply(self, seen: Record | None, wanted: Record, more: Sequence[Record | RecordSet]) -> str | None:
        changes = [] if seen is None else [_change("DELETE", seen)]
        changes.append(_change("CREATE", wanted))
        for record in more:
            changes += [_change("UPSERT", record)] if record.texts else await self._removal(record)
        batch = {"Comment": "Lifeboat", "Changes": changes}
        try:
            await self._call("change_resource_record_sets", HostedZoneId=self.zone.hosted_zone_id, ChangeBatch=batch)
        except FAILED as error:
            return str(error)
        return None


def _change(action: str, record: Record | RecordSet) -> dict[str, Any]:
    return {
        "Action": action,
        "ResourceRecordSet": {
            "Name": absolute(record.name),
            "Type": record.kind,
            "TTL": record.ttl,
            "ResourceRecords": [{"Value": text} for text in record.texts],
        },
    }
