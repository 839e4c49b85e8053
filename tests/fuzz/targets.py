"""What is fuzzed: each target takes any bytes and must return, or raise what its code promises and nothing else.

Run by atheris (`make fuzz`), and for a moment by hypothesis in `make test`, over the same corpus.
"""

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError, Message

from framehaul import wire
from framehaul.safetensors import PREFIX_BYTES, MalformedHeader, header_bytes, parse_header
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import InvalidInput, PipelineError
from framehaul_pipeline.models.safetensors_files import read_header
from framehaul_server.core.latents import LatentInput, check_finite
from framehaul_server.core.open_request import read_open
from framehaul_server.errors import ServerError
from tests.support.fakes import latents, opening, rules

CORPUS: Final = Path(__file__).parent / "corpus"
_OPENING_RULES: Final = rules().opening
_MESSAGES: Final[tuple[type[Message], ...]] = (pb.StreamRequest, pb.StreamResponse, pb.RenderRequest)
_WEIGHTS_FD: Final = os.memfd_create("fuzzed weights")
_WEIGHTS: Final = Path(f"/proc/self/fd/{_WEIGHTS_FD}")


def codec(given: bytes) -> None:
    """What `split` takes, protobuf takes, and both find the same payload; `join` makes it again."""
    message_type = _MESSAGES[given[0] % len(_MESSAGES)] if given else pb.StreamRequest
    raw = given[1:]
    try:
        envelope = wire.split(raw, message_type)
    except wire.MalformedMessage:
        return
    payload_name = message_type.DESCRIPTOR.fields_by_number[wire.PAYLOAD_FIELD].name
    try:
        whole = message_type.FromString(raw)
    except DecodeError as error:
        raise AssertionError("protobuf refuses what split takes") from error
    assert getattr(whole, payload_name) == envelope.payload
    again = wire.split(wire.join(envelope.header, (envelope.payload,)), message_type)
    assert again.payload == envelope.payload
    assert again.header == envelope.header or again.header != again.header  # NaN in unknown fields


def validator(given: bytes) -> None:
    """A request is refused by name or opens a session whose latents are refused by name or taken."""
    try:
        first = wire.split_request(given)
        message, request = read_open(first.header, _OPENING_RULES)
        assert request.frame_bytes > 0
        assert message.IsInitialized()
        session_input = LatentInput(request)
        for index, latent in enumerate(session_input.accept(first.header, first.payload, latents_until=8)):
            check_finite(latent, request.opening.dtype, index)
        session_input.end()
    except (wire.MalformedMessage, PipelineError, ServerError) as error:
        assert str(error)  # noqa: PT017


def latents_header(given: bytes) -> None:
    """The check of a file's header: an error of ours, or tensors within the file."""
    try:
        num_bytes = header_bytes(given[:PREFIX_BYTES], len(given))
        header = parse_header(given[PREFIX_BYTES : PREFIX_BYTES + num_bytes], len(given))
    except MalformedHeader as error:
        assert str(error)  # noqa: PT017
        return
    for tensor in header.tensors.values():
        assert PREFIX_BYTES <= tensor.offset <= tensor.offset + tensor.num_bytes <= len(given)


def weights_header(given: bytes) -> None:
    """The worker's check of a weights file: refused by name, or whole and packed."""
    os.ftruncate(_WEIGHTS_FD, len(given))
    os.pwrite(_WEIGHTS_FD, given, 0)
    try:
        tensors = read_header(_WEIGHTS)
    except InvalidInput as error:
        assert str(error)  # noqa: PT017
        return
    assert sum(tensor.num_bytes for tensor in tensors.values()) < len(given)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target for target in (codec, validator, latents_header, weights_header)
}


def seeds(target: str) -> Iterator[bytes]:
    """Good inputs to begin with, and every input that once failed (`corpus/TARGET/`)."""
    request = wire.join(pb.StreamRequest(open=opening(), num_latents=2), (latents(2),))
    response = wire.join(pb.StreamResponse(frames=pb.Frames(num_frames=1, crc32c=[1])), (b"frame",))
    file = _safetensors({"latents": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}, 12)
    match target:
        case "codec":
            yield b"\0" + request
            yield b"\1" + response
            yield b"\2" + request
        case "validator":
            yield request
            yield wire.join(pb.StreamRequest(open=opening(mode=pb.MODE_EXPLICIT, window_frames=4)), ())
            yield wire.join(
                pb.StreamRequest(synthetic=pb.Synthetic(num_latents=1, height=8, width=12), end_of_latents=True), ()
            )
        case _:
            yield file
            yield file[:-1]
    folder = CORPUS / target
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            yield path.read_bytes()


def _safetensors(header: dict[str, object], num_bytes: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(num_bytes)
