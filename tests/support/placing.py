"""Reports of servers, and what is asked of a table of them."""

from framehaul.v1 import frames_pb2 as pb


def report(
    epoch: int,
    *,
    ready: bool = True,
    models: tuple[str, ...] = ("tiny",),
    state: float = 0.1,
    sessions: int = 0,
    max_sessions: int = 10,
    queued: int = 0,
    max_queued: int = 4,
    max_pixels: int = 1920 * 1080,
    memory: tuple[int, int] = (0, 0),
    epochs: tuple[int, ...] = (),
) -> pb.ServerInfo:
    """What a server says; `memory` is what there is for state, and what of it is used."""
    return pb.ServerInfo(
        epoch=epoch,
        ready=ready,
        models=[pb.ModelInfo(name=name, spatial_factor=8, state_bytes_per_pixel=state) for name in models],
        limits=pb.Limits(max_sessions=max_sessions, max_queued=max_queued, max_pixels=max_pixels),
        load=pb.Load(
            sessions=sessions,
            queued=queued,
            session_memory_bytes=memory[0],
            session_memory_used_bytes=memory[1],
        ),
        epochs=epochs,
    )


def ask(*, session_id: bytes = b"", model: str = "", geometry: pb.LatentGeometry | None = None) -> pb.LocateRequest:
    """Where a session should go."""
    return pb.LocateRequest(session_id=session_id, model=model, geometry=geometry)
