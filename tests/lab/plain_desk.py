"""A PostgreSQL with its archive, and the bucket as its owner sees it: for the tests of lifeboat-archive."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import boto3

from tests.standins.bad_store import BadStore, bad_store
from tests.standins.plain import Plain, plain
from tests.standins.storage import KEYS, Storage, storage

BUCKET = "archive"


class Desk(Plain):
    """A server with its archive, and the bucket as its owner sees it."""

    store: Storage
    client: Any

    def key(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=f"unit/{key}")["Body"].read())

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"unit/{key}", Body=body)

    def keys(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"unit/{prefix}").get("Contents", [])
        return [each["Key"].removeprefix("unit/") for each in found]

    def stanza(self) -> dict[str, Any]:
        (found,) = json.loads(self.well("info", "--output=json"))
        assert isinstance(found, dict)
        return found

    def labels(self) -> list[str]:
        return [each["label"] for each in self.stanza()["backup"]]

    def wal(self, name: str) -> Path:
        """A WAL file in the server's own folder."""
        return self.data / "pg_wal" / name


@contextlib.contextmanager
def desk_of(folder: Path) -> Iterator[Desk]:
    """One whose store begins empty."""
    with storage(folder) as store:
        store.bucket(BUCKET)
        with plain(store.endpoint, Desk) as made:
            made.store = store
            made.client = boto3.client("s3", endpoint_url=store.endpoint, **KEYS)
            made.initialise()
            made.sql("CREATE TABLE t AS SELECT n, repeat('x', 200) AS x FROM generate_series(1, 20000) n")
            yield made


@contextlib.asynccontextmanager
async def unlucky(desk: Desk, folder: Path, **more: Any) -> AsyncIterator[tuple[BadStore, Path]]:
    """The desk's store, by TLS, behind one that may have bad luck; and a configuration that leads there."""
    host, _, port = desk.endpoint.removeprefix("http://").partition(":")
    async with bad_store(folder, host, int(port), None) as store:
        authority = desk.folder / "authority.pem"
        shutil.copy(store.authority, authority)
        os.chmod(authority, 0o644)
        ini = desk.configure(
            "bad.ini", endpoint=f"https://{store.host}:{store.port}", more={"ca": str(authority)}, **more
        )
        yield store, ini
