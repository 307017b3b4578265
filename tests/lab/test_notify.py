"""Notices, delivered to real servers on this machine: HTTP, SMTP, and a stand-in of Slack's Web API."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from temporalio.testing import ActivityEnvironment

from activities import notify
from activities.posting import signature
from schemas.failures import NoticeUndelivered
from schemas.orders import Notice, NoticeOrder
from schemas.targets import LogTarget, SlackTarget, SmtpTarget, WebhookTarget

NOTICE = Notice(
    key="run-1/r/1",
    event="decision needed",
    procedure="DatabaseFailover",
    service="counting-db",
    run="run-1",
    at=datetime(2026, 11, 25, 12, 0, tzinfo=UTC),
    text="Fail over counting-db from pg-east-1 to pg-east-2?",
    more={"decide by": "12:04:55 UTC", "digest": "0123456789ab"},
)
SECRET = "s3cr3t-value"


class Received:
    """What an HTTP server was sent, and what it answers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.status, self.answer = 200, b'{"ok": true}'


@pytest.fixture
def http() -> Iterator[tuple[str, Received]]:
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(received.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(received.answer)))
            self.end_headers()
            self.wfile.write(received.answer)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()
    thread.join(5)


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[Envelope] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.mails.append(envelope)
        return "250 taken"


@pytest.fixture
def smtp() -> Iterator[tuple[int, Mailbox]]:
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield controller.port, box
    controller.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text(SECRET, encoding="utf-8")
    return f"file:{path}"


async def deliver(target: Any) -> str:
    return await ActivityEnvironment().run(notify.deliver, NoticeOrder(notice=NOTICE, target=target))


async def test_a_webhook_is_signed_and_a_repetition_can_be_told(http: tuple[str, Received], secret: str) -> None:
    url, received = http
    target = WebhookTarget(name="hook", url=f"{url}/in", secret=secret)
    for _ in range(2):
        assert await deliver(target) == "hook"
    (path, headers, body), (_, again, _) = received.requests
    assert path == "/in"
    assert Notice.model_validate_json(body) == NOTICE
    assert headers["x-lifeboat-signature"] == signature(SECRET, headers["x-lifeboat-timestamp"], body)
    assert headers["x-lifeboat-signature"] != signature("another", headers["x-lifeboat-timestamp"], body)
    assert headers["idempotency-key"] == again["idempotency-key"] == NOTICE.key
    assert SECRET not in json.dumps([headers, body.decode()])


async def test_a_proxy_of_the_environment_is_not_used(
    http: tuple[str, Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, received = http
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    await deliver(WebhookTarget(name="hook", url=url))
    assert len(received.requests) == 1


async def test_a_webhook_that_fails_is_named(http: tuple[str, Received]) -> None:
    url, received = http
    received.status = 503
    with pytest.raises(NoticeUndelivered, match=r"hook: .*503"):
        await deliver(WebhookTarget(name="hook", url=url))


async def test_a_mail_reaches_its_recipients(smtp: tuple[int, Mailbox]) -> None:
    port, box = smtp
    target = SmtpTarget(
        name="mail",
        host="127.0.0.1",
        port=port,
        tls="none",
        sender="lifeboat@x.test",
        recipients=["a@x.test", "b@x.test"],
    )
    assert await deliver(target) == "mail"
    [envelope] = box.mails
    assert envelope.rcpt_tos == target.recipients
    assert isinstance(envelope.content, bytes)
    mail = message_from_bytes(envelope.content)
    assert mail["Subject"] == "[lifeboat] counting-db: decision needed: DatabaseFailover"
    text = str(mail.get_payload())
    assert NOTICE.text in text
    assert "decide by: 12:04:55 UTC" in text


async def test_a_mail_server_that_refuses_is_named() -> None:
    target = SmtpTarget(
        name="mail", host="127.0.0.1", port=free_port(), tls="none", sender="l@x.test", recipients=["a@x.test"]
    )
    with pytest.raises(NoticeUndelivered, match="mail: ConnectionRefusedError"):
        await deliver(target)


async def test_a_mail_server_without_tls_is_not_trusted(smtp: tuple[int, Mailbox]) -> None:
    port, box = smtp
    target = SmtpTarget(name="mail", host="127.0.0.1", port=port, sender="l@x.test", recipients=["a@x.test"])
    with pytest.raises(NoticeUndelivered, match="STARTTLS"):
        await deliver(target)
    assert box.mails == []


async def test_a_slack_message_by_the_web_api(http: tuple[str, Received], secret: str) -> None:
    url, received = http
    await deliver(SlackTarget(name="chat", channel="#ops", token=secret, api=f"{url}/api/"))
    [(path, headers, body)] = received.requests
    assert path == "/api/chat.postMessage"
    assert headers["authorization"] == f"Bearer {SECRET}"
    sent = json.loads(body) if body.startswith(b"{") else {k: v[0] for k, v in parse_qs(body.decode()).items()}
    assert sent["channel"] == "#ops"
    assert NOTICE.text in sent["text"]


async def test_slack_that_refuses_is_named_without_its_token(http: tuple[str, Received], secret: str) -> None:
    url, received = http
    received.answer = b'{"ok": false, "error": "channel_not_found"}'
    with pytest.raises(NoticeUndelivered, match=r"chat: .*channel_not_found") as refused:
        await deliver(SlackTarget(name="chat", channel="#ops", token=secret, api=f"{url}/api/"))
    assert SECRET not in str(refused.value)


async def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert await deliver(LogTarget()) == "log"
    assert NOTICE.text in caplog.text
