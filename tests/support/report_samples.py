"""A result with everything that a page can show."""

from graphopt.report import (
    BeforeAfter,
    CandidateResult,
    LatencyResult,
    LayerError,
    OptimizeResult,
    PassResult,
    ReportDetails,
)
from graphopt.targets import judge

LATENCY = LatencyResult(
    verdict="faster",
    ratio=0.4,
    ratio_low=0.38,
    ratio_high=0.42,
    p10_ms=BeforeAfter(10.0, 4.0),
    median_ms=BeforeAfter(11.0, 4.5),
    reason="ratio 0.400 (0.380 to 0.420)",
)

DECIDED = OptimizeResult(
    source="net.onnx",
    source_sha256="0" * 64,
    target="cpu-int8",
    chosen="dynamic",
    verdict="within-budget",
    gates_met=True,
    gates=tuple(judge({"min_cosine": 0.99, "max_size_ratio": 0.2}, {"min_cosine": 0.9999, "max_size_ratio": 0.25})),
    size_bytes=BeforeAfter(4 << 20, 1 << 20),
    nodes=BeforeAfter(10, 8),
    latency=LATENCY,
    error={"y": {"max_abs": 0.01, "max_rel": 0.0025, "cosine": 0.999998, "sqnr_db": 48.5}},
    candidates=(
        CandidateResult(name="static", pipeline="@exact", status="rejected", reason="not built: it needs samples"),
        CandidateResult(name="dynamic", pipeline="@exact", status="chosen", size_bytes=1 << 20, latency=LATENCY),
    ),
    passes=(
        PassResult(
            name="quantize-dynamic",
            text="quantize-dynamic{ops=[Gather]}",
            status="applied",
            edits=2,
            nodes=BeforeAfter(9, 8),
            size_bytes=BeforeAfter(4 << 20, 1 << 20),
            seconds=0.5,
        ),
    ),
    pipeline="@exact,quantize-dynamic",
    operators=BeforeAfter({"MatMul": 2}, {"MatMulInteger": 2}),
    samples=2,
    seconds=3.25,
    versions={"graphopt": "0.1.0"},
    notes=("`static` was not built",),
    details=ReportDetails(
        weights_before={"FLOAT": 4 << 20},
        weights_after={"INT8": 1 << 20, "FLOAT": 512},
        layers=(
            LayerError(name="encoder/layer.0/attention/output/dense/MatMul_output_0", operator="MatMul", cosine=0.9999, sqnr_db=40.0),
            LayerError(name="pooled", operator="Gemm", cosine=1.0, sqnr_db=None),
        ),
        quantiles_before=tuple(10.0 + place / 5 for place in range(21)),
        quantiles_after=tuple(4.0 + place / 5 for place in range(21)),
    ),
)  # fmt: skip
