"""What is said of settings before anything starts, on hosts of any size."""

import re
from dataclasses import replace

import msgspec
import pytest

from framehaul_pipeline.models.model import TINY, TINY_SPEC, Model
from framehaul_pipeline.models.saliency import SaliencyModel
from framehaul_pipeline.models.wan import parse_wan_config, wan_spec
from framehaul_pipeline.rings.ring import Ring
from framehaul_server.cli import parse
from framehaul_server.errors import CannotWork
from framehaul_server.explain import check_host, explain

GIB = 1 << 30
WAN = msgspec.structs.replace(TINY, spec=wan_spec("wan2.1", parse_wan_config({})))
PICTURES = msgspec.structs.replace(TINY_SPEC, name="pictures", state_bytes_per_pixel=0.0, lookahead_latents=2)
ON_CPU = ("--device", "cpu", "--max-size", "7680x4320", "--session-window-mib", "1024")
STATELESS = msgspec.structs.replace(TINY, spec=PICTURES)


def told(*options: str, models: tuple[Model, ...] = (TINY,), host_gib: int = 32) -> str:
    config = parse(options, {})
    config = replace(config, worker=replace(config.worker, models=models))
    return explain(config, host_bytes=host_gib * GIB, free_bytes=22 * GIB)


def warnings(*options: str, models: tuple[Model, ...] = (TINY,)) -> list[str]:
    """Each in one line."""
    *_, last = told(*options, models=models).split("\n\n")
    return [" ".join(each.split()) for each in last.split("\n! ")[1:]]


DEFAULTS = """\
Memory that server and worker share, pinned on a GPU
  frames    8 slots of 23.9 MiB   191 MiB    --slots, --max-size
  latents  40 slots of 2.00 MiB  79.8 MiB    --chunk-latents, --max-size
  both                            271 MiB

Memory of this host, which has 32.0 GiB, at most
  rings                                271 MiB
  sessions              64 x 208 MiB  13.0 GiB    --max-sessions, --session-window-mib, --max-request-mib
  requests being read  10 x 64.0 MiB   640 MiB    --max-request-mib
  queue                                256 MiB    --max-queued-mib
  parked sessions                     8.00 GiB    --park-gib
  all                                 22.1 GiB

Sessions of tiny: 4 frames a latent, the first out after 1 latent
  size          frame      chunk     window  on the host     state  in each 10.0 GiB  parked in 8.00 GiB
  832x480    1.14 MiB  4 latents  56 frames      208 MiB  52.6 MiB               160                +127
  1280x720   2.64 MiB  2 latents  24 frames      207 MiB   121 MiB                80                 +63
  1920x1088  5.98 MiB   1 latent  10 frames      207 MiB   275 MiB                35                 +27

A chunk is the most latents that are decoded together, a window the most frames that wait for a client.
Sessions share what is free once models are loaded (--device-memory-gib says less). Decoding a chunk takes of
it too, once for all of them; only a worker knows how much, so the numbers of sessions are the most. --device
auto is a GPU if there is one, as assumed here; --device cpu shows the CPU."""


def test_the_defaults_on_a_gpu() -> None:
    """Rings, host memory, and sessions of the usual sizes."""
    assert told() == DEFAULTS


