"""The worker's log: plain text, or a JSON object a line; each with the run that it belongs to, and no secret."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from pythonjsonlogger.json import JsonFormatter
from temporalio import activity, workflow
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from workers.redaction import clean

Format = Literal["text", "json"]
FORMATS: tuple[str, ...] = get_args(Format)
VARIABLE = "LIFEBOAT_LOG"

FIELDS = ("service", "workflow_id", "run_id", "workflow", "activity", "attempt")
"""Where they are known; `workflow` is its type."""

_RUN = "lifeboat_run"
"""Attribute of a record."""
_SERVICE: ContextVar[str] = ContextVar("service_of_activity", default="")


def service_of(order: Any) -> str:
    """The service that an activity's order is about; empty where it names none."""
    order = getattr(order, "notice", order)
    found = getattr(order, "service", "")
    name = getattr(found, "name", found)
    return name if isinstance(name, str) else ""


class NameService(Interceptor):
    """What an activity logs carries its service."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Named(next)


class _Named(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        before = _SERVICE.set(service_of(input.args[0]) if input.args else "")
        try:
            return await super().execute_activity(input)
        finally:
            _SERVICE.reset(before)


def known() -> dict[str, Any]:
    """What is known of the run whose activity or workflow logs right now."""
    if activity.in_activity():
        info = activity.info()
        found = {
            "service": _SERVICE.get(),
            "workflow_id": info.workflow_id,
            "run_id": info.workflow_run_id,
            "workflow": info.workflow_type,
            "activity": info.activity_type,
            "attempt": info.attempt,
        }
    elif workflow.in_workflow():
        about, run = workflow.info(), workflow.instance()
        found = {
            "service": getattr(run, "service_name", "") or service_of(getattr(run, "estate", None)),
            "workflow_id": about.workflow_id,
            "run_id": about.run_id,
            "workflow": about.workflow_type,
            "attempt": about.attempt,
        }
    else:
        found = {}
    return {name: value for name, value in found.items() if value not in ("", None)}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


class _Json(JsonFormatter):
    """`time` (RFC 3339, UTC), `level`, `logger`, `message`, what is known of the run, and an `exception`."""

    def __init__(self) -> None:
        super().__init__("%(message)s", rename_fields={"exc_info": "exception"}, json_ensure_ascii=False)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["level"], log_data["logger"] = record.levelname, record.name
        super().add_fields(log_data, record, message_dict)
        for name in [name for name in log_data if name.startswith("temporal_") or name == _RUN]:
            del log_data[name]
        log_data.update(getattr(record, _RUN, {}))

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        # Value by value: a secret may hold what JSON writes otherwise.
        return {name: clean(value) if isinstance(value, str) else value for name, value in log_data.items()}


class _Run(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        try:
            setattr(record, _RUN, known())
        except Exception:  # noqa: BLE001 - a line without its run is better than none
            setattr(record, _RUN, {})
        return True


def configure(form: str) -> None:
    """Log to stderr in this form from now on."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        # It is in fields of its own.
        workflow.logger.workflow_info_on_message = False
        activity.logger.activity_info_on_message = False
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(_Text("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handler.addFilter(_Run())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # A line for each request would say where every notice goes.
    logging.getLogger("httpx").setLevel(logging.WARNING)
