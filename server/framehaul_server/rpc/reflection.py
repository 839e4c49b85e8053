"""The descriptors that reflection answers from, methods included. Pure."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor


class MethodPool:
    """The process's default descriptor pool, which here also finds a method by its full name.

    ghz asks for `package.Service.Method`; protobuf's pool finds the service by name and not its methods
    (grpc/grpc#34743, bojand/ghz#419).
    """

    def __init__(self) -> None:
        """Wrap the default pool."""
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the pool's own."""
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Return the file that declares `symbol`.

        Raises:
            KeyError: no file does.
        """
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindFileContainingSymbol(symbol.rpartition(".")[0])