def test_models_sizes_and_options_have_their_rows() -> None:
    """Sizes to warm up with, and the largest one; none that are too large. Sessions that are parked come on top."""
    options = ("--device", "cuda", "--warm-up", "64x64,832x480", "--max-size", "1024x1024", "--max-queued", "0")
    lines = told(*options, "--device-memory-gib", "20", "--park-gib", "8", models=(TINY, WAN, STATELESS)).splitlines()
    rows = [" ".join(line.split()) for line in lines if re.match(r"  (size|\d)", line)]
    assert rows == [
        "size frame chunk window on the host state in 20.0 GiB parked in 8.00 GiB",
        "64x64 12.0 KiB 4 latents 5461 frames 193 MiB 552 KiB 1280 +511",
        "832x480 1.14 MiB 4 latents 56 frames 208 MiB 52.6 MiB 320 +127",
        "1280x720 2.64 MiB 3 latents 24 frames 207 MiB 121 MiB 160 +63",
        "1048576 pixels 3.00 MiB 3 latents 21 frames 207 MiB 138 MiB 142 +55",
        "size frame chunk window on the host state in 20.0 GiB parked in 8.00 GiB",
        "64x64 12.0 KiB 4 latents 5461 frames 193 MiB 18.5 MiB 640 +255",
        "832x480 1.14 MiB 4 latents 56 frames 208 MiB 1.76 GiB 11 +3",
        "1280x720 2.64 MiB 3 latents 24 frames 207 MiB 4.06 GiB 4 -",
        "1048576 pixels 3.00 MiB 3 latents 21 frames 207 MiB 4.62 GiB 4 -",
        "size frame chunk window on the host state in 20.0 GiB parked in 8.00 GiB",
        "64x64 12.0 KiB 4 latents 5461 frames 193 MiB none any -",
        "832x480 1.14 MiB 4 latents 56 frames 208 MiB none any -",
        "1280x720 2.64 MiB 3 latents 24 frames 207 MiB none any -",
        "1048576 pixels 3.00 MiB 3 latents 21 frames 207 MiB none any -",
    ]
    assert not [line for line in lines if line.startswith("  queue ")]
    assert "Sessions of pictures: 4 frames a latent, the first out after 3 latents" in lines
    assert "--device-memory-gib, or what is free once models are loaded if that is less" in " ".join(lines)


def test_on_the_cpu_sessions_share_half_of_what_is_free() -> None:
    """In numbers twice as wide; a host that can't hold everything at once is told."""
    text = told("--device", "cpu")
    assert "  832x480    1.14 MiB  4 latents  56 frames      208 MiB  105 MiB           96       -" in text
    assert "  decoding              2 x 10.0 GiB  20.0 GiB    --device-memory-gib" in text
    assert "! more than the host has" in text
    assert "! more than the host has" not in told("--device", "cpu", host_gib=64)


def test_rings_are_as_large_as_it_is_said() -> None:
    """Header pages included."""
    worker = parse(["--slots", "3", "--max-size", "512x512", "--chunk-latents", "1"], {}).worker
    made = []
    for num_slots, slot_bytes in (
        (worker.num_slots, worker.slot_bytes),
        (worker.num_inlet_slots, worker.inlet_slot_bytes),
    ):
        ring = Ring.create("test", num_slots=num_slots, slot_bytes=slot_bytes)
        made.append(ring.num_bytes)
        ring.close()
    text = told("--slots", "3", "--max-size", "512x512", "--chunk-latents", "1")
    assert re.findall(r"  both +(\S+) MiB\n", text) == [f"{sum(made) / (1 << 20):.1f}"]


def test_what_is_taken_by_films_has_its_lines() -> None:
    """Their slots, which are as large as is said; readers; disk; and none of that where none are searched."""
    options = ("--highlight", "--highlight-readers", "6", "--max-size", "512x512")
    worker = parse(options, {}).worker
    ring = Ring.create("test", num_slots=worker.num_sample_slots, slot_bytes=worker.sample_slot_bytes)
    samples_bytes = ring.num_bytes
    ring.close()
    text = told(*options)
    assert f"  samples  16 slots of 4.66 MiB  {samples_bytes / (1 << 20):.1f} MiB    --highlight\n" in text
    assert re.search(r"  readers +6 x 150 MiB +900 MiB    --highlight-readers\n", text)
    assert "compared by efficientnet-lite0" in text
    assert "4.00 GiB of disk in TMPDIR" in " ".join(text.split())
    assert not re.search("samples|readers|TMPDIR", told())


@pytest.mark.parametrize(("device", "taken"), [("cpu", "1.17 GiB of host memory"), ("cuda", "800 MiB of the device")])
def test_what_saliency_takes_is_said(device: str, taken: str) -> None:
    """Its runs of frames need larger slots."""
    config = parse(["--device", device, "--max-size", "512x512"], {})
    config = replace(config, worker=replace(config.worker, saliency=SaliencyModel(path="")))
    text = " ".join(explain(config, host_bytes=32 * GIB, free_bytes=22 * GIB).split())
    assert "samples 16 slots of 8.6" in text
    assert f"TASED-Net says where people look, with {taken}" in text
    assert "compared" not in text


