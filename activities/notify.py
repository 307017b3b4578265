"""Telling people: log, signed webhook, mail, Slack. Delivered at least once; `key` tells a repetition from news."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import smtplib
import ssl
from email.message import EmailMessage

import httpx
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from temporalio import activity

from activities.beating import beating
from activities.posting import headers, why
from activities.secrets import resolve
from schemas.failures import NoticeUndelivered
from schemas.orders import Notice, NoticeOrder
from schemas.targets import LogTarget, SlackTarget, SmtpTarget, WebhookTarget

LIMIT_S = 10.0
"""Of one delivery to a target that may be slow."""
MARKS = {"started": "▶", "decision needed": "❓", "escalation": "⏰", "parked": "⏸", "ended": "■"}
log = logging.getLogger("lifeboat.notice")


def subject(notice: Notice) -> str:
    return f"[lifeboat] {notice.service}: {notice.event}: {notice.procedure}"


def lines(notice: Notice) -> list[str]:
    """The notice as text, a fact a line."""
    return [notice.text, "", *(f"{name}: {value}" for name, value in notice.more.items()), f"run: {notice.run}"]


@activity.defn
async def deliver(order: NoticeOrder) -> str:
    """Deliver one notice to one target; NoticeUndelivered says why not, and it is tried again."""
    target = order.target
    async with beating(f"telling {target.name}"):
        match target:
            case LogTarget():
                log.warning("%s run=%s %s", order.notice.event, order.notice.run, order.notice.text)
            case WebhookTarget():
                await _post(target, order.notice)
            case SmtpTarget():
                await asyncio.to_thread(_mail, target, order.notice)
            case SlackTarget():
                await asyncio.to_thread(_slack, target, order.notice)
    return target.name


async def _post(target: WebhookTarget, notice: Notice) -> None:
    body = notice.model_dump_json().encode()
    signed = headers(notice.key, resolve(target.secret), notice.at, body)
    try:
        # Neither proxies nor credentials of the environment: the topology alone says where it goes.
        async with httpx.AsyncClient(timeout=LIMIT_S, trust_env=False) as client:
            (await client.post(target.url, content=body, headers=signed)).raise_for_status()
    except httpx.HTTPError as error:
        raise NoticeUndelivered(f"{target.name}: {why(error)}") from None


def _mail(target: SmtpTarget, notice: Notice) -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject(notice), target.sender, ", ".join(target.recipients)
    message["Message-ID"] = f"<{hashlib.sha256(notice.key.encode()).hexdigest()[:32]}@lifeboat>"
    message.set_content("\n".join(lines(notice)) + "\n")
    context = ssl.create_default_context()
    try:
        if target.tls == "implicit":
            server: smtplib.SMTP = smtplib.SMTP_SSL(target.host, target.port, timeout=LIMIT_S, context=context)
        else:
            server = smtplib.SMTP(target.host, target.port, timeout=LIMIT_S)
        with server:
            if target.tls == "starttls":
                server.starttls(context=context)
            if target.user is not None:
                server.login(target.user, resolve(target.password) or "")
            server.send_message(message)
    except (smtplib.SMTPException, OSError) as error:
        raise NoticeUndelivered(f"{target.name}: {type(error).__name__}: {error}") from error


def _slack(target: SlackTarget, notice: Notice) -> None:
    client = WebClient(token=resolve(target.token), base_url=target.api, timeout=int(LIMIT_S))
    text = f"{MARKS[notice.event]} *{notice.service}*: {notice.event}\n{notice.text}"
    facts = [{"type": "mrkdwn", "text": f"*{name}*\n{value}"[:2000]} for name, value in list(notice.more.items())[:10]]
    blocks: list[dict[str, object]] = [{"type": "section", "text": {"type": "mrkdwn", "text": text[:3000]}}]
    if facts:
        blocks.append({"type": "section", "fields": facts})
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": f"run `{notice.run}`"}]})
    try:
        client.chat_postMessage(channel=target.channel, text=text[:3000], blocks=json.loads(json.dumps(blocks)))
    except SlackApiError as error:
        raise NoticeUndelivered(f"{target.name}: Slack answers {error.response['error']}") from error
    except OSError as error:
        raise NoticeUndelivered(f"{target.name}: {error}") from error
