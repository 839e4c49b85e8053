"""Where frames end up: a video file, a stream of raw video, or images."""