@pytest.mark.parametrize(
    ("options", "models", "expected"),
    [
        (
            ("--max-queued-mib", "16"),
            (TINY,),
            [
                "--max-queued-mib 16: a larger first request can't wait for a place; --max-queued-mib 64 lets all wait "
                "that --max-request-mib allows"
            ],
        ),
        (
            ("--max-request-mib", "1", "--max-size", "3840x2160", "--session-window-mib", "256"),
            (TINY,),
            [
                "--max-request-mib 1: too little for a latent of tiny at 8294400 pixels, which is 3.96 MiB in half "
                "precision, so nobody can send it"
            ],
        ),
        (
            ("--session-window-mib", "8"),
            (TINY, WAN),
            [
                f"--session-window-mib 8: for {name} at 1280x720 it is raised to 4 frames, 10.5 MiB: what one more "
                "latent may give"
                for name in ("tiny", "wan2.1")
            ],
        ),
        (
            ("--device-memory-gib", "2", "--park-gib", "2"),
            (TINY, WAN),
            [
                "--device-memory-gib 2: too little for the state of wan2.1 at 1280x720, 4.06 GiB; the largest size "
                "that fits has 454080 pixels, like 896x504",
                "--park-gib 2: parks no session of wan2.1 at 832x480; swapping needs room for two states, --park-gib "
                "3.53125",
            ],
        ),
        (
            ("--park-gib", "3.53125"),
            (WAN,),
            [
                "--park-gib 3.53125: parks no session of wan2.1 at 1280x720; swapping needs room for two "
                "states, --park-gib 8.125"
            ],
        ),
        (
            (*ON_CPU, "--device-memory-gib", "0.5"),
            (TINY,),
            [
                "--device-memory-gib 0.5: too little for the state of tiny at 1920x1088, 550 MiB; the largest size "
                "that fits has 1945152 pixels, like 1856x1048"
            ],
        ),
        (
            ON_CPU,
            (WAN,),
            [
                "10.0 GiB for sessions: too little for the state of wan2.1 at 1920x1088, 18.4 GiB; the largest size "
                "that fits has 1135232 pixels, like 1416x800"
            ],
        ),
    ],
    ids=["queue", "request", "window", "device and parking", "parking", "CPU", "CPU's share"],
)
def test_what_may_not_be_meant_is_told(
    options: tuple[str, ...], models: tuple[Model, ...], expected: list[str]
) -> None:
    """Of each model for the smallest size that it is true of, with what would do."""
    assert warnings(*options, models=models) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--slots", "1024"),
            "--slots 1024 with a --max-size of 2088960 pixels: their rings take 24.0 GiB, and this host has 8.00 GiB: "
            "must be --slots 339 or fewer, or --max-size with at most 695957 pixels, like 1104x624",
        ),
        (
            ("--max-size", "8192x8192", "--chunk-latents", "64", "--slots", "2"),
            "--slots 2 with a --max-size of 67108864 pixels: their rings take 41.5 GiB, and this host has 8.00 GiB: "
            "must be --max-size with at most 12927964 pixels, like 4784x2688",
        ),
        (
            ("--park-gib", "7.8"),
            "--park-gib 7.8: must be at most 7.7: this host has 8.00 GiB, of which the rings take 271 MiB",
        ),
    ],
    ids=["slots", "size", "parking"],
)
def test_what_a_host_can_never_hold_is_refused(options: tuple[str, ...], message: str) -> None:
    """With option, value and what would work."""
    with pytest.raises(CannotWork) as refused:
        check_host(parse(options, {}), 8 * GIB)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "options",
    [
        ("--slots", "339"),
        ("--park-gib", "7.7"),
        ("--slots", "1024"),
        ("--highlight", "--slots", "335"),
        ("--highlight", "--slots", "1024"),
    ],
)
def test_what_a_refusal_says_works(options: tuple[str, ...]) -> None:
    """To the slot and to the pixel."""
    config = parse(options, {})
    if config.worker.num_slots == 1024:
        max_pixels = 687820 if config.highlight else 695957
        config = replace(config, worker=replace(config.worker, max_pixels=max_pixels))
    check_host(config, 8 * GIB)
