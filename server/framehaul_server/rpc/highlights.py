"""The handler of `framehaul.v1.HighlightService`. Runs on the event loop."""

from __future__ import annotations

import logging
import time
from typing import Final

import grpc

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul.v1 import highlights_pb2
from framehaul_pipeline.errors import OutOfOrder
from framehaul_server.access.callers import Identify
from framehaul_server.admission.places import Admission, Claim
from framehaul_server.admission.reading import Reader, Reading
from framehaul_server.core.highlight_request import HighlightAsked
from framehaul_server.core.limits import most_read
from framehaul_server.highlight.readers import ReaderPlaces
from framehaul_server.highlight.request import HighlightWork, Request, Surroundings
from framehaul_server.logs import SessionRecord
from framehaul_server.rpc.boundary import guard, new_record
from framehaul_server.rpc.connection import Context, Messages, own_errors
from framehaul_server.session.connection import leading_error

SERVICE: Final = "framehaul.v1.HighlightService"
METHOD: Final = f"/{SERVICE}/Highlight"

_log = logging.getLogger(__name__)


class _Connection:
    """A `Highlight` call; as `session.connection.Connection`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._messages = Messages(context)

    async def read(self) -> Request | None:
        raw = await self._messages.read()
        return None if raw is None else wire.split(raw, highlights_pb2.HighlightRequest)

    async def write(self, message: bytes) -> None:
        with own_errors():
            await self._context.write(message)


class HighlightService:
    """Searches films, each in the place of a session."""

    def __init__(
        self,
        around: Surroundings,
        *,
        identify: Identify,
        admission: Admission,
        reading: Reading,
        max_request_bytes: int,
    ) -> None:
        """Serve those whom `identify` knows."""
        self._around = around
        self._identify = identify
        self._admission = admission
        self._reading = reading
        self._max_request_bytes = max_request_bytes

    def handler(self) -> grpc.GenericRpcHandler:
        """What a `grpc.aio.server` takes; bytes pass untouched."""
        return grpc.method_handlers_generic_handler(
            SERVICE, {"Highlight": grpc.stream_stream_rpc_method_handler(self.highlight)}
        )

    @property
    def readers(self) -> ReaderPlaces:
        """Of all its films."""
        return self._around.readers

    def info(self) -> pb.HighlightInfo:
        """What it offers, and how busy it is."""
        rules = self._around.rules
        return pb.HighlightInfo(
            model=rules.model.name if rules.model is not None else "",
            reads_text=rules.model is not None and rules.model.reads_text,
            saliency=rules.has_saliency,
            has_films=rules.has_root,
            max_upload_bytes=rules.max_upload_bytes,
            readers=self.readers.number,
            readers_in_use=self.readers.num_held,
        )

    async def highlight(self, _requests: object, context: Context) -> None:
        """A film and what is searched for in; scores and frames out."""
        record = new_record("Highlight", context)
        try:
            await guard(context, record, self._serve(context, record))
        finally:
            self._around.totals.ended[record.tenant or "", record.cause] += 1
            _log.info("%s", record.line())

    async def _serve(self, context: Context, record: SessionRecord) -> None:
        tenant = self._identify(context.invocation_metadata() or ()).tenant
        record.tenant = tenant.name
        connection = _Connection(context)
        self._admission.check_room(tenant)
        most = most_read(tenant, self._max_request_bytes)
        reader = Reader(tenant=tenant.name, connection=context.peer(), most=most)
        first = await self._reading.read(reader, connection.read)
        claim = self._admission.enter(tenant)
        try:
            if first is None or not first.header.HasField("open"):
                raise OutOfOrder("the first request must have `open`")
            asked = HighlightAsked.of(first.header.open, self._around.rules)
            await self._place(claim, first.num_bytes)
            del first
            await HighlightWork(asked, self._around, connection, record.request_id).run()
        except BaseExceptionGroup as group:
            raise leading_error(group) from None
        finally:
            self._admission.release(claim)

    async def _place(self, claim: Claim, num_bytes: int) -> None:
        self._admission.ask(claim, asked_ns=time.monotonic_ns(), num_bytes=num_bytes, request_bytes=num_bytes)
        if not claim.held:
            await self._admission.wait(claim)
