"""The `client` command: options, progress, reports and exit codes.

Uses the client through its public door, as any program would.
"""
