"""The device contract: what a device must have to run a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from graphopt.deploy.integrity import version_key
from graphopt.ir import nodes
from graphopt.targets import DeviceProfile

__all__ = ["device_contract", "minimum_onnxruntime"]

OLDEST_ONNXRUNTIME = "1.16"
"""The oldest version with which `validate.py` is tested."""

# Newest opset and IR version that a release of ONNX Runtime loads. Measured with its wheels: the
# release itself, or the first one tried that does (1.25 and 1.27 to 1.31 were not).
_NEWEST_OPSET = {
    "1.16": 19, "1.17": 20, "1.18": 21, "1.21": 22, "1.23": 23, "1.24": 25, "1.26": 26, "1.32": 27,
}  # fmt: skip
_NEWEST_IR_VERSION = {"1.16": 9, "1.18": 10, "1.23": 11, "1.24": 13, "1.32": 14}

_CONTRIB = "com.microsoft"

# Operators of `com.microsoft` that the oldest release registers, same method, without those whose
# inputs or types grew since (`MatMulNBits`, `GroupQueryAttention`, `QuantizeLinear`, ...).
_IN_OLDEST = frozenset(
    """
    Attention BiasAdd BiasGelu BiasSplitGelu DynamicQuantizeLSTM DynamicQuantizeMatMul
    EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm FusedMatMul Gelu
    MatMulInteger16 MatMulIntegerToFloat MulInteger NhwcMaxPool QAttention
    QEmbedLayerNormalization QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv
    QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid
    QLinearSoftmax QLinearWhere QuickGelu SkipLayerNormalization SkipSimplifiedLayerNormalization
    TransposeMatMul Trilu WordConvEmbedding
    """.split()  # noqa: SIM905 - a table reads better
)
_FIRST_RELEASE = {"GatherBlockQuantized": "1.20", "QMoE": "1.18", "SparseAttention": "1.18"}
_STANDARD_DOMAINS = ("", "ai.onnx.ml")


def device_contract(
    model: ir.Model, device: DeviceProfile, *, verified_runtime: str
) -> dict[str, Any]:
    """Return what the manifest says under `device`.

    Args:
        model: What is shipped.
        device: Demands of the target.
        verified_runtime: Version of ONNX Runtime on which the model ran; stands in where nobody
            knows how old a runtime may be.
    """
    return {
        "minimum_onnxruntime": minimum_onnxruntime(model, device, verified_runtime),
        "ir_version": model.ir_version,
        "opsets": dict(sorted(model.opset_imports.items())),
        "operators": _operators(model),
        "cpu_features": sorted(device.features),
        "maximum_memory_bytes": device.maximum_memory_bytes,
    }


def minimum_onnxruntime(model: ir.Model, device: DeviceProfile, verified_runtime: str) -> str:
    """Return the oldest version of ONNX Runtime that may be expected to load `model`.

    The largest of: the oldest version `validate.py` works with, what the target demands, and what
    opset, IR version and operators need.
    """
    needed = [OLDEST_ONNXRUNTIME, device.minimum_onnxruntime or OLDEST_ONNXRUNTIME]
    needed.append(_first(_NEWEST_OPSET, model.opset_imports.get("", 0), verified_runtime))
    needed.append(_first(_NEWEST_IR_VERSION, model.ir_version, verified_runtime))
    for domain, operators in _operators(model).items():
        for operator in operators if domain not in _STANDARD_DOMAINS else ():
            if domain != _CONTRIB or operator not in _IN_OLDEST:
                known = _FIRST_RELEASE.get(operator) if domain == _CONTRIB else None
                needed.append(known or verified_runtime)
    return max(needed, key=version_key)


def _first(newest: Mapping[str, int], version: int, verified_runtime: str) -> str:
    fitting = [release for release, limit in newest.items() if limit >= version]
    return min([*fitting, verified_runtime], key=version_key)


def _operators(model: ir.Model) -> dict[str, list[str]]:
    own = {(domain, name) for domain, name, _ in model.functions}
    found: dict[str, set[str]] = {}
    for node in nodes(model):
        if (node.domain, node.op_type) not in own:
            found.setdefault(node.domain, set()).add(node.op_type)
    return {domain: sorted(names) for domain, names in sorted(found.items())}
