"""Object storage: versitygw, a real S3 server over a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from lab.world import cache_folder

KEYS = {"aws_access_key_id": "lab", "aws_secret_access_key": "lab", "region_name": "us-east-1"}
REGION = "us-east-1"


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as found:
        found.bind((host, 0))
        return int(found.getsockname()[1])


def _program() -> str:
    found = shutil.which("versitygw") or cache_folder() / "bin" / "versitygw"
    if not os.access(found, os.X_OK):
        pytest.fail("versitygw is missing: run scripts/setup versitygw")
    return str(found)


class Storage:
    """One server that can be stopped and started again on the same address, with what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True)
        (folder / "side").mkdir()

    def start(self) -> None:
        command = [_program(), "--access", "lab", "--secret", "lab", "--port", f"127.0.0.1:{self.port}"]
        command += ["--region", REGION, "posix", "--sidecar", str(self.folder / "side"), str(self.folder / "data")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, "versitygw does not listen within 20 s"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

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
