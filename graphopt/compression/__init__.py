"""The mathematics of compression, and what the passes that compress share."""

from graphopt.compression.block_storage import (
    BLOCKS_OPSET,
    StoredBlocks,
    dequantized_weight,
    gathered_rows,
    multiply_stored,
    stored_blocks,
)
from graphopt.compression.blockwise import BlockFormat, BlockWeights, quantize_blocks
from graphopt.compression.gptq import quantize_compensated
from graphopt.compression.half_formats import HALF_FORMATS, HalfFormat
from graphopt.compression.half_plan import HalfPlan, plan_half
from graphopt.compression.half_rewriting import HalfRewriter
from graphopt.compression.half_types import with_types
from graphopt.compression.half_weights import store_weights
from graphopt.compression.integer_plan import Carried, IntegerPlan, PlanQuestion
from graphopt.compression.layer_inputs import LayerInputs
from graphopt.compression.opset import opset_obstacle
from graphopt.compression.packed_weight import (
    PackedWeight,
    WeightView,
    pack_weight,
    unpack_weight,
)
from graphopt.compression.placement import PLACEMENTS, Placement, plan_integers
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
from graphopt.compression.saturation import Saturation, replay_saturation, saturation_excess
from graphopt.compression.static_layers import LAYER_OPERATORS, Layer
from graphopt.compression.static_quantizer import Scheme, StaticQuantizer
from graphopt.compression.weight_grams import multiplied_rows, weight_grams
from graphopt.compression.weight_layers import (
    NoWeightLayer,
    WeightLayer,
    is_transposed_copy,
    weight_layer,
    weight_nodes,
)
from graphopt.compression.weight_source import NoWeight, WeightSource, trace_weight
from graphopt.compression.weight_views import WEIGHT_INPUTS, weight_view
from graphopt.compression.width_choice import WidthChoice, choose_wide

__all__ = [
    "BLOCKS_OPSET",
    "HALF_FORMATS",
    "INTEGER_TYPES",
    "LAYER_OPERATORS",
    "PLACEMENTS",
    "WEIGHT_INPUTS",
    "BlockFormat",
    "BlockWeights",
    "Carried",
    "HalfFormat",
    "HalfPlan",
    "HalfRewriter",
    "IntegerPlan",
    "IntegerType",
    "Layer",
    "LayerInputs",
    "NoWeight",
    "NoWeightLayer",
    "PackedWeight",
    "Placement",
    "PlanQuestion",
    "QuantizationParameters",
    "QuantizedWeights",
    "Saturation",
    "Scheme",
    "StaticQuantizer",
    "StoredBlocks",
    "WeightLayer",
    "WeightSource",
    "WeightView",
    "WidthChoice",
    "bias_parameters",
    "choose_wide",
    "dequantize",
    "dequantized_weight",
    "gathered_rows",
    "is_transposed_copy",
    "multiplied_rows",
    "multiply_stored",
    "opset_obstacle",
    "pack_weight",
    "parameters_from_range",
    "plan_half",
    "plan_integers",
    "quantize",
    "quantize_blocks",
    "quantize_compensated",
    "remove_unread",
    "replay_saturation",
    "saturation_excess",
    "store_weights",
    "stored_blocks",
    "trace_weight",
    "unpack_weight",
    "weight_grams",
    "weight_layer",
    "weight_nodes",
    "weight_parameters",
    "weight_view",
    "widen_for_bias",
    "with_types",
]
