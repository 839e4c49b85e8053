"""Just enough HTTP/2 by hand to say what no gRPC library would."""

import contextlib
import select
import socket
import ssl
import struct
from types import TracebackType
from typing import Self

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
_FRAME_BYTES = 16384


class Http2:
    """A connection to a server, without TLS unless there is a context for it; stream 1 is its first call."""

    def __init__(self, target: str, tls: ssl.SSLContext | None = None) -> None:
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._window = 65535
        """Of a stream, at its start."""
        self._credit = {0: 65535}
        self._withheld: dict[int, int] = {}
        """Bytes still to be sent on each stream, but for the last one."""
        self.send(SETTINGS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> None:
        header = struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
        self._socket.sendall(header + payload)

    def receive(self) -> tuple[int, bytes] | None:
        """The next frame's kind and payload, None at the end; settings and pings are answered, credit is counted."""
        header = self._read(9)
        if header is None:
            return None
        kind, stream = header[3], struct.unpack(">I", header[5:])[0]
        payload = self._read(int.from_bytes(header[:3], "big")) or b""
        if kind == SETTINGS and not header[4] & ACK:
            for number, value in struct.iter_unpack(">HI", payload):
                if number == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                    self._credit = {
                        stream: credit + (value - self._window if stream else 0)
                        for stream, credit in self._credit.items()
                    }
                    self._window = value
            self._acknowledge(SETTINGS)
        if kind == PING and not header[4] & ACK:
            self._acknowledge(PING, payload)
        if kind == RST_STREAM:
            self._withheld.pop(stream, None)
        if kind == WINDOW_UPDATE:
            self._credit[stream] = self._credit.get(stream, self._window) + struct.unpack(">I", payload)[0]
        return kind, payload

    def call(self, path: str, stream: int = 1, **metadata: str) -> None:
        """Start a call."""
        self._credit[stream] = self._window
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "te": "trailers",
            "content-type": "application/grpc",
            **{name.replace("_", "-"): value for name, value in metadata.items()},
        }
        block = b"".join(
            b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
            for name, value in fields.items()
        )
        self.send(HEADERS, block, flags=END_HEADERS, stream=stream)

    def data(self, payload: bytes, stream: int = 1) -> bool:
        """Send it as the server's credit allows; False when the server has ended a call first."""
        for start in range(0, len(payload), _FRAME_BYTES):
            part = payload[start : start + _FRAME_BYTES]
            while min(self._credit[0], self._credit[stream]) < len(part):
                frame = self.receive()
                if frame is None or frame[0] in (RST_STREAM, GOAWAY, HEADERS):
                    return False
            for each in (0, stream):
                self._credit[each] -= len(part)
            self.send(DATA, part, stream=stream)
        return True

    def flood(self, kind: int, payload: bytes, *, num_frames: int) -> None:
        """Send a frame again and again in one large write, until the server takes nothing for 1 s."""
        header = struct.pack(">I", len(payload))[1:] + bytes((kind, 0)) + bytes(4)
        self._socket.settimeout(1.0)
        with contextlib.suppress(OSError):
            self._socket.sendall((header + payload) * num_frames)
        self._socket.settimeout(30.0)

    def announce(self, num_bytes: int, stream: int) -> None:
        """Begin a message, whose last byte will never come."""
        self.data(b"\0" + struct.pack(">I", num_bytes), stream)
        self._withheld[stream] = num_bytes - 1

    def push(self) -> int:
        """Send more of what was announced, as far as the server lets go on without waiting; bytes that went."""
        while select.select([self._socket], [], [], 0)[0]:
            if self.receive() is None:
                self._withheld.clear()
                return 0
        num_sent = 0
        for stream, left in self._withheld.items():
            size = min(left, _FRAME_BYTES, self._credit[0], self._credit[stream])
            if size:
                try:
                    self.data(bytes(size), stream)
                except OSError:  # sent away
                    self._withheld.clear()
                    return 0
                self._withheld[stream] -= size
                num_sent += size
        return num_sent

    def until(self, *kinds: int) -> tuple[int, bytes] | None:
        """Receive up to a frame of these kinds."""
        while (frame := self.receive()) is not None and frame[0] not in kinds:
            pass
        return frame

    def _acknowledge(self, kind: int, payload: bytes = b"") -> None:
        with contextlib.suppress(
            BrokenPipeError, ssl.SSLEOFError
        ):  # a server that sends this client away may be gone already
            self.send(kind, payload, flags=ACK)

    def _read(self, count: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < count:
            try:
                part = self._socket.recv(count - len(parts))
            except (ConnectionResetError, ssl.SSLEOFError):
                part = b""
            if not part:
                return None
            parts += part
        return bytes(parts)
