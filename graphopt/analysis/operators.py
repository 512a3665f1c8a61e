"""What the operators of a model mean: version, schema, effects."""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping

import onnx
import onnx_ir as ir

from graphopt.analysis.operands import is_training
from graphopt.analysis.operator_table import operator_rule
from graphopt.ir import operators_of, subgraphs_of

__all__ = ["Effect", "Operators", "is_deterministic", "is_pure", "operator_counts"]


class Effect(enum.IntEnum):
    """What running a node does besides computing its outputs; the larger is the worse."""

    PURE = 0
    """Equal inputs give equal outputs, and nothing else happens."""
    RANDOM = 1
    """It draws random numbers, or updates statistics in training mode."""
    UNKNOWN = 2
    """Nobody knows: an operator of a custom domain."""


_CONTAINERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Standard operators that do what their subgraphs do; their schema says non-deterministic."""

_MISLABELLED = frozenset(
    {"AffineGrid", "CausalConvWithState", "DepthToSpace", "LinearAttention", "SpaceToDepth"}
)
"""Standard operators that are pure by specification, whose schema does not say so."""

_PURE_CONTRIB = frozenset(
    """
    Attention BiasAdd BiasGelu BiasSplitGelu BifurcationDetector CDist ComplexMul ComplexMulConj
    ConvTransposeWithDynamicPads CropAndResize DequantizeBFP DequantizeLinear DynamicQuantizeLSTM
    DynamicQuantizeMatMul EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm
    FusedMatMul FusedMatMulActivation GatherBlockQuantized GatherND Gelu GemmFloat8 GridSample
    GroupNorm GroupQueryAttention Inverse Irfft LongformerAttention MatMulBnb4 MatMulFpQ4
    MatMulInteger16 MatMulIntegerToFloat MatMulNBits MaxpoolWithMask MoE MulInteger
    MultiHeadAttention MurmurHash3 NGramRepeatBlock NhwcConv NhwcFusedConv NhwcMaxPool
    PackedAttention PackedMultiHeadAttention Pad QAttention QEmbedLayerNormalization QGemm
    QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool
    QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QMoE
    QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention
    QOrderedMatMul QuantizeBFP QuantizeLinear QuickGelu ReduceSumInteger RelativePositionBias
    RemovePadding RestorePadding Rfft RotaryEmbedding SimplifiedLayerNormalization SkipGroupNorm
    SkipLayerNormalization SkipSimplifiedLayerNormalization SparseAttention
    SparseToDenseMatMul Tokenizer TransposeMatMul Trilu Unique WordConvEmbedding
    """.split()  # noqa: SIM905 - a block of names reads better
)
"""Operators of ``com.microsoft`` (ONNX Runtime, docs/ContribOperators.md) that are pure."""


@functools.lru_cache(maxsize=4096)
def _schema(op_type: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


@functools.lru_cache(maxsize=4096)
def _own_effect(op_type: str, version: int, domain: str) -> Effect:
    """Return the effect of a node of its own, its subgraphs and its mode apart."""
    if domain == "com.microsoft":
        return Effect.PURE if op_type in _PURE_CONTRIB else Effect.UNKNOWN
    rule = operator_rule(domain, op_type, version)
    if rule is None:
        return Effect.UNKNOWN
    if not domain and op_type in _CONTAINERS | _MISLABELLED:
        return Effect.PURE
    known = {True: Effect.PURE, False: Effect.RANDOM, None: Effect.UNKNOWN}
    return known[rule.is_deterministic]


class Operators:
    """The operators of one model, with the versions that the model or its functions import.

    A snapshot: make a new one after functions were added or opset imports changed.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._function_imports: dict[ir.Graph, Mapping[str, int]] = {}
        for function in model.functions.values():
            for graph in (function.graph, *function.graph.subgraphs()):
                self._function_imports[graph] = function.opset_imports
        self._function_effects: dict[ir.OperatorIdentifier, Effect] = {}
        self._plain_effects: dict[str, Effect] = {}

    def version(self, node: ir.Node) -> int | None:
        """Return the opset version that ``node`` is written in; ``None`` where none is imported."""
        imports: Mapping[str, int] = self._model.opset_imports
        if self._function_imports and isinstance(node.graph, ir.Graph):
            # A function has opset imports of its own, which may be others than the model's.
            imports = self._function_imports.get(node.graph, imports)
        return imports.get(node.domain)

    def is_in_function(self, graph: ir.Graph) -> bool:
        """Tell whether ``graph`` is the body of a function or lies within one."""
        return graph in self._function_imports

    def schema(self, node: ir.Node) -> onnx.defs.OpSchema | None:
        """Return the schema of a standard operator in the version of ``node``, or ``None``."""
        version = self.version(node)
        return None if version is None else _schema(node.op_type, version, node.domain)

    def effect(self, node: ir.Node) -> Effect:
        """Return what running ``node`` does, functions and subgraphs followed."""
        if self._model.functions or node.domain or node.op_type in _NOT_PLAIN:
            return self._effect(node)
        known = self._plain_effects.get(node.op_type)  # the same for all nodes of the operator
        if known is None:
            known = self._plain_effects[node.op_type] = self._effect(node)
        return known

    def is_plainly_pure(self, domain: str, op_type: str) -> bool:
        """Tell of an operator that running a node is pure, whatever its mode and its functions."""
        if self._model.functions or domain or op_type in _NOT_PLAIN:
            return False
        version = self._model.opset_imports.get(domain)
        return version is not None and _own_effect(op_type, version, domain) is Effect.PURE

    def _effect(self, node: ir.Node) -> Effect:
        if self._model.functions and node.op_identifier() in self._model.functions:
            return self._function_effect(node.op_identifier())
        version = self.version(node)
        effect = Effect.UNKNOWN
        if version is not None:
            effect = _own_effect(node.op_type, version, node.domain)
        if effect is not Effect.UNKNOWN and not node.domain and node.op_type in _HAS_MODES:
            effect = Effect.RANDOM if is_training(node, version or 1) else Effect.PURE
        for graph in subgraphs_of(node):
            effect = max((effect, *(self.effect(child) for child in graph)))
        return effect

    def _function_effect(self, called: ir.OperatorIdentifier) -> Effect:
        if called not in self._function_effects:
            self._function_effects[called] = (
                Effect.UNKNOWN
            )  # what a function that calls itself gets
            body = self._model.functions[called]
            effect = max((self.effect(node) for node in body), default=Effect.PURE)
            self._function_effects[called] = effect
        return self._function_effects[called]


_HAS_MODES = frozenset({"BatchNormalization", "Dropout"})
_NOT_PLAIN = _HAS_MODES | _CONTAINERS


def is_deterministic(node: ir.Node, model: ir.Model) -> bool:
    """Tell whether ``node`` gives equal outputs for equal inputs.

    Follows functions and subgraphs; Dropout and BatchNormalization count by their mode. Operators
    of unknown domains are not deterministic. For many nodes, share one `Operators`.
    """
    return Operators(model).effect(node) is Effect.PURE


def is_pure(node: ir.Node, model: ir.Model) -> bool:
    """Tell whether ``node`` is deterministic and does nothing besides computing its outputs."""
    return Operators(model).effect(node) is Effect.PURE


def operator_counts(model: ir.Model) -> dict[str, int]:
    """Count the nodes of every graph by operator, the most frequent first.

    Operators of other domains than the default one are called ``domain::Operator``.
    """
    counts = {
        f"{domain}::{op_type}" if domain else op_type: count
        for (domain, op_type), count in operators_of(model).items()
    }
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
