"""Keeping a run's report where the topology says: as JSON for programs, and as a page for people."""

from __future__ import annotations

import asyncio
from pathlib import Path

from temporalio import activity

from activities.aws import FAILED, call, client
from activities.beating import beating
from activities.files import replace_file
from activities.page import page
from schemas.failures import ReportNotKept
from schemas.keeping import FolderReports, S3Reports
from schemas.orders import ReportOrder

_TYPES = {"json": "application/json", "html": "text/html; charset=utf-8"}


@activity.defn
async def keep_report(order: ReportOrder) -> str:
    """Where the page is. ReportNotKept says why it isn't kept yet, and it is tried again for days.

    A report is written once and never changes, so that what stands there already is either the same or a piece of it.
    """
    texts = {"json": order.report.model_dump_json(indent=2) + "\n", "html": page(order.report)}
    async with beating("keeping the report"):
        for ending, text in texts.items():
            match order.store:
                case S3Reports():
                    await _put(order.store, f"{order.name}.{ending}", text, _TYPES[ending])
                case FolderReports():
                    await asyncio.to_thread(_write, order.store, f"{order.name}.{ending}", text)
    return order.store.reference(f"{order.name}.html")


async def _put(store: S3Reports, name: str, text: str, kind: str) -> None:
    aws = client("s3", store.region, store.endpoint)
    try:
        await call(
            aws,
            "put_object",
            Bucket=store.bucket,
            Key=store.key(name),
            Body=text.encode(),
            ContentType=kind,
        )
    except FAILED as error:
        raise ReportNotKept(f"{store.reference(name)}: {error}") from error


def _write(store: FolderReports, name: str, text: str) -> None:
    path = Path(store.path) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
    except OSError as error:
        raise ReportNotKept(f"{path}: {error.strerror}") from error
