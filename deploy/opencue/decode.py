"""Decodes a clip's latents at a Framehaul server into pictures, on an OpenCue farm: a chunk of frames a frame of its.

    python decode.py 010 /shots/010.safetensors '/shots/010/%06d.png' --frames 0-320 --target gpu7:50051

Needs opencue-pyoutline and packaging (PyPI), and an outline.cfg; `--print` shows the job's specification and launches
nothing. Token and certificates come from the environment of the farm's hosts (FRAMEHAUL_TOKEN_FILE, ...). docs/farms.md
says more.
"""

from __future__ import annotations

import argparse
import shlex
import sys

import outline.backend.cue
import outline.cuerun
import outline.modules.shell


def make_outline(given: argparse.Namespace) -> outline.Outline:
    """The job: one layer, whose frames are chunks of the clip's."""
    ol = outline.Outline(f"framehaul_{given.name}", frame_range=given.frames)
    command = [given.client, "stream", given.latents, "--out", given.out]
    if given.target is not None:
        command += ["--target", given.target]
    layer = outline.modules.shell.Shell(
        "decode",
        # The farm puts a chunk's first and last frame in here.
        command=[*map(shlex.quote, command), "--frames", "#FRAME_START#-#FRAME_END#", "--quiet", "--progress", "json"],
        chunk=given.chunk,
        range=given.frames,
        service="shell",
        # The client says something each second, also in the server's queue. Silence means that it hangs; minutes.
        timeout_llu=5,
        # It decodes nothing itself.
        cores=1.0,
        memory="1g",
    )
    ol.add_layer(layer)
    return ol


def main() -> None:
    """Launch the job, or show it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the job")
    parser.add_argument("latents", help="a safetensors file")
    parser.add_argument("out", help="a pattern of pictures, such as '/shots/010/%%06d.png'")
    parser.add_argument("--frames", required=True, metavar="A-B", help="of the clip, counted from 0")
    parser.add_argument("--chunk", type=int, default=80, metavar="N", help="frames at a time (default: 80)")
    parser.add_argument("--target", metavar="HOST:PORT", help="the server (default: that of the hosts' environment)")
    parser.add_argument("--client", default="framehaul-client", help="its command on the farm's hosts")
    parser.add_argument("--retries", type=int, default=3, metavar="N", help="of a chunk that fails (default: 3)")
    parser.add_argument("--print", action="store_true", help="show the job's specification")
    given = parser.parse_args()
    launcher = outline.cuerun.OutlineLauncher(make_outline(given), maxretries=given.retries)
    if given.print:
        sys.stdout.write(outline.backend.cue.serialize_simple(launcher) + "\n")
    else:
        launcher.launch(use_pycuerun=False)


if __name__ == "__main__":
    main()
