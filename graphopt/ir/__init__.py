"""The border with onnx-ir: reading, writing, copying and naming models."""

from graphopt.ir.constants import (
    as_tensor,
    constant_array,
    constant_tensor,
    initializer_tensors,
    opset_version,
    weight_bytes,
)
from graphopt.ir.digest import model_digest, structure_digest, tensor_digest
from graphopt.ir.forms import is_text_file
from graphopt.ir.load import load
from graphopt.ir.normalise import normalise
from graphopt.ir.save import INLINE_LIMIT_BYTES, atomic_file, model_bytes, output_error, save
from graphopt.ir.structure import Checkpoint, Structure, clone, take_structure
from graphopt.ir.text import from_text, to_text
from graphopt.ir.walk import graphs, nodes, subgraphs_of

__all__ = [
    "INLINE_LIMIT_BYTES",
    "Checkpoint",
    "Structure",
    "as_tensor",
    "atomic_file",
    "clone",
    "constant_array",
    "constant_tensor",
    "from_text",
    "graphs",
    "initializer_tensors",
    "is_text_file",
    "load",
    "model_bytes",
    "model_digest",
    "nodes",
    "normalise",
    "opset_version",
    "output_error",
    "save",
    "structure_digest",
    "subgraphs_of",
    "take_structure",
    "tensor_digest",
    "to_text",
    "weight_bytes",
]
