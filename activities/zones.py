"""Which implementation serves a zone."""

from __future__ import annotations

from activities.names import Names
from activities.rfc2136 import Rfc2136Names
from activities.route53 import Route53Names
from schemas.zones import Route53Zone, Zone


def names_of(zone: Zone) -> Names:
    return Route53Names(zone) if isinstance(zone, Route53Zone) else Rfc2136Names(zone)
