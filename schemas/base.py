"""The two bases of every model, and the names of secrets."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints


class Declared(BaseModel):
    """What a person writes: an unknown field is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Fact(BaseModel):
    """What machines exchange. Unknown fields are ignored, so that a newer worker may add one."""

    model_config = ConfigDict(extra="ignore", frozen=True)


SecretRef = Annotated[str, StringConstraints(pattern=r"^(env|file|aws-sm):.+$")]
"""Where a secret is, never the secret: `env:NAME`, `file:PATH` or `aws-sm:NAME`."""

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^/?#]")]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
"""A name of a region, member, service or route."""
