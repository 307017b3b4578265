"""Where the reports of runs are kept: as JSON for programs and as a page for people."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Declared, Url


class S3Reports(Declared):
    """Objects in a bucket. `endpoint`: a URL, for a store that is not AWS's."""

    kind: Literal["s3"] = "s3"
    bucket: str
    prefix: str = "lifeboat/reports"
    region: str
    endpoint: Url | None = None

    def reference(self, name: str) -> str:
        return f"s3://{self.bucket}/{self.key(name)}"

    def key(self, name: str) -> str:
        return "/".join(part for part in (self.prefix.strip("/"), name) if part)


class FolderReports(Declared):
    """Files in a folder that every worker sees, a network file system for instance."""

    kind: Literal["folder"] = "folder"
    path: str = Field(pattern="^/")

    def reference(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"


ReportStore = Annotated[S3Reports | FolderReports, Field(discriminator="kind")]
