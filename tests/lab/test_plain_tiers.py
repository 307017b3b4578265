"""The archive class of the plain layout, on moto: what is moved, what that costs, and a restore that waits for it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from tests.lab.plain_desk import BUCKET, Desk, unlucky
from tests.standins.plain import plain
from tests.standins.storage import KEYS

pytestmark = [pytest.mark.lab, pytest.mark.campaign]


class Tiers(Desk):
    """A desk whose store has classes."""

    moto: str

    def thawing(self, seconds: float) -> None:
        """How long it takes from now on. moto's objects begin to thaw once they are as old, and end as much later."""
        progression = {"progression": "time", "seconds": seconds} if seconds else {"progression": "immediate"}
        body = {"model_name": "s3::keyrestore", "transition": progression}
        httpx.post(f"{self.moto}/moto-api/state-manager/set-transition", json=body, trust_env=False).raise_for_status()

    def storage(self, prefix: str = "") -> dict[str, str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"unit/{prefix}").get("Contents", [])
        return {each["Key"].removeprefix("unit/"): each["StorageClass"] for each in found}

    def classes(self, prefix: str) -> set[str]:
        return set(self.storage(prefix).values())


@pytest.fixture(scope="module")
def desk() -> Iterator[Tiers]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **KEYS)
    client.create_bucket(Bucket=BUCKET)
    try:
        with plain(f"http://{host}:{port}", Tiers) as made:
            made.client, made.moto = client, f"http://{host}:{port}"
            made.initialise()
            for _ in range(3):
                made.sql("CREATE TABLE IF NOT EXISTS t (n int)", "INSERT INTO t SELECT generate_series(1, 100)")
                made.archived()
                made.well("backup")
                # Its name has a second, and no more.
                end = time.time() + 1
                while time.time() < end:
                    made.archived()
            yield made
    finally:
        server.stop()


WORDS = ("--keep-fulls=2", "--archive-class=GLACIER", "--keep-archived-days=3650")


