"""The server hears from a real worker what each tenant has had of the device."""

import pytest

from framehaul_pipeline.link.messages import DeviceTime
from tests.integration.pipeline.test_recovery import supervised
from tests.integration.pipeline.test_supervisor import CONFIG, Recorder, latents, open_session, push


@pytest.mark.asyncio
async def test_the_feeder_hears_what_each_latent_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """By that it feeds them."""
    async with supervised(CONFIG) as (supervisor, _):
        epoch = supervisor._epoch
        assert epoch is not None
        charged: list[DeviceTime] = []
        monkeypatch.setattr(epoch.feeder, "charge", charged.append)
        events = Recorder()
        session = open_session(supervisor, events)
        push(session, latents(5, seed=1))
        session.allow(5)
        session.end_latents()
        await events.ended()
    assert sum(chunk.num_latents for chunk in charged) == 5
    assert all(chunk.session == charged[0].session and chunk.device_ns > 0 for chunk in charged)
