"""The server hears from a real worker what each tenant has had of the device."""

import pytest

from framehaul_pipeline.link.messages import DeviceTime
from framehaul_pipeline.supervision.supervisor import Supervisor
from tests.support.supervised import decode

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_feeder_hears_what_each_latent_cost(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """By that it feeds them."""
    epoch = supervisor._epoch
    assert epoch is not None
    charged: list[DeviceTime] = []
    monkeypatch.setattr(epoch._feeder, "charge", charged.append)
    await decode(supervisor, 5)
    assert sum(chunk.num_latents for chunk in charged) == 5
    assert all(chunk.session == charged[0].session and chunk.device_ns > 0 for chunk in charged)
