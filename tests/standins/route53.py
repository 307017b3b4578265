"""Route 53, by moto, with the rule of the API reference that moto has not, and with bad luck to order.

ChangeResourceRecordSets: "To delete a resource record set, you must specify all the same values"; "CREATE: creates a
resource record set"; the batch takes effect whole or not at all, else InvalidChangeBatch. moto lets a DELETE pass that
names any earlier value, and applies a batch change by change.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import dns.query
import dns.rcode
from moto.core.exceptions import ServiceException
from moto.core.responses import BaseResponse
from moto.route53.models import FakeZone, Route53Backend
from moto.server import ThreadedMotoServer

from activities.rfc2136 import new_update
from schemas.zones import Rfc2136Zone

ACCOUNT = {"aws_access_key_id": "lab", "aws_secret_access_key": "lab", "region_name": "us-east-1"}
Rule = Callable[[Route53Backend, str, list[dict[str, Any]]], None]


class Refused(ServiceException):
    code = "InvalidChangeBatch"


class Throttled(ServiceException):
    code = "Throttling"


class Route53:
    """`throttles` is how many calls are still to be throttled; `changes` what took effect, batch by batch."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client = boto3.client("route53", endpoint_url=endpoint, **ACCOUNT)
        self.throttles = 0
        self.changes: list[list[dict[str, Any]]] = []
        self.on_change: Callable[[list[dict[str, Any]]], None] = lambda _: None
        self._lock = threading.Lock()

    def zone(self, name: str) -> str:
        """A new hosted zone; its id."""
        made = self.client.create_hosted_zone(Name=name, CallerReference=f"{name}-{len(self.changes)}-{id(self)}")
        return str(made["HostedZone"]["Id"]).rpartition("/")[2]

    def throttle(self) -> None:
        with self._lock:
            if self.throttles > 0:
                self.throttles -= 1
                raise Throttled("Rate exceeded")

    def change(self, apply: Rule, backend: Route53Backend, zone: str, changes: list[dict[str, Any]]) -> None:
        with self._lock:
            found = backend.get_hosted_zone(zone)
            wanted = copy.deepcopy(changes)
            _check(found, wanted)
            before = list(found.rrsets)
            try:
                for each in wanted:
                    _apply(found, each)
            except Exception:
                found.rrsets = before
                raise
            self.changes.append(changes)
        self.on_change(changes)


def propagate_to(zone: Rfc2136Zone) -> Callable[[list[dict[str, Any]]], None]:
    """What takes Route 53's changes to its authoritative servers, here a zone of the same names."""

    def on_change(changes: list[dict[str, Any]]) -> None:
        update = new_update(zone)
        for change in changes:
            record = change["ResourceRecordSet"]
            if change["Action"] != "DELETE":
                update.replace(record["Name"], int(record["TTL"]), record["Type"], _values(record)[0])
        host, _, port = zone.servers[0].rpartition(":")
        assert dns.query.tcp(update, host, port=int(port), timeout=5).rcode() == dns.rcode.NOERROR

    return on_change


def _values(record: dict[str, Any]) -> list[str]:
    return [each["Value"] for each in record.get("ResourceRecords", [])]


def _standing(zone: FakeZone, record: dict[str, Any]) -> Any:
    name = record["Name"].rstrip(".") + "."
    return next((each for each in zone.rrsets if each.name == name and each.type == record["Type"]), None)


def _check(zone: FakeZone, changes: list[dict[str, Any]]) -> None:
    gone: set[tuple[str, str]] = set()
    for change in changes:
        record = change["ResourceRecordSet"]
        place = (record["Name"].rstrip("."), record["Type"])
        standing = _standing(zone, record)
        if change["Action"] == "DELETE":
            same = (
                standing is not None
                and list(standing.records) == _values(record)
                and int(standing.ttl or 0) == int(record["TTL"])
            )
            if not same:
                raise Refused(f"Tried to delete resource record set {place} but the values provided do not match")
            gone.add(place)
        if change["Action"] == "CREATE" and standing is not None and place not in gone:
            raise Refused(f"Tried to create resource record set {place} but it already exists")


def _apply(zone: FakeZone, change: dict[str, Any]) -> None:
    record = change["ResourceRecordSet"]
    record["Name"] = record["Name"].rstrip(".") + "."
    if change["Action"] == "DELETE":
        zone.delete_rrset(record)
        return
    record["ResourceRecords"] = _values(record)
    zone.upsert_rrset(record)


@contextmanager
def route53() -> Iterator[Route53]:
    """A server on a free loopback port, which real boto3 clients call."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    standin = Route53(f"http://{host}:{port}")
    apply, dispatch = Route53Backend.change_resource_record_sets, BaseResponse._dispatch

    def change(backend: Route53Backend, zoneid: str, change_list: list[dict[str, Any]]) -> None:
        standin.change(apply, backend, zoneid, change_list)

    def call(response: BaseResponse, request: Any, full_url: str, headers: Any) -> Any:
        standin.throttle()
        return dispatch(response, request, full_url, headers)

    Route53Backend.change_resource_record_sets = change
    BaseResponse._dispatch = call
    try:
        yield standin
    finally:
        Route53Backend.change_resource_record_sets = apply
        BaseResponse._dispatch = dispatch
        server.stop()
