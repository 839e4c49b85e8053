"""Decoders: the contract in `base`, one module a decoder. For the worker process alone."""
