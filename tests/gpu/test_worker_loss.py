"""A worker that dies in mid-chunk on the GPU: the standby replays through CUDA graphs; prints how long that took."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.faulty_worker import Harm
from tests.faults.running_app import RunningApp
from tests.faults.worker_loss import fragile_app, lose_worker

pytestmark = [pytest.mark.needs_cuda, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harm") / "once"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(once: Path) -> AsyncIterator[RunningApp]:
    async with fragile_app("cuda", once) as running:
        yield running


@pytest.mark.parametrize("harm", [Harm.KILL_DECODING, Harm.KILL_COPYING, Harm.KILL_STAMPING], ids=lambda h: h.name)
async def test_a_session_goes_on_with_the_standby(
    app: RunningApp, once: Path, harm: Harm, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every frame once, bit for bit: before the chunk is launched, while it is copied, before it is published."""
    took_s = await lose_worker(app, harm, once)
    with capsys.disabled():
        print(f"\n{harm.name.lower()}: worker dead -> next frame at the client: {took_s:.3f} s")  # noqa: T201
