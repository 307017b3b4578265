"""Every client of Temporal is made here: the stock CLI's profile and variables, pydantic payloads, short failures."""

from __future__ import annotations

import dataclasses

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime

from schemas.failures import LifeboatError
from workers.short_failures import ShortFailures

CONVERTER = dataclasses.replace(pydantic_data_converter, failure_converter_class=ShortFailures)


class ServerUnknown(LifeboatError):
    """No Temporal server is named; give --address, or a profile or TEMPORAL_ADDRESS as for the stock command line."""


async def connect(address: str | None = None, namespace: str | None = None, runtime: Runtime | None = None) -> Client:
    """A client at `address` (host:port), or where TEMPORAL_* and the profile of temporal.toml point without one.

    An explicit address means just that server: no profile, and no credentials of one, is read then.
    `runtime`: the SDK's, where it is not the default one.
    """
    if address is not None:
        return await Client.connect(
            address, namespace=namespace or "default", data_converter=CONVERTER, runtime=runtime
        )
    options = ClientConfig.load_client_connect_config()
    if not options.get("target_host"):
        raise ServerUnknown()
    if namespace is not None:
        options["namespace"] = namespace
    return await Client.connect(**options, data_converter=CONVERTER, runtime=runtime)
