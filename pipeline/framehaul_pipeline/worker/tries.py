"""How often a job of the launch thread is tried: once more where the device was full and nothing has happened yet."""

from __future__ import annotations

from collections.abc import Callable

import torch

from framehaul_pipeline.worker.jobs import ChunkJob, MoveJob, OpenJob, RestoreJob
from framehaul_pipeline.worker.launch import InFlight

DeviceJob = MoveJob | ChunkJob


def try_job(
    job: DeviceJob,
    do: Callable[[DeviceJob], InFlight | None],
    *,
    failed: Callable[[DeviceJob, Exception], None],
    make_room: Callable[[], None],
) -> InFlight | None:
    """`do` a job; gives what is in flight then, None also when it `failed`.

    A chunk isn't tried again: its step may have changed the session's state.
    """
    tries_left = 1 if isinstance(job, OpenJob | RestoreJob) else 0
    while True:
        try:
            return do(job)
        except torch.OutOfMemoryError as error:
            if not tries_left:
                failed(job, error)
        except Exception as error:
            failed(job, error)
            return None
        # Only here, where the error's traceback is gone, are the failed work's tensors free.
        make_room()
        if not tries_left:
            return None
        tries_left -= 1
