"""Values in, values out: what a session may ask, hold, send and keep, and which server it goes to.

Runs in the server process, on the event loop. Does no I/O and knows neither asyncio nor gRPC.
"""

__all__ = [
    "grant",
    "highlight_request",
    "highlight_totals",
    "journal",
    "latents",
    "limits",
    "open_request",
    "packing",
    "placement",
    "queue_order",
    "recorder",
    "responses",
    "retention",
    "session_id",
    "session_view",
    "sizing",
    "tenants",
    "time_account",
    "trace",
    "window",
]
