import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from framehaul_pipeline.errors import Overloaded
from framehaul_server.admission.reading import Reader, Reading
from framehaul_server.errors import ClientSilent

LONG_S = 60.0


class Client:
    """A call whose request comes when the test says so."""

    def __init__(self, reading: Reading, reader: Reader) -> None:
        self.is_read = False
        self._came = asyncio.Event()
        self.task = asyncio.ensure_future(reading.read(reader, self._read))

    async def _read(self) -> str:
        self.is_read = True
        try:
            await self._came.wait()
        finally:
            self.is_read = False
        return "request"

    async def send(self) -> str:
        self._came.set()
        return await asyncio.wait_for(self.task, 60)


class Clients:
    """Those of one `Reading`."""

    def __init__(self, most: int, grace_s: float, timeout_s: float) -> None:
        self.reading = Reading(most, grace_s=grace_s, timeout_s=timeout_s)
        self.all: list[Client] = []

    async def call(self, tenant: str = "film", connection: str = "1", most: int | None = None) -> Client:
        client = Client(self.reading, Reader(tenant, connection, most))
        self.all.append(client)
        await settle()
        return client

    def pass_grace(self) -> None:
        """Everybody who is read has been so for long."""
        for request in self.reading._reading:
            request.started_s -= 2 * LONG_S

    def are_read(self) -> list[bool]:
        return [client.is_read for client in self.all]


@asynccontextmanager
async def clients(most: int = 4, *, grace_s: float = LONG_S, timeout_s: float = LONG_S) -> AsyncIterator[Clients]:
    found = Clients(most, grace_s, timeout_s)
    yield found
    for client in found.all:
        client.task.cancel()
    await asyncio.gather(*(client.task for client in found.all), return_exceptions=True)
    assert not found.reading._reading
    assert not found.reading._waiting
    assert not found.reading._tenants
    assert not found.reading._connections
    assert found.reading._next_look is None


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def is_sent_away(client: Client) -> bool:
    with pytest.raises(Overloaded, match="the request gave way: ") as refusal:
        await asyncio.wait_for(client.task, 60)
    return refusal.value.retry_after_s > 0


@pytest.mark.asyncio
async def test_so_many_are_read_at_a_time_and_the_newest_comes_next() -> None:
    """Nothing of the others is asked for."""
    async with clients(2) as they:
        for _ in range(5):
            await they.call()
        assert they.are_read() == [True, True, False, False, False]
        assert await they.all[0].send() == "request"
        await settle()
        assert they.are_read() == [False, True, False, False, True]
        they.all[3].task.cancel()
        await settle()
        assert await they.all[4].send() == "request"
        await settle()
        assert they.are_read() == [False, True, True, False, False]


@pytest.mark.asyncio
async def test_a_request_that_takes_long_gives_way_to_the_newest() -> None:
    """Of those that do, the newest does: the older half goes on, so that a slow one comes to its end."""
    async with clients(4) as they:
        for _ in range(4):
            await they.call()
        they.pass_grace()
        late = await they.call()
        assert late.is_read
        assert await is_sent_away(they.all[3])
        assert they.are_read() == [True, True, True, False, True]
        assert [await client.send() for client in (they.all[0], late)] == ["request"] * 2


@pytest.mark.asyncio
async def test_who_has_come_a_moment_ago_is_left_its_moment() -> None:
    """The next one waits for that, and is read then without any other event."""
    async with clients(2, grace_s=0.01) as they:
        for _ in range(3):
            await they.call()
        assert await is_sent_away(they.all[1])
        await settle()
        assert they.are_read() == [True, False, True]


@pytest.mark.asyncio
async def test_who_says_nothing_is_ended_in_time_whether_it_is_read_or_waits() -> None:
    async with clients(2, timeout_s=0.01) as they:
        for client in [await they.call() for _ in range(3)]:
            with pytest.raises(ClientSilent, match=r"no request came within 0\.01 s"):
                await asyncio.wait_for(client.task, 60)


@pytest.mark.asyncio
async def test_one_tenant_that_says_nothing_takes_no_turn_from_another() -> None:
    async with clients(4) as they:
        silent = [await they.call("ads", str(number)) for number in range(6)]
        film = await they.call("film")
        assert not film.is_read
        they.pass_grace()
        more = await they.call("film")
        assert (film.is_read, more.is_read) == (True, True)
        assert sum(client.is_read for client in silent) == 2
        assert await film.send() == "request"
        await settle()
        they.pass_grace()
        late = await they.call("ads", "9")
        assert (late.is_read, more.is_read) == (True, True)


@pytest.mark.asyncio
async def test_a_tenant_with_fewer_read_loses_none_to_one_with_more() -> None:
    """Nor does one of as many: who comes takes the turn of its own tenant's."""
    async with clients(4) as they:
        for tenant in ("ads", "ads", "film", "film"):
            await they.call(tenant)
        they.pass_grace()
        ads = await they.call("ads", "2")
        assert ads.is_read
        assert they.are_read() == [True, False, True, True, True]
        games = await they.call("games")
        assert games.is_read
        film = await they.call("film", "2")
        assert (film.is_read, they.all[2].is_read) == (True, False)


@pytest.mark.asyncio
async def test_one_connection_of_silent_calls_takes_no_turn_from_another() -> None:
    """Of one tenant, or of none: calls of the fullest connection give way, and on it only for its own."""
    async with clients(4) as they:
        for connection in ("1", "1", "2", "2"):
            await they.call(connection=connection)
        they.pass_grace()
        third = await they.call(connection="3")
        assert third.is_read
        assert await is_sent_away(they.all[3])
        they.pass_grace()
        full = await they.call(connection="1")
        assert not full.is_read
        assert they.are_read() == [True, True, True, False, True, False]
        own = await they.call(connection="3")
        assert (own.is_read, third.is_read) == (True, False)


@pytest.mark.asyncio
async def test_a_tenants_own_limit_counts_too() -> None:
    """Only its own calls give way to it; others have the rest."""
    async with clients(8) as they:
        for _ in range(4):
            await they.call("film", most=2)
        other = await they.call("ads")
        assert they.are_read() == [True, True, False, False, True]
        they.pass_grace()
        late = await they.call("film", most=2)
        assert late.is_read
        assert they.are_read() == [True, False, False, False, True, True]
        assert await other.send() == "request"


@pytest.mark.asyncio
async def test_so_many_wait_and_no_more() -> None:
    """Who has waited longest is sent away, of those whose tenants and connections have most."""
    async with clients(2) as they:
        await they.call("ads")
        first = [await they.call("film", most=2) for _ in range(65)][1]
        assert not first.task.done()
        late = await they.call("games")
        assert await is_sent_away(first)
        assert not late.task.done()


@pytest.mark.asyncio
async def test_who_is_out_of_time_when_it_has_to_give_way_is_ended_once() -> None:
    """In the same turn of the loop."""
    async with clients(2) as they:
        await they.call()
        late = await they.call()
        they.pass_grace()
        they.all.append(Client(they.reading, Reader("film", "1")))  # begins before `late` hears of its time
        newest = list(they.reading._reading)[-1]
        newest.timeout._on_timeout()  # type: ignore[attr-defined]
        assert await is_sent_away(late)
        assert they.all[-1].is_read
