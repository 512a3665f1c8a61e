"""Print the tables and the judgement of the quantization benchmark as Markdown.

Usage:
    python benchmarks/quantize/table.py results.json

The best peer on a graph is the fastest one whose result runs; ours is held against its error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Rows = Mapping[str, Row]

PEERS = ("ort-", "nncf")
OURS, OURS_4BIT = "graphopt:cpu-int8", "graphopt:cpu-int4"
ENCODERS = ("bert_base", "distilbert", "vit_base", "whisper_enc", "clip", "swin_tiny", "segformer")
CNNS = ("resnet50", "mobilenetv2", "efficientnet_b0", "convnext_tiny")


class Limit(NamedTuple):
    """One thing that a graph is held to: what it is, what was measured, the limit, kept or not."""

    what: str
    measured: float
    limit: float
    is_kept: bool


def at_most(what: str, measured: float, limit: float) -> Limit:
    """Return a limit from above."""
    return Limit(what, measured, limit, measured <= limit)


def at_least(what: str, measured: float, limit: float) -> Limit:
    """Return a limit from below."""
    return Limit(what, measured, limit, measured >= limit)


def best_peer(rows: Rows, prefix: tuple[str, ...] = PEERS) -> Row | None:
    """Return the row of the fastest peer that ran; ``None`` where none did."""
    ran = [row for kind, row in rows.items() if kind.startswith(prefix) and "latency_ratio" in row]
    return min(ran, key=lambda row: float(row["latency_ratio"]), default=None)


def minilm_limits(rows: Rows) -> Iterator[Limit]:
    """Yield what the trained sentence encoder is held to."""
    ours = rows[OURS]
    yield at_least("mean cosine", ours["cosine"]["mean"], 0.999)
    yield at_least("least cosine", ours["cosine"]["min"], 0.995)
    yield at_most("latency", ours["latency_ratio"], 0.36)
    yield at_most("size", ours["size_ratio"], 0.26)
    static = rows.get("graphopt-static-tables", {})
    if "cosine" in static:
        yield at_least("mean cosine, static", static["cosine"]["mean"], 0.99)


def encoder_limits(rows: Rows) -> Iterator[Limit]:
    """Yield what encoders with seeded weights are held to."""
    ours, peer = rows[OURS], best_peer(rows)
    yield at_most("latency against the original", ours["latency_ratio"], 1.0)
    if peer is not None:
        yield at_most("latency", ours["latency_ratio"], peer["latency_ratio"])
        yield at_least("SQNR, dB", ours["sqnr_db"], peer["sqnr_db"] + 3)


def cnn_limits(rows: Rows) -> Iterator[Limit]:
    """Yield what convolutional networks are held to."""
    ours, peer = rows[OURS], best_peer(rows)
    if peer is not None:
        yield at_most("latency", ours["latency_ratio"], peer["latency_ratio"])
    pairs = (
        ("graphopt-static", "ort-static-channel", 0.5, 0.4),
        ("graphopt-static-percentile", "ort-static-percentile", None, 0.1),
    )
    for kind, other, time_limit, memory_limit in pairs:
        mine, theirs = rows.get(kind, {}), rows.get(other, {})
        if "cpu_s" not in mine or "cpu_s" not in theirs:
            continue
        if time_limit is not None:
            yield at_most("CPU time to quantize", mine["cpu_s"] / theirs["cpu_s"], time_limit)
        memory = mine["peak_bytes"] / theirs["peak_bytes"]
        yield at_most(f"memory to quantize, {kind}", memory, memory_limit)


def gpt2_limits(rows: Rows) -> Iterator[Limit]:
    """Yield what GPT-2 with past is held to."""
    yield at_most("latency, 8 bits", rows[OURS]["latency_ratio"], 1 / 2.5)
    yield at_most("latency, 4 bits", rows[OURS_4BIT]["latency_ratio"], 1 / 3)


def llama_limits(rows: Rows) -> Iterator[Limit]:
    """Yield what the Llama-style decoder with past is held to."""
    peer = best_peer(rows, ("ort-4bit",))
    if peer is not None:
        yield at_most("latency, 4 bits", rows[OURS_4BIT]["latency_ratio"], peer["latency_ratio"])
        yield at_least("SQNR, 4 bits, dB", rows[OURS_4BIT]["sqnr_db"], peer["sqnr_db"] + 6)


FAMILIES: tuple[tuple[tuple[str, ...], Callable[[Rows], Iterator[Limit]]], ...] = (
    (("minilm",), minilm_limits),
    (ENCODERS, encoder_limits),
    (CNNS, cnn_limits),
    (("gpt2_past",), gpt2_limits),
    (("llama4_past",), llama_limits),
)


def judged(name: str, rows: Rows) -> list[Limit]:
    """Return every limit of a graph that can be judged from its rows."""
    for prefixes, limits in FAMILIES:
        if name.startswith(prefixes):
            try:
                return list(limits(rows))
            except KeyError as missing:
                print(f"{name}: no {missing}", file=sys.stderr)
    return []


def cells(row: Row) -> str:
    """Return one row of a graph's table."""
    if "latency_ratio" not in row:
        return f"failed: {' '.join(row.get('failure', ['?']))[:90]} | | | | | |"
    cosine = row["cosine"]
    shown = (
        f"{row['latency_ratio']:.3f}",
        f"{row['size_ratio']:.3f}",
        f"{row['sqnr_db']:.1f}",
        f"{cosine['mean']:.4f} ({cosine['min']:.4f})",
        f"{row['wall_s']:.1f}",
        f"{row['peak_bytes'] / 1e6:.0f}",
    )
    return " | ".join(shown) + " |"


def main() -> None:
    """Print the judgement, then everything measured."""
    results: dict[str, Rows] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("| graph | held to | measured | limit | kept |\n|---|---|---:|---:|---|")
    for name, rows in sorted(results.items()):
        for limit in judged(name, rows):
            kept = "yes" if limit.is_kept else "**no**"
            print(f"| {name} | {limit.what} | {limit.measured:.3f} | {limit.limit:.3f} | {kept} |")
    print("\n| graph | tool | latency | size | SQNR, dB | cosine mean (least) | s | MB |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, rows in sorted(results.items()):
        for kind, row in rows.items():
            print(f"| {name} | {kind} | {cells(row)}")


if __name__ == "__main__":
    main()
