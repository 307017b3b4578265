"""Errors of the lab. The docstring is the message, as in schemas/failures.py."""

from __future__ import annotations

from schemas.failures import LifeboatError


class LabError(LifeboatError):
    """The lab could not do what it was asked; whoever runs it should read the log that is named here."""

    retryable = False


class LabUnavailable(LabError):
    """There is no such lab; start one with `lifeboat lab up`, or name one with --lab or LIFEBOAT_LAB."""


class MissingProgram(LabError):
    """A program that the lab runs is not installed; `make setup` provides it."""


class MissingBuild(LabError):
    """A program that is only built where it is asked for is not there."""


class OutsideLab(LabError):
    """This address is not one of the lab's own, and nothing that belongs to a lab may go there; correct the address."""


class UnknownNode(LabError):
    """The lab has no such node; name one of those it lists."""


class NodeSilent(LabError):
    """node does not answer: it is frozen or cut off as a whole; thaw it before it is told anything."""


class NodeRefused(LabError):
    """The node does not return by itself, since Lifeboat turned its autostart off; use --force to start it anyway."""
