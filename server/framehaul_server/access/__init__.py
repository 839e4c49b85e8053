"""Who calls: tokens, tenants and TLS certificates, read again when their files change.

Runs in the server process. Reads files; knows no session. gRPC only to hand it certificates.
"""

__all__ = ["callers", "reload", "tls", "tokens"]
