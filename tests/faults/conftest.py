"""One lab for all scenarios of a session, laid anew before each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lab import lab as labs
from lab.model import Lab
from tests.faults.cache_scene import CacheScene
from tests.faults.restore_scene import RestoreScene, as_new
from tests.faults.scene import Scene, as_marked


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_lab() -> AsyncIterator[Lab]:
    lab = await labs.up(make_current=False)
    yield lab
    await labs.down(lab)


@pytest_asyncio.fixture(loop_scope="session")
async def scene(shared_lab: Lab, request: pytest.FixtureRequest) -> Scene:
    """The estate as new."""
    lab = await as_marked(shared_lab, request)
    return Scene(lab, await labs.connect(lab))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_cache_lab() -> AsyncIterator[Lab]:
    lab = await labs.up("cache", make_current=False)
    yield lab
    await labs.down(lab)


@pytest_asyncio.fixture(loop_scope="session")
async def cache_scene(shared_cache_lab: Lab, request: pytest.FixtureRequest) -> CacheScene:
    """The cache as new. `@pytest.mark.estate(watch=False, warming={…})` says what is different in this scenario."""
    marker = request.node.get_closest_marker("estate")
    options = dict(marker.kwargs) if marker else {}
    watch = options.pop("watch", True)
    lab = await labs.reset(shared_cache_lab, cache_overrides=options, watch=watch)
    return CacheScene(lab, await labs.connect(lab))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_backup_lab() -> AsyncIterator[Lab]:
    lab = await labs.up("backup", make_current=False)
    yield lab
    await labs.down(lab)


@pytest_asyncio.fixture(loop_scope="session")
async def restore_scene(shared_backup_lab: Lab, request: pytest.FixtureRequest) -> RestoreScene:
    """The database and its backups as new."""
    return await as_new(shared_backup_lab, request)
