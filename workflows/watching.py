"""How long a watch's activities may take, and how they are tried again: the same for every kind of service."""

from __future__ import annotations

from datetime import timedelta

from temporalio.common import RetryPolicy

FOR_EVER = timedelta(days=3650)
HEARTBEAT = timedelta(seconds=3)
AGAIN = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=5))
