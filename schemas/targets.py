"""Who is told of a run, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Declared, Name, SecretRef


class LogTarget(Declared):
    """The worker's own log."""

    kind: Literal["log"] = "log"
    name: Name = "log"


class WebhookTarget(Declared):
    """A POST of JSON, signed where there is a secret (docs/adopting.md says how to check the signature)."""

    kind: Literal["webhook"] = "webhook"
    name: Name
    url: str = Field(pattern=r"^https?://")
    secret: SecretRef | None = None


class SmtpTarget(Declared):
    """A mail to each recipient."""

    kind: Literal["smtp"] = "smtp"
    name: Name
    host: str
    port: int = Field(default=587, ge=1, le=65535)
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    sender: str
    recipients: list[str] = Field(min_length=1)
    user: str | None = None
    password: SecretRef | None = None


class SlackTarget(Declared):
    """A message in a channel, by the Web API (`chat.postMessage`)."""

    kind: Literal["slack"] = "slack"
    name: Name
    channel: str
    token: SecretRef
    api: str = "https://slack.com/api/"


Target = Annotated[LogTarget | WebhookTarget | SmtpTarget | SlackTarget, Field(discriminator="kind")]
