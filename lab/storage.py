"""Object storage of the lab: versitygw, an S3 server over a folder, with TLS from an authority of the lab's own.

Its calls are signed here by hand: a client of boto3 would look for the user's own profiles first. What makes
certificates and signatures is imported where it is needed: every command of the lab would wait 0.1 s for it.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

from lab.copying import make_equal
from lab.errors import LabError
from lab.layout import STORAGE
from lab.model import Lab, Node
from lab.owner import write_private

BUCKET = "lifeboat-backups"
_CALL_S = 20.0
_VERSIONED = """\
<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>
"""


def _stored(lab: Lab) -> Path:
    """All that it keeps: the objects, what is said of them, and their former versions."""
    return lab.paths.node(STORAGE) / "stored"


def command(lab: Lab, node: Node, program: Path) -> list[str]:
    folder, stored = lab.paths.node(node.name), _stored(lab)
    return [
        *(str(program), "--port", node.address, "--region", node.region, "--quiet"),
        *("--cert", str(folder / "server.pem"), "--key", str(folder / "server.key")),
        # Beside the objects, not in extended attributes, which not every file system has.
        *("posix", "--sidecar", str(stored / "side"), "--versioning-dir", str(stored / "versions")),
        str(stored / "data"),
    ]


def environment(lab: Lab) -> dict[str, str]:
    """Its root's key, which may do everything."""
    return {"ROOT_ACCESS_KEY_ID": lab.secret("s3-key"), "ROOT_SECRET_ACCESS_KEY": lab.secret("s3-secret")}


def write_storage(lab: Lab, node: Node) -> None:
    """The server's certificate and key, and its folder, which begins empty."""
    from lab.authority import certificates

    for each in (_stored(lab), *(_stored(lab) / name for name in ("data", "side", "versions"))):
        each.mkdir(mode=0o700)
    authority, certificate, key = certificates(node.host)
    folder = lab.paths.node(node.name)
    write_private(folder / "server.pem", certificate)
    write_private(folder / "server.key", key)
    lab.paths.authority.write_text(authority, encoding="ascii")
    lab.paths.authority.chmod(0o644)  # servers and restores check it, as another user


async def call(lab: Lab, method: str, path: str, body: str = "") -> str:
    """The text of its answer to one request; LabError when it gives none, or refuses."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    node = lab.node(STORAGE)
    request = AWSRequest(method=method, url=f"https://{node.address}/{path}", data=body.encode())
    keys = Credentials(lab.secret("s3-key"), lab.secret("s3-secret"))
    S3SigV4Auth(keys, "s3", node.region).add_auth(request)
    context = ssl.create_default_context(cafile=lab.paths.authority)
    try:
        async with httpx.AsyncClient(verify=context, timeout=_CALL_S, trust_env=False) as client:
            answer = await client.request(method, request.url, content=body.encode(), headers=dict(request.headers))
    except httpx.HTTPError as error:
        raise LabError(f"{node.name}: {method} {path}: {str(error) or type(error).__name__}") from error
    if not answer.is_success:
        raise LabError(f"{node.name}: {method} {path}: {answer.status_code} {answer.text[:300]}")
    return answer.text


async def make_bucket(lab: Lab) -> None:
    """The bucket of the backups, which keeps what is overwritten or deleted."""
    await call(lab, "PUT", BUCKET)
    await call(lab, "PUT", f"{BUCKET}?versioning", _VERSIONED)


def keep(lab: Lab) -> None:
    """Remember what is stored now. The server must be stopped."""
    make_equal(_stored(lab), lab.paths.stored)


def restore_storage(lab: Lab) -> None:
    """What was stored at the beginning. The server must be stopped."""
    make_equal(lab.paths.stored, _stored(lab))
