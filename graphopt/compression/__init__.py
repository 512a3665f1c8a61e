"""The mathematics of compression, and what the passes that compress share."""

from graphopt.compression.integer_plan import Carried, IntegerPlan, plan_integers
from graphopt.compression.opset import opset_obstacle
from graphopt.compression.quantization import (
    INTEGER_TYPES,
    IntegerType,
    QuantizationParameters,
    bias_parameters,
    dequantize,
    parameters_from_range,
    quantize,
    weight_parameters,
    widen_for_bias,
)
from graphopt.compression.quantized_weights import QuantizedWeights, remove_unread
from graphopt.compression.static_layers import LAYER_OPERATORS, Layer
from graphopt.compression.weight_source import NoWeight, WeightSource, trace_weight

__all__ = [
    "INTEGER_TYPES",
    "LAYER_OPERATORS",
    "Carried",
    "IntegerPlan",
    "IntegerType",
    "Layer",
    "NoWeight",
    "QuantizationParameters",
    "QuantizedWeights",
    "WeightSource",
    "bias_parameters",
    "dequantize",
    "opset_obstacle",
    "parameters_from_range",
    "plan_integers",
    "quantize",
    "remove_unread",
    "trace_weight",
    "weight_parameters",
    "widen_for_bias",
]
