"""Whose request is read, who gets one of the server's session slots or queues for one, and which ended calls count.

Runs in the server process, on the event loop. Knows asyncio, and no gRPC.
"""

__all__ = ["places", "reading", "unread_calls"]
