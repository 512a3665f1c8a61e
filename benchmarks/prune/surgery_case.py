"""One model of the surgery benchmark: what is cut of each kind, what is refused, what still runs.

Run by `surgery.py`, in a process of its own: `surgery_case.py MODEL.onnx WORK [--no-integers]`
prints one JSON record.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.analysis import infer_shapes, summarise
from graphopt.analysis.coupling import couple, find_attentions, find_groups, find_loose_layers
from graphopt.calibration import Calibrator, load_samples
from graphopt.errors import GraphoptError
from graphopt.ir import graphs, load, save
from graphopt.pipeline import Ledger, PassEntry, Pipeline
from graphopt.runtime import SessionOptions, generate_feed_sets, shared_worker
from graphopt.targets import load_target

KINDS = ("heads", "neurons", "channels")
LAYERS = "prune-layers"
OPTIONS = "ratio=0.25 score=l2 compensation=off"
ERROR = re.compile(r"self-test found differences of (\S+)")
Record = dict[str, Any]


def structure(model: ir.Model) -> Record:
    """Count what the analysis sees: groups by kind and reason, attentions, layers in none."""
    coupling = couple(model, infer_shapes(model))
    groups = find_groups(coupling)
    attentions = find_attentions(model, coupling, groups)
    return {
        "groups": dict(Counter(group.kind for group in groups)),
        "pinned": dict(Counter(group.pin.slug for group in groups if group.pin is not None)),
        "attentions": len(attentions),
        "attentions_free": sum(site.pin is None for site in attentions),
        "attentions_refused": dict(Counter(s.pin.slug for s in attentions if s.pin is not None)),
        "loose": dict(Counter(one.pin.slug for one in find_loose_layers(model, coupling, groups))),
    }


def cut(path: Path, pipeline: str, out: Path | None) -> Record:
    """Run a pipeline on a fresh copy of a model; tell what each of its passes did and declined."""
    model = load(path)
    before = summarise(model)
    started = time.perf_counter()
    try:
        result = Pipeline.parse(pipeline).run(model, source=path, verify="structure")
    except GraphoptError as error:
        return {"pipeline": pipeline, "failed": f"{error.code}: {error.message} ({error.why})"}
    after = summarise(model)
    if out is not None:
        save(model, out)
    return {
        "pipeline": pipeline,
        "seconds": time.perf_counter() - started,
        "parameters": after.parameters / max(before.parameters, 1),
        "macs": after.macs / before.macs if before.macs and after.macs else None,
        "passes": {entry.pass_name: _done(entry, result.ledger) for entry in result.ledger.entries},
    }


def _done(entry: PassEntry, ledger: Ledger) -> Record:
    """Return what one pass did: groups (or layers) cut, refused by reason, and its self-test."""
    journal, name = ledger.journal, entry.pass_name
    refused = [one for one in journal.refusals if one.pass_name == name]
    decided = [one for one in journal.decisions if one.pass_name == name]
    # One edit cuts a layer, at its sum; another, of the graph, sweeps what computed it.
    edits = [one for one in journal.edits if one.pass_name == name]
    layers = [one for one in edits if not one.where.startswith("graph ")]
    notes = [note for note in ledger.notes if note.startswith(f"{name}:")]
    found = [match for note in notes if (match := ERROR.search(note)) is not None]
    return {
        "pruned": len(decided) if name != LAYERS else len(layers),
        "refused": dict(Counter(one.slug for one in refused)),
        "why": {one.slug: f"{one.where}: {one.why}" for one in refused},
        "self_test": max((float(match[1]) for match in found), default=None),
        "seconds": entry.seconds,
    }


def runs(path: Path, feeds: list[Mapping[str, Any]]) -> str:
    """Run a file with the runtime's optimizations; return ``runs`` or why it does not."""
    try:
        with shared_worker().load(path, SessionOptions()) as session:
            found = [session.run(feed) for feed in feeds]
    except GraphoptError as error:
        return f"{error.message}: {error.why}"
    arrays = [np.asarray(array) for outputs in found for array in outputs.values()]
    floats = [array for array in arrays if array.dtype.kind == "f"]
    return "runs" if all(np.isfinite(array).all() for array in floats) else "not finite"


def integers(pruned: Path, work: Path, feeds: list[Mapping[str, Any]]) -> Record:
    """Quantize a pruned file dynamically and statically; run both."""
    found: Record = {"float": runs(pruned, feeds)}
    samples = load_samples(feeds)
    for name in ("quantize-dynamic", "quantize-static"):
        model, out = load(pruned), work / f"{name}.onnx"
        calibrator = Calibrator(samples=samples)
        try:
            result = Pipeline.parse(name).run(
                model,
                source=pruned,
                verify="structure",
                statistics_provider=calibrator,
                target=load_target("cpu-int8").to_facts(),
            )
            edits = len(result.ledger.journal.edits)
            save(model, out)
            found[name] = f"{runs(out, feeds)} ({edits} edits)"
        except GraphoptError as error:
            found[name] = f"{error.code}: {error.message} ({error.why})"
    return found


def examine(path: Path, work: Path, *, has_integers: bool) -> Record:
    """Return the record of one model."""
    work.mkdir(parents=True, exist_ok=True)
    model = load(path)
    softmaxes = sum(node.op_type == "Softmax" for graph in graphs(model) for node in graph)
    record: Record = {"softmaxes": softmaxes, **structure(model)}
    every = ",".join(f"prune-{kind}{{{OPTIONS}}}" for kind in KINDS)
    pruned = work / "pruned.onnx"
    record["all"] = cut(path, f"unshare-weights,{every},share-weights", pruned)
    record["layers"] = cut(path, f"{LAYERS}{{count=1 score=random}}", None)
    if "model-input" in record["attentions_refused"] or "past" in path.parent.name:
        text = f"prune-heads{{{OPTIONS} caches=true}}"
        record["caches"] = cut(path, text, None)
    if has_integers and pruned.exists():
        record["integers"] = integers(pruned, work, generate_feed_sets(load(pruned), count=2))
    record["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return record


def main() -> None:
    """Examine one model, and print its record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path, help="folder for pruned files")
    parser.add_argument("--no-integers", action="store_true", help="do not quantize and run")
    given = parser.parse_args()
    record = examine(given.model, given.work, has_integers=not given.no_integers)
    print("RESULT " + json.dumps(record))


if __name__ == "__main__":
    main()
