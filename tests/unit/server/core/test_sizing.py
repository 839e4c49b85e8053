from collections.abc import Iterable
from dataclasses import replace
from itertools import product

import pytest
import torch

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import DATA_TYPES, PIXEL_FORMATS
from framehaul_pipeline.decoders.tiny import read_tiny
from framehaul_pipeline.models.model import TINY_SPEC
from framehaul_pipeline.models.wan import parse_wan_config, wan_spec
from framehaul_pipeline.spec import DecoderSpec, Geometry
from framehaul_server.app import session_rules
from framehaul_server.config import ServerConfig
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.sizing import SessionNeeds
from framehaul_server.core.window import WindowLimits
from framehaul_server.session.session import Session
from tests.support.fakes import ANYBODY, FRAME_BYTES, GEOMETRY, SPEC, FakeWorker, opening, record, request, rules

CELLS = Geometry(channels=16, height=60, width=104)


def needs(spec: DecoderSpec, geometry: Geometry = CELLS, itemsize: int = 2, **told: bool) -> SessionNeeds:
    config = ServerConfig(**told)  # type: ignore[arg-type]
    slot_bytes = config.worker.slot_bytes
    return SessionNeeds.of(spec, geometry, session_rules(config), slot_bytes=slot_bytes, state_itemsize_bytes=itemsize)


@pytest.mark.parametrize(
    ("spec", "state_bytes"),
    [(TINY_SPEC, 138 * 480 * 832), (wan_spec("wan2.1", parse_wan_config({})), 1_888_573_440)],
    ids=lambda value: value.name if isinstance(value, DecoderSpec) else "",
)
def test_a_session_of_480x832_at_the_defaults(spec: DecoderSpec, state_bytes: int) -> None:
    assert needs(spec) == SessionNeeds(
        latent_bytes=16 * 60 * 104 * 2,
        frame_bytes=480 * 832 * 3,
        chunk_latents=4,
        window=WindowLimits(min_frames=4, max_frames=56),
        state_bytes=state_bytes,
        # 56 frames, 84 latents that wait, a request and what is kept.
        host_bytes=56 * 480 * 832 * 3 + 84 * 16 * 60 * 104 * 2 + (128 << 20),
    )


def test_reproducible_sessions_have_chunks_of_one_latent() -> None:
    assert needs(TINY_SPEC, reproducible=True).chunk_latents == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_state_is_what_the_decoder_counts(dtype: torch.dtype) -> None:
    """On a GPU as on the CPU, where its numbers are twice as wide."""
    decoder = read_tiny(torch.device("cpu"), dtype)
    assert needs(TINY_SPEC, itemsize=dtype.itemsize).state_bytes == decoder.state_bytes(CELLS)


@pytest.mark.parametrize(
    ("max_pixels", "formats"),
    [(1 << 16, PIXEL_FORMATS.values()), (96, (pb.PIXEL_FORMAT_RGB24, pb.PIXEL_FORMAT_YUV420P))],
)
def test_the_host_holds_what_the_most_demanding_session_counts_with(max_pixels: int, formats: Iterable[int]) -> None:
    """Of every mode, pixel format and number format that a client may ask for; half floats may be too large."""
    held_to = rules(window_bytes=10 * FRAME_BYTES, max_request_bytes=5000, journal_bytes=7000)
    held_to = replace(held_to, opening=replace(held_to.opening, max_pixels=max_pixels))
    explicit: dict[str, object] = {"mode": pb.MODE_EXPLICIT}
    modes: tuple[dict[str, object], ...] = ({}, explicit, {**explicit, "resume": pb.Resume()})
    asked = [
        opening(pixel_format=pixel_format, dtype=dtype, **mode)
        for pixel_format, dtype, mode in product(formats, DATA_TYPES.values(), modes)
    ]
    counts = [
        Session(request(open=each), FakeWorker(), held_to, record(), ANYBODY, Recorder(0)).max_waiting_bytes
        for each in asked
    ]
    told = SessionNeeds.of(SPEC, GEOMETRY, held_to, slot_bytes=1 << 16, state_itemsize_bytes=2)
    assert told.host_bytes == max(counts)
