"""The device contract: what a device must have to run a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.deploy.integrity import version_key
from graphopt.ir import nodes, opset_version
from graphopt.targets import NEWEST_IR_VERSION, NEWEST_OPSET, DeviceProfile

__all__ = ["contract_faults", "device_contract", "minimum_onnxruntime"]

OLDEST_ONNXRUNTIME = "1.16"
"""The oldest version with which `validate.py` is tested."""

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
        "architectures": sorted(device.architectures),
        "cpu_features": sorted(device.features),
        "maximum_memory_bytes": device.maximum_memory_bytes,
    }


def minimum_onnxruntime(model: ir.Model, device: DeviceProfile, verified_runtime: str) -> str:
    """Return the oldest version of ONNX Runtime that may be expected to load `model`.

    The largest of: the oldest version `validate.py` works with, what the target demands, and what
    opset, IR version and operators need.
    """
    needed = [OLDEST_ONNXRUNTIME, device.minimum_onnxruntime or OLDEST_ONNXRUNTIME]
    needed.append(_first(NEWEST_OPSET, model.opset_imports.get("", 0), verified_runtime))
    needed.append(_first(NEWEST_IR_VERSION, model.ir_version, verified_runtime))
    # A domain that nobody knows may need a library of its own: the release on which it ran is all
    # that can be said.
    needed += [
        _first_release(domain, operator) or verified_runtime
        for domain, operators in _operators(model).items()
        for operator in (operators if domain not in _STANDARD_DOMAINS else ())
    ]
    return max(needed, key=version_key)


def contract_faults(model: ir.Model, device: DeviceProfile) -> list[str]:
    """Return what a device cannot take of a model, each with the operators and the way out.

    Args:
        model: What would be shipped.
        device: The profile of the target; what it does not limit is not looked at.
    """
    return [
        *_version_faults(model, device),
        *_operator_faults(model, device),
        *_open_sizes(model, device),
    ]


def _version_faults(model: ir.Model, device: DeviceProfile) -> Iterator[str]:
    opset, ceiling = opset_version(model), device.opset_ceiling()
    if ceiling is not None and opset > ceiling:
        new = sorted(_newer_than(model, ceiling))
        which = f", for {', '.join(f'`{name}`' for name in new)}" if new else ""
        yield (
            f"it is of opset {opset}{which}, and the device ends at {ceiling}: export it with "
            f"opset {ceiling}, or look at what `lower-opset` refuses"
        )
    ceiling = device.ir_version_ceiling()
    if ceiling is not None and model.ir_version > ceiling:
        yield (
            f"it is of IR version {model.ir_version}, and the device ends at {ceiling}: add "
            "`lower-opset` to the pipeline"
        )


def _newer_than(model: ir.Model, ceiling: int) -> set[str]:
    """Return the operators whose version did not exist in an older opset."""
    current = opset_version(model)
    found = set()
    for name in _operators(model).get("", ()):
        if onnx.defs.has(name) and onnx.defs.get_schema(name, current).since_version > ceiling:
            found.add(name)
    return found


def _operator_faults(model: ir.Model, device: DeviceProfile) -> Iterator[str]:
    release = device.maximum_onnxruntime
    if release is None:
        return
    for domain, operators in _operators(model).items():
        for operator in operators if domain not in _STANDARD_DOMAINS else ():
            first = _first_release(domain, operator)
            if first is None or version_key(first) > version_key(release):
                since = f"came with {first}" if first else "may be newer"
                yield (
                    f"it has `{domain}::{operator}`, which {since}, and the device has onnxruntime "
                    f"{release}: leave out the pass that made it, or set `maximum_onnxruntime`"
                )


def _open_sizes(model: ir.Model, device: DeviceProfile) -> Iterator[str]:
    for value in model.graph.inputs if device.static_shapes else ():
        if value.shape is None or not value.shape.is_static():
            yield f"the input `{value.name}` has open sizes: fix them with `--dims`"


def _first_release(domain: str, operator: str) -> str | None:
    """Return the first release that has an operator outside the standard; None: nobody knows."""
    if domain != _CONTRIB:
        return None
    return OLDEST_ONNXRUNTIME if operator in _IN_OLDEST else _FIRST_RELEASE.get(operator)


def _first(newest: Mapping[str, int], version: int, verified_runtime: str) -> str:
    fitting = [release for release, limit in newest.items() if limit >= version]
    return min([*fitting, verified_runtime], key=version_key)


def _operators(model: ir.Model) -> dict[str, list[str]]:
    own = {(domain, name) for domain, name, _ in model.functions}
    found: dict[str, set[str]] = {}
    for node in nodes(model):
        # A call of a function of the model is inlined by any runtime: what counts is what it
        # consists of.
        if (node.domain, node.op_type) not in own:
            found.setdefault(node.domain, set()).add(node.op_type)
    return {domain: sorted(names) for domain, names in sorted(found.items())}
