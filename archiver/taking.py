"""A base backup: pg_basebackup's tar, read as it comes, stored in parts, and compared with its own manifest."""

from __future__ import annotations

import base64
import calendar
import contextlib
import hashlib
import json
import os
import re
import select
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from archiver.catalogue import INDEX, RECORD, Record, segments, write_record
from archiver.errors import ArchiveError, Damaged, Unfinished, Unusable
from archiver.manifest import NAME, OURS, Manifest, must_match, read_manifest
from archiver.store import Store
from archiver.tar import READ, Read, Unpacker, Writer, members
from archiver.wal import must_be_of
from schemas.wal import file_of, position

PART = 16 << 20
"""Bytes of a part of an upload; after each thousand of the ten thousand that there may be, as many more."""
CONTROL = "global/pg_control"
Say = Callable[[str], None]


class Upload:
    """One object in parts, each with its checksum; whole at its end, or not there at all."""

    def __init__(self, store: Store, key: str, at_once: int) -> None:
        self.store, self.key = store, key
        with store.asking("PUT", key):
            made = store.client.create_multipart_upload(**store.at(key), ChecksumAlgorithm="SHA256")
        self._id = made["UploadId"]
        self._pool = ThreadPoolExecutor(at_once)
        # What waits to be sent is in memory.
        self._room = threading.Semaphore(at_once + 1)
        self._parts: list[Future[dict[str, Any]]] = []
        self._buffer: list[bytes] = []
        self._held = 0

    def write(self, data: bytes) -> None:
        self._buffer.append(data)
        self._held += len(data)
        if self._held >= PART * (1 + len(self._parts) // 1000):
            self._send()

    def _send(self) -> None:
        body, self._buffer, self._held = b"".join(self._buffer), [], 0
        for each in self._parts:
            if each.done():
                each.result()
        self._room.acquire()
        self._parts.append(self._pool.submit(self._part, len(self._parts) + 1, body))

    def _part(self, number: int, body: bytes) -> dict[str, Any]:
        checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()
        try:
            with self.store.asking("PUT", self.key):
                done = self.store.client.upload_part(
                    **self.store.at(self.key), UploadId=self._id, PartNumber=number, Body=body, ChecksumSHA256=checksum
                )
        finally:
            self._room.release()
        return {"PartNumber": number, "ETag": done["ETag"], "ChecksumSHA256": checksum}

    def complete(self) -> None:
        if self._held or not self._parts:
            self._send()
        parts = [each.result() for each in self._parts]
        self._pool.shutdown()
        with self.store.asking("PUT", self.key):
            self.store.client.complete_multipart_upload(
                **self.store.at(self.key), UploadId=self._id, **self.store.once, MultipartUpload={"Parts": parts}
            )

    def abort(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        with self.store.asking("DELETE", self.key):
            self.store.client.abort_multipart_upload(**self.store.at(self.key), UploadId=self._id)


class Seen:
    """What passed by: each file's size and checksum, and what else a backup's record is made of."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self.algorithm = algorithm
        self.files: dict[str, tuple[int, str]] = {}
        self.manifest = b""
        self.label = ""
        self.system = ""

    def take(self, path: str, read: Read) -> None:
        digest, size, kept = hashlib.new(self.algorithm), 0, b""
        keep = path in (NAME, "backup_label", CONTROL)
        while block := read(READ):
            digest.update(block)
            size += len(block)
            kept += block if keep else b""
        if path == NAME:
            self.manifest = kept
            return
        self.files[path] = (size, digest.hexdigest())
        if path == "backup_label":
            self.label = kept.decode("utf-8", "replace")
        elif path == CONTROL:
            # The first field of ControlFileData (pg_control.h).
            self.system = str(struct.unpack_from("<Q", kept)[0])

    def must_be(self, manifest: Manifest, where: str) -> None:
        """Damaged names the file that is not what the manifest says."""
        for path in manifest.files:
            if path not in self.files:
                raise Damaged(f"{where}: {path} is missing")
            must_match(manifest, path, *self.files[path], where)


def take(store: Store, say: Say) -> Record:
    """Take a full backup from the server on this machine; Unfinished with what pg_basebackup says.

    Nothing is left of one that fails, but for what a kill leaves: `expire` removes that.
    """
    server, began = store.config.server, int(time.time())
    label = time.strftime("%Y%m%d-%H%M%SF", time.gmtime(began))
    program = f"{server.bin.rstrip('/')}/pg_basebackup" if server.bin else "pg_basebackup"
    # Its WAL is in the archive: with -X none it waits until that is so.
    argv = [program, "-D", "-", "-F", "t", "-X", "none", "-c", "fast", "--manifest-checksums=SHA256", "-P", "-w"]
    argv += ["-h", server.socket, "-p", str(server.port), "-U", server.user, "-l", label]
    where = f"base/{label}/base.tar" + (".gz" if store.config.compress_level else "")
    if store.head(where) is not None:
        raise Unfinished(f"{store.config.where(where)} is there already; begin it again")
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            # Its words are looked at.
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise Unusable(f"{program}: {error.strerror}; {store.config.path}'s owner must name its folder") from error
    told = _Told(process, say)
    upload = Upload(store, where, store.config.processes)
    seen = Seen()
    try:
        writer = _pass_on(process, upload, seen, store, told, say)
        code = process.wait()
        told.thread.join(5)
        # It ends with an error as well where it read bad pages, and has written all the same.
        bad = "checksum error occurred" in told.text
        if code != 0 and not bad:
            raise Unfinished(_failure(told.text, code, store))
        manifest = read_manifest(seen.manifest, f"{store.config.where(where)}: {NAME}")
        seen.must_be(manifest, store.config.where(where))
        upload.complete()
    except BaseException as error:
        process.kill()
        process.wait()
        told.thread.join(5)
        # Why it failed is what is to be told.
        with contextlib.suppress(ArchiveError):
            upload.abort()
        # Its own words before those of a tar that ended early.
        if isinstance(error, Damaged) and process.returncode not in (0, -9):
            raise Unfinished(_failure(told.text, process.returncode, store)) from error
        raise
    finally:
        told.thread.join(5)
    try:
        return _record(store, label, where, manifest, seen, writer, began, say, bad=bad)
    except BaseException:
        _forget(store, label)
        raise


def _record(
    store: Store,
    label: str,
    where: str,
    manifest: Manifest,
    seen: Seen,
    writer: Writer,
    began: int,
    say: Say,
    *,
    bad: bool,
) -> Record:
    """What makes a backup of a tar that is stored."""
    index = json.dumps({"tars": {where.rpartition("/")[2]: [each.as_json() for each in writer.chunks]}}).encode()
    for name, body in ((INDEX, index), (NAME, seen.manifest)):
        store.put_text(f"base/{label}/{name}", body, once=False)
    record = record_of(store, label, manifest, seen, started=began, tars=[where.rpartition("/")[2]])
    record.error, record.kept = bad, writer.total + len(index) + len(seen.manifest)
    write_record(store, record)
    say(f"INFO: new backup label = {label}")
    return record


def _forget(store: Store, label: str) -> None:
    """Nothing of it stays to be kept WAL for. Where the store can't be reached, `expire` finds it in a week."""
    with contextlib.suppress(ArchiveError):
        keys = [each.key for each in store.objects(f"base/{label}/")]
        store.remove([each for each in keys if each.endswith(f"/{RECORD}")])
        store.remove([each for each in keys if not each.endswith(f"/{RECORD}")])


def _patient(process: Any, seen: Seen, store: Store) -> Read:
    """Reads pg_basebackup's tar. It stops before the end until its WAL is archived, which may never be: Unfinished
    once none was for `wal_timeout`.
    """
    handle, limit = process.stdout.fileno(), store.config.server.wal_timeout_s
    begun = False

    def newest() -> str:
        found = re.search(r"file ([0-9A-F]{24})", seen.label)
        return max((each.name for each in segments(store, after=found[1])), default="") if found else ""

    def read(count: int) -> bytes:
        nonlocal begun
        since, last = time.monotonic(), None
        # A checkpoint comes first, which takes as long as it takes.
        while begun and not select.select([handle], [], [], limit / 4)[0]:
            now = newest()
            if last is not None and now != last:
                since = time.monotonic()
            last = now
            if time.monotonic() - since >= limit:
                raise Unfinished(
                    f"pg_basebackup has sent nothing for {limit:g} s, and no WAL came to {store.config.where('wal/')}:"
                    " it waits until its own is archived; the server's owner must look at archive_mode,"
                    " archive_command and its log"
                )
        begun = True
        return os.read(handle, count)

    return read


def _pass_on(process: Any, upload: Upload, seen: Seen, store: Store, told: _Told, say: Say) -> Writer:
    """From the program into the store, file by file."""
    writer = Writer(store.config.compress_level, upload.write)
    done = 0

    def passed(data: bytes) -> None:
        nonlocal done
        writer.write(data)
        done += len(data)

    last = 0
    tar = members(
        _patient(process, seen, store),
        "pg_basebackup's tar",
        passed,
        lambda info: writer.cut_before(info.name, folder=not info.isreg()),
    )
    for info, read in tar:
        if info.isreg():
            seen.take(info.name, read)
        if info.name == "backup_label" and re.search("^BACKUP FROM: standby", seen.label, re.M):
            raise Unfinished(
                "this server is a standby, which does not archive the WAL that a backup needs: take it from the leader"
            )
        if done - last >= PART:
            say(progress("backup file", info.name, done - last, done, told.total))
            last = done
    writer.end()
    say(progress("backup file", "the last", done - last, done, done))
    return writer


def progress(what: str, name: str, part: int, done: int, whole: int) -> str:
    """As pgBackRest tells of files: how much of this, and which share of the whole is done."""
    share = min(100.0, 100 * done / whole) if whole else 0.0
    return f"DETAIL: {what} {name} ({part / 1024:.1f}KB, {share:.2f}%)"


class _Told:
    """pg_basebackup's words, read as they come, and passed on; `total` are the bytes that it means to send."""

    def __init__(self, process: Any, say: Say) -> None:
        self.text, self.total, self.say = "", 0, say
        self.thread = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self.thread.start()

    def _read(self, stream: Any) -> None:
        while data := os.read(stream.fileno(), 65536):
            for line in re.split(r"[\r\n]+", data.decode("utf-8", "replace")):
                if found := re.search(r"\d+/(\d+) kB", line):
                    self.total = int(found[1]) * 1024
                elif line.strip():
                    self.text = (self.text + line.strip() + "\n")[-4000:]
                    self.say(f"{'WARN' if 'WARNING:' in line else 'DETAIL'}: {line.strip()}")


def _failure(text: str, code: int, store: Store) -> str:
    if "single tablespace" in text:
        return (
            "the cluster has tablespaces, and pg_basebackup writes only one into a stream: take its backups by"
            f" pgBackRest, or by pg_basebackup into a folder, copied to {store.config.where('base/LABEL/')} and adopted"
        )
    return (
        f"pg_basebackup exited {code}: {' | '.join(text.split(chr(10))[-4:]).strip(' |')}; the server's owner must look"
    )


def record_of(store: Store, label: str, manifest: Manifest, seen: Seen, *, started: int, tars: list[str]) -> Record:
    """What the backup is, once the WAL that it needs is seen to be stored; Unfinished names a file that is not."""
    found = re.search(r"START WAL LOCATION: (\S+) \(file ([0-9A-F]{24})\)", seen.label)
    if found is None or not seen.system:
        raise Damaged(f"base/{label} has no backup_label, or no {CONTROL}: it is no base backup")
    must_be_of(store, seen.system, f"base/{label}")
    first, end = found[2], time.monotonic() + store.config.server.wal_timeout_s
    while (start := store.head(f"wal/{first}")) is None:
        _wait(store, first, end)
    # A place at a file's very end belongs to it.
    stop = file_of(manifest.timelines[1], position(manifest.lsn_stop) - 1, start.bytes)
    while store.head(f"wal/{stop}") is None:
        _wait(store, stop, end)
    return Record(
        label=label,
        start=started,
        stop=int(time.time()),
        lsn_start=manifest.lsn_start,
        lsn_stop=manifest.lsn_stop,
        wal_start=first,
        wal_stop=stop,
        system=seen.system,
        bytes=manifest.bytes,
        kept=0,
        tars=tars,
    )


def _wait(store: Store, name: str, end: float) -> None:
    if time.monotonic() > end:
        raise Unfinished(
            f"{store.config.where(f'wal/{name}')} is not there, and the backup is nothing without it: the server's"
            " owner must look at archive_mode, archive_command and its log"
        )
    time.sleep(0.5)


def adopt(store: Store, label: str, say: Say) -> Record:
    """Make a backup of what pg_basebackup -Ft wrote and somebody copied here: read all of it once, and compare it.

    With CRC32C, PostgreSQL's usual checksums, sizes are compared here, and the rest by pg_verifybackup after a restore.
    """
    key = f"base/{label}/{NAME}"
    manifest = read_manifest(store.read(key), store.config.where(key))
    tars = [each for each in store.objects(f"base/{label}/") if re.fullmatch(r"(base|\d+)\.tar(\.gz)?", each.name)]
    if not any(each.name.startswith("base.tar") for each in tars):
        raise Unusable(f"{store.config.where(f'base/{label}/')} holds no base.tar or base.tar.gz")
    algorithm = next((OURS[each.algorithm] for each in manifest.files.values() if each.algorithm in OURS), "sha256")
    seen = Seen(algorithm)
    for each in tars:
        body, _ = store.get(each.key)
        space = each.name.partition(".")[0]
        under = "" if space == "base" else f"pg_tblspc/{space}/"
        where = store.config.where(each.key)

        def read(count: int, body: Any = body, key: str = each.key) -> bytes:
            with store.asking("GET", key):
                return bytes(body.read(count))

        unpacker = Unpacker(read, where, packed=each.name.endswith(".gz"))
        for info, content in members(unpacker.read, where):
            if info.isreg():
                seen.take(under + info.name, content)
        say(f"INFO: {where} is read")
    seen.must_be(manifest, store.config.where(f"base/{label}/"))
    there = list(store.objects(f"base/{label}/"))
    began = _start_time(seen.label)
    started = int(began or min(each.at for each in tars).timestamp())
    record = record_of(store, label, manifest, seen, started=started, tars=[each.name for each in tars])
    # A copy that was begun before the backup had ended has the time of its begin.
    record.stop = int(max(began, *(each.at.timestamp() for each in there)))
    record.kept = sum(each.bytes for each in tars)
    write_record(store, record)
    return record


def _start_time(label: str) -> float:
    """Of backup_label; 0 where it has none. It is in the server's log_timezone, as a rule its machine's."""
    found = re.search(r"^START TIME: (\S+ \S+) (\S+)", label, re.M)
    if found is None:
        return 0.0
    try:
        told = time.strptime(found[1], "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return 0.0
    return float(calendar.timegm(told)) if found[2] in ("UTC", "GMT") else time.mktime(told)
