"""How a service that was read-only, since its data was damaged, takes writes again."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, PositiveFloat, model_validator

from schemas.base import Declared

Share = Annotated[float, Field(gt=0, lt=1)]


class CorruptionPolicy(Declared):
    """Shares of the sessions that may write before all may, each of them watched for `hold_s` seconds."""

    shares: list[Share] = Field(default_factory=lambda: [0.1, 0.5])
    """Of the sessions that poolers open on the leader. None: from reads to all."""
    hold_s: PositiveFloat = 60.0
    """How long each share, and then all of them, must do well."""
    max_rollbacks: float = Field(default=0.2, ge=0, le=1)
    """Of all transactions, once all may write. Of a share it says nothing: who may not write rolls back."""

    @model_validator(mode="after")
    def _rising(self) -> CorruptionPolicy:
        if any(one >= other for one, other in pairwise(self.shares)):
            told = ", ".join(f"{each:g}" for each in self.shares)
            raise ValueError(f"shares: {told} do not rise; name each once, the smallest first")
        return self
