"""Property tests search by number of examples, never by time: the machine may be shared."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("lifeboat", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("lifeboat")
