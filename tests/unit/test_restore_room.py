"""What a restore host must have before a byte is written to it."""

from __future__ import annotations

import pytest
from temporalio.testing import ActivityEnvironment

from activities import restoring
from activities.jobs import Answers
from schemas.backup import FolderHost
from schemas.failures import NoRoomToRestore, RestoreFailed
from schemas.restores import RoomOrder

GB = 1 << 30
HOST = FolderHost(name="restore-1", region="eu-west-1", directory="/srv/lifeboat", bin="/usr/bin")


async def look(monkeypatch: pytest.MonkeyPatch, host: FolderHost, **answers: str) -> int:
    async def ask(order: object, *words: str) -> Answers:
        assert words == ("room",)
        return {name: [value] for name, value in answers.items()}

    monkeypatch.setattr(restoring, "ask", ask)
    monkeypatch.setattr(RoomOrder, "host", host)
    order = RoomOrder.model_construct(service=None, run="r", copy_name="c", bytes=GB)
    free: int = await ActivityEnvironment().run(restoring.look_for_room, order)
    return free


async def test_the_copy_and_what_must_be_left(monkeypatch) -> None:
    assert await look(monkeypatch, HOST, room_kb=str(2 * GB // 1024), used_kb="0") == 2 * GB
    assert await look(monkeypatch, HOST, room_kb=str(GB // 1024), used_kb=str(GB // 1024)) == GB
    with pytest.raises(NoRoomToRestore, match=r"restore-1: /srv/lifeboat has"):
        await look(monkeypatch, HOST, room_kb=str(2 * GB // 1024 - 1), used_kb="0")


async def test_a_network_of_its_own_is_asked_for_only_where_it_is_declared(monkeypatch) -> None:
    told = {"room_kb": str(2 * GB // 1024), "used_kb": "0", "shared": "no network namespace can be had: unshare: no"}
    assert await look(monkeypatch, HOST, **told) == 2 * GB
    assert await look(monkeypatch, HOST.model_copy(update={"isolation": "configuration"}), **told) == 2 * GB
    demands = HOST.model_copy(update={"isolation": "namespace"})
    with pytest.raises(RestoreFailed, match=r"restore-1: no network namespace .* its owner must let .* then retry"):
        await look(monkeypatch, demands, **told)
    del told["shared"]
    assert await look(monkeypatch, demands, **told) == 2 * GB
