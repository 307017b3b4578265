"""The page that the Temporal UI shows as a run's current details, in Markdown."""

from __future__ import annotations

from schemas.state import RunState

MARKS = {"done": "✓", "failed": "✗", "skipped": "–", "undone": "↺", "undo failed": "✗", "planned": "·"}


def details_text(state: RunState) -> str:
    """Outcome or present step first, then the question, the clock, the steps and the last lines of the journal."""
    lines = [
        f"**{state.procedure}** of **{state.service}**: {state.outcome or state.step or 'between steps'}",
        "",
    ]
    if state.deadline is not None:
        lines.append(f"RTO of {state.rto_s:.0f} s ends at {state.deadline:%H:%M:%S} UTC")
        lines.append("")
    if state.question is not None:
        question = state.question
        lines += [
            f"**A person must decide**, by {question.decide_by or question.expires:%H:%M:%S} UTC: {question.text}",
            "",
            "Signal `approve` or `reject` with `" + '{"by": "you", "digest": "' + question.digest + '"}`',
            "",
        ]
    if state.parked is not None:
        lines += [
            f"**Parked** at “{state.parked}”: signal `retry`" + (", `skip`" if state.skippable else "") + " or `abort`",
            "",
        ]
    done = {step.title: step for step in state.steps}
    for title in state.planned:
        step = done.get(title)
        mark = MARKS[step.outcome] if step else ("→" if title == state.step else "·")
        took = f" ({(step.ended - step.started).total_seconds():.2f} s)" if step else ""
        lines.append(f"- {mark} {title}{took}" + (f": {step.detail}" if step and step.detail else ""))
    lines += ["", *(f"    {line}" for line in state.journal[-12:])]
    return "\n".join(lines)
