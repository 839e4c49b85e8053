"""What makes a slot of frames checkable: checksums and the header. Runs on the worker's checksum thread."""

from __future__ import annotations

import time

import crc32c

from framehaul_pipeline.link.messages import Published
from framehaul_pipeline.rings.ring import Ring, SlotHeader
from framehaul_pipeline.worker.launch import InFlight


def stamp(ring: Ring, flight: InFlight) -> Published:
    """Checksum a completed chunk's frames and write its slot's header; what the server is told when it is published."""
    chunk, frame_bytes = flight.chunk, flight.frame_bytes
    decode_ns = time.monotonic_ns() - flight.launched_ns
    with ring.payload(flight.slot) as payload:
        checksums = tuple(
            crc32c.crc32c(payload[start : start + frame_bytes])
            for start in range(0, chunk.num_frames * frame_bytes, frame_bytes)
        )
    header = SlotHeader(flight.generation, chunk.session, chunk.first_frame, chunk.num_frames, frame_bytes)
    ring.write_header(flight.slot, header)
    return Published(
        session=chunk.session,
        slot=flight.slot,
        generation=flight.generation,
        first_latent=chunk.first_latent + len(chunk.latents) - sum(chunk.sizes),
        chunks=chunk.sizes,
        first_frame=chunk.first_frame,
        frame_bytes=frame_bytes,
        crc32c=checksums,
        decode_ns=decode_ns,
    )
