"""The mathematics of compression, and what the passes that compress share.

Names are imported when they are first used: a pass needs a part of them only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt._lazy_names import attach

# Not when it is first used: a module has the same name, and would be found in its place.
from graphopt.compression.weight_grams import multiplied_rows as multiplied_rows
from graphopt.compression.weight_grams import weight_grams as weight_grams

if TYPE_CHECKING:
    from graphopt.compression.block_storage import BLOCKS_OPSET as BLOCKS_OPSET
    from graphopt.compression.block_storage import StoredBlocks as StoredBlocks
    from graphopt.compression.block_storage import dequantized_weight as dequantized_weight
    from graphopt.compression.block_storage import gathered_rows as gathered_rows
    from graphopt.compression.block_storage import multiply_stored as multiply_stored
    from graphopt.compression.block_storage import stored_blocks as stored_blocks
    from graphopt.compression.blockwise import BlockFormat as BlockFormat
    from graphopt.compression.blockwise import BlockWeights as BlockWeights
    from graphopt.compression.blockwise import quantize_blocks as quantize_blocks
    from graphopt.compression.gptq import quantize_compensated as quantize_compensated
    from graphopt.compression.half_formats import HALF_FORMATS as HALF_FORMATS
    from graphopt.compression.half_formats import HalfFormat as HalfFormat
    from graphopt.compression.half_plan import HalfPlan as HalfPlan
    from graphopt.compression.half_plan import plan_half as plan_half
    from graphopt.compression.half_rewriting import HalfRewriter as HalfRewriter
    from graphopt.compression.half_types import with_types as with_types
    from graphopt.compression.half_weights import store_weights as store_weights
    from graphopt.compression.integer_plan import Carried as Carried
    from graphopt.compression.integer_plan import IntegerPlan as IntegerPlan
    from graphopt.compression.integer_plan import PlanQuestion as PlanQuestion
    from graphopt.compression.layer_inputs import LayerInputs as LayerInputs
    from graphopt.compression.opset import opset_obstacle as opset_obstacle
    from graphopt.compression.packed_weight import PackedWeight as PackedWeight
    from graphopt.compression.packed_weight import WeightView as WeightView
    from graphopt.compression.packed_weight import pack_weight as pack_weight
    from graphopt.compression.packed_weight import unpack_weight as unpack_weight
    from graphopt.compression.placement import PLACEMENTS as PLACEMENTS
    from graphopt.compression.placement import Placement as Placement
    from graphopt.compression.placement import plan_integers as plan_integers
    from graphopt.compression.quantization import INTEGER_TYPES as INTEGER_TYPES
    from graphopt.compression.quantization import IntegerType as IntegerType
    from graphopt.compression.quantization import QuantizationParameters as QuantizationParameters
    from graphopt.compression.quantization import bias_parameters as bias_parameters
    from graphopt.compression.quantization import dequantize as dequantize
    from graphopt.compression.quantization import parameters_from_range as parameters_from_range
    from graphopt.compression.quantization import quantize as quantize
    from graphopt.compression.quantization import weight_parameters as weight_parameters
    from graphopt.compression.quantization import widen_for_bias as widen_for_bias
    from graphopt.compression.quantized_weights import QuantizedWeights as QuantizedWeights
    from graphopt.compression.quantized_weights import remove_unread as remove_unread
    from graphopt.compression.saturation import Saturation as Saturation
    from graphopt.compression.saturation import replay_saturation as replay_saturation
    from graphopt.compression.saturation import saturation_excess as saturation_excess
    from graphopt.compression.static_layers import LAYER_OPERATORS as LAYER_OPERATORS
    from graphopt.compression.static_layers import Layer as Layer
    from graphopt.compression.static_quantizer import Scheme as Scheme
    from graphopt.compression.static_quantizer import StaticQuantizer as StaticQuantizer
    from graphopt.compression.weight_layers import NoWeightLayer as NoWeightLayer
    from graphopt.compression.weight_layers import WeightLayer as WeightLayer
    from graphopt.compression.weight_layers import is_transposed_copy as is_transposed_copy
    from graphopt.compression.weight_layers import weight_layer as weight_layer
    from graphopt.compression.weight_layers import weight_nodes as weight_nodes
    from graphopt.compression.weight_source import NoWeight as NoWeight
    from graphopt.compression.weight_source import WeightSource as WeightSource
    from graphopt.compression.weight_source import trace_weight as trace_weight
    from graphopt.compression.weight_views import WEIGHT_INPUTS as WEIGHT_INPUTS
    from graphopt.compression.weight_views import weight_view as weight_view
    from graphopt.compression.width_choice import WidthChoice as WidthChoice
    from graphopt.compression.width_choice import choose_wide as choose_wide

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "block_storage": (
            "BLOCKS_OPSET",
            "StoredBlocks",
            "dequantized_weight",
            "gathered_rows",
            "multiply_stored",
            "stored_blocks",
        ),
        "blockwise": (
            "BlockFormat",
            "BlockWeights",
            "quantize_blocks",
        ),
        "gptq": ("quantize_compensated",),
        "half_formats": (
            "HALF_FORMATS",
            "HalfFormat",
        ),
        "half_plan": (
            "HalfPlan",
            "plan_half",
        ),
        "half_rewriting": ("HalfRewriter",),
        "half_types": ("with_types",),
        "half_weights": ("store_weights",),
        "integer_plan": (
            "Carried",
            "IntegerPlan",
            "PlanQuestion",
        ),
        "layer_inputs": ("LayerInputs",),
        "opset": ("opset_obstacle",),
        "packed_weight": (
            "PackedWeight",
            "WeightView",
            "pack_weight",
            "unpack_weight",
        ),
        "placement": (
            "PLACEMENTS",
            "Placement",
            "plan_integers",
        ),
        "quantization": (
            "INTEGER_TYPES",
            "IntegerType",
            "QuantizationParameters",
            "bias_parameters",
            "dequantize",
            "parameters_from_range",
            "quantize",
            "weight_parameters",
            "widen_for_bias",
        ),
        "quantized_weights": (
            "QuantizedWeights",
            "remove_unread",
        ),
        "saturation": (
            "Saturation",
            "replay_saturation",
            "saturation_excess",
        ),
        "static_layers": (
            "LAYER_OPERATORS",
            "Layer",
        ),
        "static_quantizer": (
            "Scheme",
            "StaticQuantizer",
        ),
        "weight_grams": (
            "multiplied_rows",
            "weight_grams",
        ),
        "weight_layers": (
            "NoWeightLayer",
            "WeightLayer",
            "is_transposed_copy",
            "weight_layer",
            "weight_nodes",
        ),
        "weight_source": (
            "NoWeight",
            "WeightSource",
            "trace_weight",
        ),
        "weight_views": (
            "WEIGHT_INPUTS",
            "weight_view",
        ),
        "width_choice": (
            "WidthChoice",
            "choose_wide",
        ),
    },
)
