"""Eight clients that stop reading, more than there are slots, beside one that reads."""

import logging
import time
from contextlib import ExitStack

import psutil

from framehaul.v1 import frames_pb2 as pb
from tests.integration.conftest import StartServer
from tests.support.call import Call
from tests.support.server_process import SAME_CHUNKS, ServerProcess
from tests.support.waiting import wait_until

_log = logging.getLogger(__name__)

NUM_SLOTS = 4
NUM_STALLED = 8
WINDOW_BYTES = 1 << 20
FRAME_SIZE = 128
FRAME_BYTES = FRAME_SIZE * FRAME_SIZE * 3
MAX_WINDOW_FRAMES = WINDOW_BYTES // FRAME_BYTES
NUM_LATENTS = 16
MAX_ROUNDS = 24
"""The machine has other work too, which only slows: servers are measured in turns, and the best of each counts."""
NUM_FRAMES = 4 * NUM_LATENTS
# Flow control at the client that doesn't grow with what it doesn't read.
FIXED_WINDOW = {"grpc.http2.bdp_probe": 0, "grpc.http2.lookahead_bytes": 64 << 10}


def clip(seed: int) -> pb.Synthetic:
    return pb.Synthetic(num_latents=NUM_LATENTS, height=FRAME_SIZE, width=FRAME_SIZE, seed=seed)


def read_clip(server: ServerProcess, seed: int) -> tuple[list[int], float]:
    """Checksums of a clip's frames, and the frames per second."""
    with server.channel(**FIXED_WINDOW) as channel, Call(channel) as client:
        client.send(synthetic=clip(seed), end_of_latents=True)
        client.read_frames(4)
        started_s = time.perf_counter()
        frames = client.read_to_end()
        return frames, (NUM_FRAMES - 4) / (time.perf_counter() - started_s)


def worker_is_idle(server: ServerProcess) -> bool:
    """Nothing is decoded: the worker used no processor time for a while."""
    before = sum(server.worker().cpu_times()[:2])
    time.sleep(0.2)
    return sum(server.worker().cpu_times()[:2]) - before < 0.02


def test_stalled_clients_cost_their_windows_and_lose_nothing(server: ServerProcess, start_server: StartServer) -> None:
    """The reader keeps 0.8 of its speed, memory grows by less than the stalled windows, and the rest comes later."""
    other = server
    server = start_server("--allow-synthetic", "--slots", str(NUM_SLOTS), "--session-window-mib", "1", *SAME_CHUNKS)
    expected = [read_clip(server, seed)[0] for seed in range(2)]
    assert read_clip(other, 0)[0] == expected[0]
    process = psutil.Process(server.process.pid)
    with ExitStack() as stack:
        stalled = []
        before_bytes = process.memory_info().rss
        for number in range(NUM_STALLED):
            channel = stack.enter_context(server.channel(**FIXED_WINDOW))
            client = stack.enter_context(Call(channel))
            # Half of them read what their window allows and never acknowledge it; the others don't read at all.
            explicit = number % 2 == 0
            mode = pb.MODE_EXPLICIT if explicit else pb.MODE_AUTO
            opened = pb.Open(mode=mode, max_message_bytes=2 * FRAME_BYTES)
            client.send(open=opened, synthetic=clip(number % 2), end_of_latents=True)
            client.read_frames(MAX_WINDOW_FRAMES // 4 * 4 if explicit else 4)
            stalled.append(client)
        wait_until(lambda: worker_is_idle(server), "every stalled session at its window")
        load = server.load()
        assert (load.sessions, load.slots_in_use) == (NUM_STALLED, 0)
        grown_bytes = process.memory_info().rss - before_bytes
        assert grown_bytes < NUM_STALLED * WINDOW_BYTES

        beside = alone = 0.0
        for _ in range(MAX_ROUNDS):
            beside, alone = max(beside, read_clip(server, 9)[1]), max(alone, read_clip(other, 9)[1])
            if beside >= 0.8 * alone:
                break
        _log.info("frames/s: %.0f beside stalled clients, %.0f alone; grown by %d bytes", beside, alone, grown_bytes)
        assert beside >= 0.8 * alone

        for number, client in enumerate(stalled):
            while client.done is None:
                if number % 2 == 0:
                    client.send(ack=pb.Ack(next_frame=len(client.frames), window_frames=NUM_FRAMES))
                client.read()
            assert client.frames == expected[number % 2]
    server.expect_idle()
