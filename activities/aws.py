"""Clients of AWS: boto3's own, with limits, where the topology says; credentials by AWS's usual chain.

boto3 blocks, so that every call runs in a thread (`call`). Its own retries are off: an activity that failed is tried
again by the engine, which shows it, and an answer that was lost is looked for before anything is repeated.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

FAILED = (BotoCoreError, ClientError, ValueError)
"""What a call may raise: no answer, an answer that refuses, or an address that can be none."""

THROTTLED = {"Throttling", "ThrottlingException", "TooManyRequestsException", "PriorRequestNotComplete", "SlowDown"}
"""Codes that say: later. The engine's retries are later."""

_THREADS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="aws")
"""Of their own: where AWS hangs, each call keeps its thread to its limit, and names are resolved in asyncio's."""


@functools.lru_cache(maxsize=32)
def client(service: str, region: str | None, endpoint: str | None, limit: float = 3.0) -> Any:
    """A client, kept: its first making costs 0.1 s. `endpoint`: a URL, for what is not at AWS's own address."""
    return boto3.session.Session().client(  # type: ignore[no-untyped-call, unused-ignore]
        service,
        region_name=region or "us-east-1",
        endpoint_url=endpoint,  # None: AWS's own, or what AWS_ENDPOINT_URL says
        config=Config(connect_timeout=limit, read_timeout=limit, retries={"total_max_attempts": 1}),
    )


async def call(aws: Any, method: str, **given: Any) -> Any:
    """One call in a thread. It can't be cancelled, but it ends within the client's own limits."""
    asked = functools.partial(contextvars.copy_context().run, getattr(aws, method), **given)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, asked)


def code_of(error: BaseException) -> str:
    """AWS's code of a refusal, `ConditionalRequestConflict` for instance; "" for anything else."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
