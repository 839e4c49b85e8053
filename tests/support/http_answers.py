"""A web server with one answer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from framehaul_client.command.snapshots import MetricsAddress


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[MetricsAddress, list[tuple[str, str]]]]:
    """A server with one answer, and what it was asked: paths, and authorizations."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization", "")))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield MetricsAddress("127.0.0.1", server.server_port, None), asked
        finally:
            server.shutdown()
            thread.join()
