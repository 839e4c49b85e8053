"""Ways to move large messages between two processes, all measured alike: a server end and a client end for each."""
