"""The doors of a run: what people may say to it, by signal or by update, and whether it counts.

A signal needs no live worker; an update is validated and answered. Both rest on the same decisions.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from schemas.decisions import Question
    from schemas.requests import Answer, Verb
    from workflows.policy import approval as ballots


class Doors:
    """Approvals and the operator's verbs. What they decide is read by the steps of the runbook."""

    def __init__(self) -> None:
        self.question: Question | None = None
        self.held = False
        self.past_no_return = False
        self.clients_wait = False
        """Clients of a planned move, who are answered once it is done, or undone."""
        self._answers: list[tuple[Answer, bool]] = []
        self._parked: tuple[str, bool] | None = None
        """Title of the parked step, and whether it may be skipped."""
        self._verdict_on_parked: str | None = None
        self._abort: Verb | None = None

    def note(self, text: str) -> None:
        """A line of the journal."""
        raise NotImplementedError

    @workflow.signal(description="Approve what the run asks; `digest` is the one shown with the question.")
    def approve(self, answer: Answer) -> None:
        self._take(answer, approve=True)

    @workflow.signal(description="Reject what the run asks: what was done is undone.")
    def reject(self, answer: Answer) -> None:
        self._take(answer, approve=False)

    @workflow.update(name="approve")
    def approve_update(self, answer: Answer) -> str:
        return self._take(answer, approve=True)

    @approve_update.validator
    def _valid_approval(self, answer: Answer) -> None:
        self._must_count(answer, approve=True)

    @workflow.update(name="reject")
    def reject_update(self, answer: Answer) -> str:
        return self._take(answer, approve=False)

    @reject_update.validator
    def _valid_rejection(self, answer: Answer) -> None:
        self._must_count(answer, approve=False)

    def _why_not(self, answer: Answer, approve: bool) -> str | None:
        if self.question is None:
            return "nothing is asked now"
        return ballots.weigh(self.question, self._answers, answer, approve, workflow.now())

    def _must_count(self, answer: Answer, approve: bool) -> None:
        refusal = self._why_not(answer, approve)
        if refusal is not None:
            raise ApplicationError(f"the answer does not count: {refusal}", type="AnswerRefused", non_retryable=True)

    def _take(self, answer: Answer, approve: bool) -> str:
        refusal = self._why_not(answer, approve)
        word = "approval" if approve else "rejection"
        if refusal is not None:
            self.note(f"the {word} by {answer.by} does not count: {refusal}")
            return refusal
        self._answers.append((answer, approve))
        self.note(f"{word} by {answer.by}" + (f": {answer.reason}" if answer.reason else ""))
        return f"{word} by {answer.by} counts"

    @workflow.signal(description="Stop before the next step, until `resume`; refused past the point of no return.")
    def hold(self, verb: Verb) -> None:
        self._obey("hold", verb)

    @workflow.signal(description="Go on after `hold`.")
    def resume(self, verb: Verb) -> None:
        self._obey("resume", verb)

    @workflow.signal(description="Try the parked step again.")
    def retry(self, verb: Verb) -> None:
        self._obey("retry", verb)

    @workflow.signal(description="Leave the parked step out, where it may be.")
    def skip(self, verb: Verb) -> None:
        self._obey("skip", verb)

    @workflow.signal(description="End the run and undo what was done; past the point of no return only while parked.")
    def abort(self, verb: Verb) -> None:
        self._obey("abort", verb)

    @workflow.update(name="hold")
    def hold_update(self, verb: Verb) -> str:
        return self._obey("hold", verb)

    @workflow.update(name="resume")
    def resume_update(self, verb: Verb) -> str:
        return self._obey("resume", verb)

    @workflow.update(name="retry")
    def retry_update(self, verb: Verb) -> str:
        return self._obey("retry", verb)

    @workflow.update(name="skip")
    def skip_update(self, verb: Verb) -> str:
        return self._obey("skip", verb)

    @workflow.update(name="abort")
    def abort_update(self, verb: Verb) -> str:
        return self._obey("abort", verb)

    def _validate(self, verb: str) -> None:
        refusal = self._why_not_now(verb)
        if refusal is not None:
            raise ApplicationError(refusal, type="AnswerRefused", non_retryable=True)

    @hold_update.validator
    def _may_hold(self, verb: Verb) -> None:
        self._validate("hold")

    @resume_update.validator
    def _may_resume(self, verb: Verb) -> None:
        self._validate("resume")

    @retry_update.validator
    def _may_retry(self, verb: Verb) -> None:
        self._validate("retry")

    @skip_update.validator
    def _may_skip(self, verb: Verb) -> None:
        self._validate("skip")

    @abort_update.validator
    def _may_abort(self, verb: Verb) -> None:
        self._validate("abort")

    def _why_not_now(self, verb: str) -> str | None:
        if verb in ("retry", "skip") and self._parked is None:
            return f"no step is parked, so there is nothing to {verb}"
        if verb == "skip" and self._parked is not None and not self._parked[1]:
            return f"the step “{self._parked[0]}” can't be skipped: retry it, or abort the run"
        if verb == "hold" and self.past_no_return:
            return "the run is past its point of no return, and only goes forward"
        if verb == "hold" and self.clients_wait:
            return "clients wait meanwhile: abort the run instead"
        if verb == "resume" and not self.held:
            return "the run is not held"
        if verb == "abort" and self.past_no_return and self._parked is None:
            return "the run is past its point of no return, and only goes forward"
        return None

    def _obey(self, verb: str, given: Verb) -> str:
        refusal = self._why_not_now(verb)
        if refusal is not None:
            self.note(f"{verb} by {given.by} is refused: {refusal}")
            return refusal
        if verb in ("hold", "resume"):
            self.held = verb == "hold"
        elif verb == "abort" and not self.past_no_return:
            self._abort = given
        if self._parked is not None and verb in ("retry", "skip", "abort"):
            self._verdict_on_parked = verb
        self.note(f"{verb} by {given.by}" + (f": {given.reason}" if given.reason else ""))
        return f"{verb} by {given.by} is taken"
