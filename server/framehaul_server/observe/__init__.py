"""What an operator sees of a running server, over HTTP: metrics for Prometheus, and a page for people.

Runs in the server process, on the event loop, and only reads: `view` says what there is to see. May import every folder
but `rpc`; only `app` imports it, and only when it is asked for.
"""

__all__ = ["http", "metrics", "page", "view"]
