"""Eight clients that stop reading, more than there are slots, beside one that reads."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import psutil

from framehaul.v1 import frames_pb2 as pb
from tests.integration.conftest import StartServer
from tests.integration.server.test_page import snapshot
from tests.support.call import Call
from tests.support.scrape import scrape
from tests.support.server_process import SAME_CHUNKS, ServerProcess
from tests.support.waiting import wait_until

NUM_SLOTS = 4
NUM_STALLED = 8
WINDOW_BYTES = 1 << 20
FRAME_SIZE = 128
FRAME_BYTES = FRAME_SIZE * FRAME_SIZE * 3
MAX_WINDOW_FRAMES = WINDOW_BYTES // FRAME_BYTES
NUM_LATENTS = 16
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


def all_wait(server: ServerProcess) -> bool:
    """Every session has as many frames as its window holds, or its client as many as it takes."""
    sessions = snapshot(server)["sessions"]
    return len(sessions) == NUM_STALLED and all(
        each["waiting_for"] in ("client's window", "network") for each in sessions
    )


def num_decoded(server: ServerProcess) -> float:
    return scrape(server.metrics_target).value("frames_decoded_total")


def test_stalled_clients_cost_their_windows_and_lose_nothing(
    start_server: StartServer, recovered: Callable[[str, float], None]
) -> None:
    """Memory grows by less than the stalled windows, the device is the reader's alone, and the rest comes later."""
    options = ("--allow-synthetic", "--slots", str(NUM_SLOTS), "--session-window-mib", "1", "--metrics", "127.0.0.1:0")
    server = start_server(*options, *SAME_CHUNKS)
    (expected, _), (other, _), (_, alone) = (read_clip(server, seed) for seed in (0, 1, 9))
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
        wait_until(lambda: all_wait(server), "every stalled session at its window")
        load = server.load()
        assert (load.sessions, load.slots_in_use) == (NUM_STALLED, 0)
        grown_bytes = process.memory_info().rss - before_bytes
        assert grown_bytes < NUM_STALLED * WINDOW_BYTES
        before = num_decoded(server)
        _, beside = read_clip(server, 9)
        assert num_decoded(server) - before == NUM_FRAMES
        recovered("frame of a reader alone", 1 / alone)
        recovered("frame of a reader beside stalled clients", 1 / beside)

        for number, client in enumerate(stalled):
            while client.done is None:
                if number % 2 == 0:
                    client.send(ack=pb.Ack(next_frame=len(client.frames), window_frames=NUM_FRAMES))
                client.read()
            assert client.frames == (expected, other)[number % 2]
    server.expect_idle()