def told(desk: Tiers, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(desk.well(*words, "--json"))
    return found


def test_a_dry_run_says_what_and_how_much_and_changes_nothing(desk: Tiers) -> None:
    before = desk.storage()
    found = told(desk, "expire", "--dry-run", *WORDS)
    first, second, third = desk.labels()
    assert found["dry_run"] is True
    assert found["moved"]["backups"] == [first]
    assert found["moved"]["wal_files"] > 0
    assert found["moved"]["bytes"] > found["moved"]["wal_files"] * (16 << 20)
    assert found["backups"][first].startswith("to GLACIER")
    assert found["backups"][second] == "kept: one of the newest 2"
    assert found["backups"][third] == "kept: the newest good one"
    assert set(found["classes"]) == {"STANDARD"}
    assert desk.storage() == before
    text = desk.well("expire", "--dry-run", *WORDS)
    assert f"would be moved: {first}" in text


def test_what_is_kept_no_longer_is_archived_with_its_wal_and_a_second_time_nothing_is(desk: Tiers) -> None:
    first, second, third = desk.labels()
    (wal_start,) = [each["archive"]["start"] for each in desk.stanza()["backup"] if each["label"] == second]
    (oldest,) = [each["archive"]["start"] for each in desk.stanza()["backup"] if each["label"] == first]
    found = told(desk, "tier", *WORDS)
    assert found["moved"]["backups"] == [first]
    for key, storage in desk.storage("wal/").items():
        name = key.removeprefix("wal/")
        if len(name) == 24 and name >= wal_start:
            assert storage == "STANDARD", key
        elif len(name) == 24 and name >= oldest:
            assert storage == "GLACIER", key
    assert {each.rpartition("/")[2]: storage for each, storage in desk.storage(f"base/{first}/").items()} == {
        "backup.json": "STANDARD",
        "backup_manifest": "STANDARD",
        "base.tar.gz": "GLACIER",
        "index.json": "STANDARD",
    }
    assert desk.classes(f"base/{second}/") == desk.classes(f"base/{third}/") == {"STANDARD"}
    # What is said of an object goes with it: a WAL file's checksum.
    moved = next(key for key, storage in desk.storage("wal/").items() if storage == "GLACIER")
    assert len(desk.client.head_object(Bucket=BUCKET, Key=f"unit/{moved}")["Metadata"]["sha256"]) == 64
    assert found["classes"]["GLACIER"]["bytes"] == found["moved"]["bytes"]
    again = told(desk, "tier", *WORDS)
    assert (again["moved"]["backups"], again["moved"]["bytes"]) == ([], 0)
    assert again["classes"] == found["classes"]
    by_label = {each["label"]: each["info"]["repository"]["class"] for each in desk.stanza()["backup"]}
    assert by_label == {first: "GLACIER", second: "STANDARD", third: "STANDARD"}


def test_a_restore_asks_waits_says_so_and_goes_on_where_it_was(desk: Tiers) -> None:
    """After the test before: the first backup is in GLACIER."""
    first = desk.labels()[0]
    assert desk.storage(f"base/{first}/")[f"base/{first}/base.tar.gz"] == "GLACIER"
    copy, log = desk.folder / "copy", desk.folder / "restore.log"
    desk.thawing(3)
    time.sleep(3)
    argv = desk.argv("restore", f"--set={first}", f"--pg1-path={copy}")
    with log.open("w") as file:
        waiting = desk.begin(*argv, stdout=file, stderr=file)
    # From the second look on all of them thaw.
    until(lambda: log.read_text().count("asked for at") == 2)
    desk.thawing(3600)
    line = log.read_text().splitlines()[-1]
    assert "thawing: 0 of" in line
    assert "GLACIER, tier Standard: 3 to 5 hours" in line
    # Whoever is killed meanwhile goes on waiting; what was asked for is not asked for twice.
    os.kill(waiting.pid, signal.SIGKILL)
    waiting.wait(10)
    with log.open("w") as file:
        waiting = desk.begin(*argv, stdout=file, stderr=file)
    until(lambda: "asked for before" in log.read_text())
    assert not (copy / "PG_VERSION").exists()
    desk.thawing(0)
    assert waiting.wait(60) == 0, log.read_text()
    assert "objects can be read" in log.read_text()
    assert desk.execute("pg_verifybackup", "-n", str(copy)).returncode == 0
    shutil.rmtree(copy)


def test_wal_that_is_frozen_is_asked_for_and_is_not_absent(desk: Tiers) -> None:
    desk.thawing(0.2)
    key = next(key for key, storage in desk.storage("wal/").items() if len(key) == 28 and storage == "STANDARD")
    name = key.removeprefix("wal/")
    desk.client.copy_object(
        Bucket=BUCKET,
        Key=f"unit/{key}",
        CopySource={"Bucket": BUCKET, "Key": f"unit/{key}"},
        StorageClass="GLACIER",
        MetadataDirective="COPY",
    )
    time.sleep(0.3)
    done = desk.run("archive-get", name, str(desk.folder / "frozen"))
    assert done.returncode == 255
    assert "must be thawed first" in done.stderr
    assert "1 files from it on are asked for, tier Standard" in done.stderr
    assert 'ongoing-request="true"' in desk.client.head_object(Bucket=BUCKET, Key=f"unit/{key}")["Restore"]
    desk.thawing(0)
    assert desk.run("archive-get", name, str(desk.folder / "thawed")).returncode == 0


def test_what_is_older_than_the_second_limit_goes_and_what_is_kept_restores(desk: Tiers) -> None:
    """The last one: two backups are gone afterwards."""
    first, second, third = desk.labels()
    left = ["base/20200101-000000F/base.tar.gz", "wal/000000010000000000000001"]
    for key in left:
        desk.client.create_multipart_upload(Bucket=BUCKET, Key=f"unit/{key}")
    words = ("--keep-fulls=1", "--archive-class=GLACIER", "--keep-archived-days=0.000001")
    found = told(desk, "expire", *words)
    assert found["removed"]["backups"] == [first, second]
    assert desk.labels() == [third]
    assert {key.split("/")[1] for key in desk.keys("base/")} == {third}
    assert desk.stanza()["archive"][0]["min"] == desk.stanza()["backup"][0]["archive"]["start"]
    # moto says of each upload that it began in 2010.
    assert found["removed"]["left_over"] == left
    assert not desk.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
    again = told(desk, "expire", *words)
    assert (again["removed"]["backups"], again["removed"]["bytes"]) == ([], 0)
    copy = desk.folder / "copy"
    desk.well("restore", f"--set={third}", f"--pg1-path={copy}")
    shutil.rmtree(copy)


async def test_a_store_that_overwrites_in_spite_of_the_condition_is_seen(desk: Tiers, tmp_path: Path) -> None:
    """At the first file of an archive, by writing its mark twice."""
    name = desk.archived()
    async with unlucky(desk, tmp_path) as (store, ini):
        luck = store.has("overwrites", "/wal/", method="PUT")
        text = ini.read_text().replace("prefix = unit", "prefix = silent")
        ini.write_text(text)
        for _ in range(2):
            done = await asyncio.to_thread(desk.run, "archive-push", str(desk.wal(name)), ini=ini)
            assert done.returncode == 27, done.stdout + done.stderr
            assert "does not know If-None-Match" in done.stderr
        assert luck.hits == 2
        ini.write_text(text.replace("[archive]", "[archive]\nconditional = no"))
        done = await asyncio.to_thread(desk.run, "archive-push", str(desk.wal(name)), ini=ini)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_bucket_that_keeps_versions_is_warned_of(desk: Tiers) -> None:
    def warned() -> bool:
        return "NoncurrentVersionExpiration" in desk.well("expire", *WORDS)

    assert not warned()
    desk.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    assert warned()
    rule = {
        "ID": "x",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
    }
    desk.client.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [rule]})
    assert not warned()


def until(condition: Any, limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
