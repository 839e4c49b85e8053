"""A fleet on Ray: an actor for each GPU that runs a server, and a registry that knows them all and how many to have.

`plan` and `table` are rules, with values in and out. `registry` and `server` are what runs in Ray's actors; `cluster`
is how the `fleet` command reaches them, once `access` has seen that strangers can't. Imports Ray, and is imported only
when that is asked for.
"""

__all__ = ["cluster", "plan"]
