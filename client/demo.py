"""`make demo`: a server with the built-in model on a free port, and one clip streamed through it into a file.

Runs the two commands a user would type, `server` and `client stream`, and stops the server afterwards.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OUTPUT = Path("out/video.mp4")


def main() -> int:
    """Return the client's exit code, or the server's when it didn't start."""
    commands = Path(sys.executable).parent
    OUTPUT.parent.mkdir(exist_ok=True)
    arguments = [str(commands / "server"), "--listen", "127.0.0.1:0", "--log-level", "warning", "--no-standby"]
    print("$ server --listen 127.0.0.1:0")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        ready = server.stdout.readline()
        try:
            if not ready:
                return server.wait()
            print(ready, end="")
            target = ready.partition(" on ")[2].split(",")[0]
            print(f"$ client stream --target {target} --out {OUTPUT}", flush=True)
            client = subprocess.run(
                [str(commands / "client"), "stream", "--target", target, "--out", str(OUTPUT)], check=False
            )
        finally:
            server.terminate()
    print("server stopped")
    return client.returncode


if __name__ == "__main__":
    sys.exit(main())
