"""`approve`, `reject` and the operator's verbs: what a person says to a run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import typer
from temporalio.client import Client

from cli.choices import By, Json, Last, Reason, Run
from cli.connect import Address, Namespace, Place, at, where
from cli.engine import OPEN, Delivered, Engine
from cli.output import err, out, print_json
from cli.picture import question_lines
from cli.problems import Exit, Problem
from schemas.requests import Answer, Verb
from schemas.state import RunState

Digest = Annotated[
    str | None,
    typer.Option(
        "--digest", help="The one shown with the question; without it the open question's is used, and shown."
    ),
]


SHOWN = "-"
"""Stands for the digest of the question that is open, and is shown."""


def approve(
    by: By,
    run: Run = None,
    last: Last = False,
    digest: Digest = None,
    override: Annotated[
        bool, typer.Option("--override", help="Go on although the policy refuses; --reason is needed, and kept.")
    ] = False,
    then: Annotated[
        str, typer.Option("--then", metavar="CHOICE", help="Of what the question offers, another than the first.")
    ] = "",
    reason: Reason = "",
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Let a run go on that asks a person."""
    if override and not reason:
        raise Problem("--override goes on record with a reason; give it with --reason", Exit.USAGE)
    answer = Answer(by=by, digest=digest or SHOWN, reason=reason, override=override, choice=then)
    _answer("approve", run, last, answer, json, where(address, namespace))


def reject(
    by: By,
    run: Run = None,
    last: Last = False,
    digest: Digest = None,
    reason: Reason = "",
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Say no to a run that asks a person: what it did is undone."""
    answer = Answer(by=by, digest=digest or SHOWN, reason=reason)
    _answer("reject", run, last, answer, json, where(address, namespace))


def _answer(word: str, run: str | None, last: bool, answer: Answer, json: bool, place: Place) -> None:
    async def work(client: Client) -> tuple[str, Delivered]:
        engine = Engine(client)
        found = await engine.find(run, last, OPEN)
        digest = answer.digest
        if digest == SHOWN:
            state = await engine.state(found)
            digest = digest_of(found, state, answer if word == "approve" else None)
            if state is not None:
                err().print("\n".join(question_lines(state, datetime.now(UTC))), markup=False, soft_wrap=True)
        return found, await engine.send(found, word, answer.model_copy(update={"digest": digest}))

    _tell(*at(place, work), json)


def digest_of(run: str, state: RunState | None, approval: Answer | None) -> str:
    """The open question's digest. Problem when there is none to be had, or `approval` can't be what it asks."""
    if state is None:
        raise Problem(
            f"no worker answers for {run}, so its question can't be read; give --digest, as it was shown to you"
        )
    if state.question is None:
        raise Problem(f"{run} asks nothing now; `lifeboat show {run}` tells where it stands")
    if approval is not None and state.question.needs_override and not approval.override:
        raise Problem(
            f"the policy refuses: {state.question.text}\n"
            f"to go on all the same, on record: lifeboat approve {run} --override --reason …"
        )
    return state.question.digest


def _tell(run: str, delivered: Delivered, json: bool) -> None:
    if json:
        print_json({"run": run, "answer": delivered.text, "by_signal": delivered.by_signal})
    else:
        out().print(f"{run}: {delivered.text}", markup=False, soft_wrap=True)


def verb(name: str, help_text: str) -> Callable[..., None]:
    """A command that sends one of the operator's verbs."""

    def command(
        by: By,
        run: Run = None,
        last: Last = False,
        reason: Reason = "",
        json: Json = False,
        address: Address = None,
        namespace: Namespace = None,
    ) -> None:
        async def work(client: Client) -> tuple[str, Delivered]:
            engine = Engine(client)
            found = await engine.find(run, last, OPEN)
            return found, await engine.send(found, name, Verb(by=by, reason=reason))

        _tell(*at(where(address, namespace), work), json)

    command.__name__, command.__doc__ = name, help_text
    return command


VERBS = {
    "hold": "Stop a run before its next step, until `resume`.",
    "resume": "Let a held run go on.",
    "retry": "Try a parked run's step again.",
    "skip": "Leave a parked run's step out, where it may be.",
    "abort": "End a run: before its point of no return what it did is undone.",
}
