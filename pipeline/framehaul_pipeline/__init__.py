"""The GPU side: rings, scheduler, worker process and decoders. Knows nothing of gRPC."""
