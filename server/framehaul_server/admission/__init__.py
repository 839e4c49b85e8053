"""Who gets one of the server's session slots, who queues for one, and which ended calls still count.

Runs in the server process, on the event loop. Knows asyncio, and no gRPC.
"""

__all__ = ["places", "unread_calls"]
