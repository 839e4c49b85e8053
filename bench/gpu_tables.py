"""The table of the stream measurements, and which stage each was limited by. Pure."""

from __future__ import annotations

from typing import Any

from bench.harness import table


def limit(figures: dict[str, Any]) -> str:
    """Name the stage that is never idle."""
    shares = {
        "GPU": figures["profile"].get("busy", 0.0),
        "client's encoder": figures["encode_share"],
        "server's busiest thread": figures["server_hottest_thread"],
        "client's busiest thread": 0.0 if figures["encode_share"] else figures["client_hottest_thread"],
        "worker's busiest thread": figures["worker_hottest_thread"],
    }
    stage = max(shares, key=lambda name: shares[name])
    return f"{stage} ({shares[stage]:.0%})"


def stream_table(found: dict[str, dict[str, Any]]) -> str:
    """One row a run; `found` has the figures of `gpu_stream` by name."""
    rows = []
    for name, each in found.items():
        profile = each.get("profile", {})
        copied_s = profile.get("to_host_s", 0.0)
        rows.append(
            [
                name,
                each.get("frames_per_s", float("nan")),
                each.get("first_frame_ms", float("nan")),
                profile.get("error") or (f"{profile['busy']:.1%}" if "busy" in profile else "-"),
                f"{each['utilization']:.0%}" if "utilization" in each else "-",
                each["to_client_p50_ms"],
                each["to_client_p99_ms"],
                profile["to_host_bytes"] / copied_s / 1e9 if copied_s else float("nan"),
                each.get("gb_per_s", float("nan")),
                limit(each) if "encode_share" in each else "the pace",
            ]
        )
    heads = [
        "`tiny`, yuv420p",
        "frames/s",
        "first frame, ms",
        "kernels busy",
        "driver says",
        "copy to client p50, ms",
        "p99",
        "to host, GB/s",
        "to client, GB/s",
        "limit",
    ]
    return table(heads, rows)
