"""The bucket: each call bounded in time, and what goes wrong told in words. botocore is imported at the first call."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

from archiver.config import Config, keys_of
from archiver.errors import ArchiveError, Damaged, Frozen, NotThere, Unreachable, Unusable

CONNECT_S, READ_S = 5, 15
ATTEMPTS = 3
AT_ONCE = 8
"""Small requests that are made side by side."""
COLD = ("GLACIER", "DEEP_ARCHIVE")
"""Classes whose objects can't be read before they are thawed."""
_REFUSED = ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")


@dataclass(frozen=True)
class Stored:
    """An object as a listing has it. `key` is without the configuration's prefix."""

    key: str
    bytes: int
    at: datetime
    storage: str

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


@dataclass(frozen=True)
class Head:
    """An object as it is asked for. `readable`: at once."""

    bytes: int
    sha256: str
    """What it was uploaded with by this program; "" by another."""
    storage: str
    restore: str = ""
    """S3's own `x-amz-restore`."""

    @property
    def readable(self) -> bool:
        return self.storage not in COLD or 'ongoing-request="false"' in self.restore

    @property
    def thawing(self) -> bool:
        return 'ongoing-request="true"' in self.restore


class Store:
    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def profile(self) -> str | None:
        """Of AWS's own files, where one is asked for: "default" need not be there."""
        config = self.config
        return None if config.credentials is not None or config.profile == "default" else config.profile

    @functools.cached_property
    def client(self) -> Any:
        """A client of botocore, which is half of what importing boto3 costs: a WAL file each time."""
        import botocore.session
        from botocore.config import Config as Settings
        from botocore.exceptions import BotoCoreError

        config = self.config
        try:
            return botocore.session.Session(profile=self.profile).create_client(
                "s3",
                region_name=config.region,
                endpoint_url=config.endpoint,
                verify=config.ca,
                config=Settings(
                    connect_timeout=CONNECT_S,
                    read_timeout=READ_S,
                    retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                    s3={"addressing_style": config.addressing},
                    max_pool_connections=max(AT_ONCE, 2 * config.processes),
                    # Ours are of the whole content, and S3 compares them: a second one would be computed besides.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
                **keys_of(config),
            )
        except (BotoCoreError, ValueError) as error:
            raise Unusable(f"{config.path}: no client can be made of it: {error}; its owner must mend it") from error

    @functools.cached_property
    def managed(self) -> Any:
        """boto3's, which copies what is larger than one request may be."""
        import boto3
        from botocore.config import Config as Settings

        config = self.config
        return boto3.session.Session(profile_name=self.profile, **keys_of(config)).client(
            "s3",
            region_name=config.region,
            endpoint_url=config.endpoint,
            verify=config.ca,
            config=Settings(
                connect_timeout=CONNECT_S,
                # A copy of five gigabytes is one request.
                read_timeout=300,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                s3={"addressing_style": config.addressing},
                max_pool_connections=AT_ONCE * 2,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.config.bucket, "Key": self.config.prefix + key}

    @contextlib.contextmanager
    def asking(self, what: str, key: str) -> Iterator[None]:
        """Turns what a call raises into what it means: NotThere, Frozen, Unusable, Unreachable."""
        import urllib3.exceptions
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        where = self.config.where(key)
        try:
            yield
        except ClientError as error:
            raise self._meaning(error, what, where) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            told = "name a file in `credentials`, or give the machine a role"
            raise Unusable(f"{what} {where}: {error}; {self.config.path}'s owner must {told}") from error
        except (BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"{what} {where}: {error}; whoever runs the store and the network must look") from error

    def _meaning(self, error: Any, what: str, where: str) -> ArchiveError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        told = f"{what} {where}: {status} {code} {error.response.get('Error', {}).get('Message', '')}".rstrip()
        # Of a HEAD, which has no body, the status is all there is.
        if code == "NoSuchKey" or (what == "HEAD" and status == 404):
            return NotThere(f"{where} is not there")
        if code == "NoSuchBucket":
            return Unusable(f"{told}; {self.config.path}'s owner must name the bucket that there is")
        if code == "InvalidObjectState":
            return Frozen(f"{where} is in an archive class, and must be thawed first")
        if code in _REFUSED:
            return Unreachable(f"{told}; the bucket's owner must let these credentials in")
        if code == "BadDigest":
            return Damaged(f"{told}; what arrived is not what was sent")
        return Unreachable(f"{told}; whoever runs the store must look")

    def head(self, key: str) -> Head | None:
        try:
            with self.asking("HEAD", key):
                found = self.client.head_object(**self.at(key))
        except NotThere:
            return None
        return Head(
            bytes=found["ContentLength"],
            sha256=found.get("Metadata", {}).get("sha256", ""),
            storage=found.get("StorageClass") or "STANDARD",
            restore=found.get("Restore", ""),
        )

    def put_text(self, key: str, body: bytes, *, once: bool = True) -> bool:
        """`put` of what is small enough to be held."""
        return self.put(key, body, hashlib.sha256(body).digest(), once=once)

    def put(self, key: str, body: IO[bytes] | bytes, sha256: bytes, *, once: bool = True) -> bool:
        """False: something is there, and stays. S3 itself compares what arrives with the checksum.

        `once` is a condition of the request; a store that does not know it (`conditional = no`) must be asked before
        (`head`).
        """
        import base64

        more = self.once if once else {}
        try:
            with self.asking("PUT", key):
                self.client.put_object(
                    **self.at(key),
                    **more,
                    Body=body,
                    ChecksumSHA256=base64.b64encode(sha256).decode(),
                    Metadata={"sha256": sha256.hex()},
                )
        except Unreachable as error:
            code = _code_of(error)
            if code in ("PreconditionFailed", "ConditionalRequestConflict"):
                return False
            if more and code == "NotImplemented":
                raise Unusable(f"{error}: {self.unconditional}") from error
            raise
        return True

    @property
    def once(self) -> dict[str, str]:
        """The condition that nothing is there, which the request itself carries."""
        return {"IfNoneMatch": "*"} if self.config.conditional else {}

    @property
    def unconditional(self) -> str:
        """Who must act on a store that does not know the condition."""
        return (
            "the store does not know If-None-Match, by which nothing is overwritten; its owner must look for another,"
            f" or {self.config.path}'s write `conditional = no`: then of two servers that archive to one place at once"
            " the later overwrites"
        )

    def get(self, key: str, *, first: int = 0, count: int | None = None) -> tuple[Any, Head]:
        """A stream of the object, or of `count` bytes of it, and what it is."""
        more = {} if count is None else {"Range": f"bytes={first}-{first + count - 1}"}
        with self.asking("GET", key):
            found = self.client.get_object(**self.at(key), **more)
        head = Head(
            bytes=found["ContentLength"],
            sha256=found.get("Metadata", {}).get("sha256", ""),
            storage=found.get("StorageClass") or "STANDARD",
            restore=found.get("Restore", ""),
        )
        if count is not None and head.bytes != count:
            where = self.config.where(key)
            raise Damaged(f"{where} ends at {first + head.bytes}, and {first + count} bytes of it are needed")
        return found["Body"], head

    def read(self, key: str) -> bytes:
        """A small object."""
        body, _ = self.get(key)
        with self.asking("GET", key):
            return bytes(body.read())

    def objects(self, prefix: str, *, after: str = "", most: int = 0) -> Iterator[Stored]:
        """Objects whose key begins so, in the order of their names; those behind `after` alone, and `most` at most."""
        whole, told = self.config.prefix, 0
        more: dict[str, Any] = {"StartAfter": whole + after} if after else {}
        while True:
            if most:
                more["MaxKeys"] = min(1000, most - told)
            with self.asking("LIST", prefix):
                page = self.client.list_objects_v2(Bucket=self.config.bucket, Prefix=whole + prefix, **more)
            for each in page.get("Contents", []):
                told += 1
                yield Stored(
                    key=each["Key"][len(whole) :],
                    bytes=each["Size"],
                    at=each["LastModified"],
                    storage=each.get("StorageClass") or "STANDARD",
                )
            if not page.get("IsTruncated") or (most and told >= most):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def remove(self, keys: Sequence[str]) -> None:
        for at in range(0, len(keys), 1000):
            some = [{"Key": self.config.prefix + key} for key in keys[at : at + 1000]]
            with self.asking("DELETE", keys[at]):
                done = self.client.delete_objects(Bucket=self.config.bucket, Delete={"Objects": some, "Quiet": True})
            if failed := done.get("Errors"):
                told = f"{failed[0].get('Code')} {failed[0].get('Message')}"
                raise Unreachable(
                    f"DELETE s3://{self.config.bucket}/{failed[0]['Key']}: {told} ({len(failed)} objects)"
                )

    def thaw(self, key: str) -> bool:
        """Ask for it to be made readable; False: that was asked before, or it is gone."""
        thaw = self.config.thaw
        request: dict[str, Any] = {"Days": thaw.days, "GlacierJobParameters": {"Tier": thaw.tier}}
        try:
            with self.asking("RESTORE", key):
                self.client.restore_object(**self.at(key), RestoreRequest=request)
        except NotThere:
            return False
        except Unreachable as error:
            if _code_of(error) == "RestoreAlreadyInProgress":
                return False
            raise
        return True

    def side_by_side(self, act: Any, items: Iterable[Any], at_once: int = AT_ONCE) -> list[Any]:
        """The results in the items' order; the first failure ends it."""
        _ = self.client  # made by one
        with ThreadPoolExecutor(at_once) as pool:
            try:
                return list(pool.map(act, items))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _code_of(error: BaseException) -> str:
    cause: Any = error.__cause__
    return str((getattr(cause, "response", None) or {}).get("Error", {}).get("Code", ""))
