"""What an operator sees of a running server, over HTTP: metrics for Prometheus, and a page for people.

Runs in the server process, on the event loop, and only reads: `view` says what there is to see. In a front's process
`targets` says where its servers are seen. May import every folder but `rpc`; only `app` and fronts import it, and only
when it is asked for.
"""

__all__ = ["http", "metrics", "page", "targets", "view"]
