"""Object storage: versitygw, a real S3 server over a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from lab.world import cache_folder
from tests.standins.server import Server, free_port

KEYS = {"aws_access_key_id": "lab", "aws_secret_access_key": "lab", "region_name": "us-east-1"}
REGION = "us-east-1"


def _program() -> str:
    found = shutil.which("versitygw") or cache_folder() / "bin" / "versitygw"
    if not os.access(found, os.X_OK):
        pytest.fail("versitygw is missing: run scripts/setup versitygw")
    return str(found)


class Storage(Server):
    """One server that can be stopped and started again on the same address, with what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.command = [
            *(_program(), "--access", "lab", "--secret", "lab", "--port", f"127.0.0.1:{self.port}"),
            *("--region", REGION, "posix", "--sidecar", str(folder / "side"), str(folder / "data")),
        ]
        self.ready = self.port
        (folder / "data").mkdir(parents=True)
        (folder / "side").mkdir()

    def bucket(self, name: str) -> str:
        boto3.client("s3", endpoint_url=self.endpoint, **KEYS).create_bucket(Bucket=name)
        return name

    def read(self, bucket: str, key: str) -> bytes:
        found = boto3.client("s3", endpoint_url=self.endpoint, **KEYS).get_object(Bucket=bucket, Key=key)
        return bytes(found["Body"].read())


@contextlib.contextmanager
def storage(folder: Path) -> Iterator[Storage]:
    made = Storage(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()
