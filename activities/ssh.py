"""Commands over SSH. Nothing of the worker's own SSH set-up counts (~/.ssh, agents): the topology alone says how."""

from __future__ import annotations

import asyncio
import contextlib
import shlex

import asyncssh

from activities.commands import KEPT, TIMED_OUT
from activities.secrets import resolve
from schemas.control import SshControl
from schemas.failures import HostKeyChanged, NodeControlFailed, SecretUnavailable

CLOSE_S = 1.0


async def run_over_ssh(control: SshControl, argv: list[str]) -> tuple[int, str]:
    """Exit code and the end of what it printed; TIMED_OUT when it had not ended at its limit (it may run on there).

    NodeControlFailed when the node isn't reached, within `connect_timeout_s`; HostKeyChanged when it is not the node
    that known_hosts has. The login shell there gets the arguments quoted.
    """
    conn = await _connect(control)
    try:
        async with asyncio.timeout(control.timeout_s):
            done = await conn.run(
                shlex.join(argv), stdin=asyncssh.DEVNULL, stderr=asyncssh.STDOUT, encoding="utf-8", errors="replace"
            )
    except TimeoutError:
        conn.abort()
        return TIMED_OUT, f"no end within {control.timeout_s:g} s"
    except (asyncssh.Error, OSError) as error:
        raise NodeControlFailed(f"{_place(control)}: {error}") from error
    finally:
        conn.close()
        with contextlib.suppress(TimeoutError, asyncssh.Error, OSError):
            async with asyncio.timeout(CLOSE_S):
                await conn.wait_closed()
    if done.returncode is None:
        raise NodeControlFailed(f"{_place(control)}: the connection ended before {argv[0]} did")
    return done.returncode, str(done.stdout or "").strip()[-KEPT:]


async def _connect(control: SshControl) -> asyncssh.SSHClientConnection:
    key = _key(control)
    try:
        async with asyncio.timeout(control.connect_timeout_s):
            return await asyncssh.connect(
                control.host,
                control.port,
                username=control.user,
                client_keys=[key],
                known_hosts=control.known_hosts,
                config=None,
                agent_path=None,
                preferred_auth="publickey",
            )
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostKeyChanged(f"{_place(control)}, {control.known_hosts}: {error.reason}") from error
    except TimeoutError as error:
        told = f"{_place(control)}: no login within {control.connect_timeout_s:g} s"
        raise NodeControlFailed(told) from error
    except asyncssh.PermissionDenied as error:
        raise NodeControlFailed(f"{_place(control)}: the key is refused for {control.user}") from error
    except (asyncssh.Error, OSError, ValueError) as error:
        raise NodeControlFailed(f"{_place(control)}: {str(error) or type(error).__name__}") from error


def _key(control: SshControl) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_private_key((resolve(control.key) or "") + "\n")
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        # Not the library's own words: they might quote what was read.
        raise SecretUnavailable(f"{control.key} holds no private key without a passphrase") from error


def _place(control: SshControl) -> str:
    return f"{control.user}@{control.host}:{control.port}"
