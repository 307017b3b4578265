"""Spans of DNS queries and updates: dnspython has no instrumentation of OpenTelemetry's own."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import dns.asyncquery
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
from opentelemetry import trace

_METHODS = ("tcp", "udp_with_fallback")
"""What the activities call. `udp` is called by the latter, and would be a span within a span."""
_MARK = "_lifeboat_span"


def instrument(provider: trace.TracerProvider) -> None:
    """Every exchange of `dns.asyncquery` is a span from now on; a second time changes nothing."""
    tracer = provider.get_tracer("lifeboat.dns")
    for name in _METHODS:
        inner = getattr(dns.asyncquery, name)
        if not hasattr(inner, _MARK):
            setattr(dns.asyncquery, name, _traced(inner, tracer, "udp" if name.startswith("udp") else "tcp"))


def uninstrument() -> None:
    for name in _METHODS:
        inner = getattr(dns.asyncquery, name)
        setattr(dns.asyncquery, name, getattr(inner, _MARK, inner))


def _traced(
    inner: Callable[..., Awaitable[Any]], tracer: trace.Tracer, transport: str
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(inner)
    async def exchange(message: dns.message.Message, where: str, *args: Any, **kwargs: Any) -> Any:
        verb, asked = dns.opcode.to_text(message.opcode()), _asked(message)
        told: dict[str, str | int] = {
            "dns.question.name": asked,
            "dns.opcode": verb,
            "network.transport": transport,
            "server.address": where,
            "server.port": int(kwargs.get("port") or 53),
        }
        with tracer.start_as_current_span(
            f"DNS {verb} {asked}", kind=trace.SpanKind.CLIENT, attributes=told, record_exception=False
        ) as span:
            found = await inner(message, where, *args, **kwargs)
            answer = found[0] if isinstance(found, tuple) else found
            code = answer.rcode()
            span.set_attribute("dns.rcode", dns.rcode.to_text(code))
            if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                span.set_status(trace.Status(trace.StatusCode.ERROR, f"the server answers {dns.rcode.to_text(code)}"))
            return found

    setattr(exchange, _MARK, inner)
    return exchange


def _asked(message: dns.message.Message) -> str:
    """Of an update its zone, which stands where a question does (RFC 2136 §2.3)."""
    if not message.question:
        return ""
    first = message.question[0]
    return f"{first.name} {dns.rdatatype.to_text(first.rdtype)}"
