"""The frame server: one event loop that speaks gRPC and never imports torch."""
