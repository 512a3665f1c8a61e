"""The border with onnx-ir: reading, writing, copying and naming models."""

from graphopt.ir.atomic import atomic_file, output_error
from graphopt.ir.collection import patient_collection
from graphopt.ir.constants import (
    as_tensor,
    constant_array,
    constant_tensor,
    initializer_tensors,
    opset_version,
    tensor_dims,
    weight_bytes,
)
from graphopt.ir.copying import ByteProgress, TensorWriter
from graphopt.ir.digest import model_digest, structure_digest, tensor_digest
from graphopt.ir.file_tensor import (
    FileTensor,
    SourceFile,
    blocks,
    external_files,
    release_files,
    sample_bytes,
)
from graphopt.ir.forms import is_text_file
from graphopt.ir.load import load
from graphopt.ir.normalise import normalise
from graphopt.ir.objects import Attr, Node, Value, detach_inputs, node_list, take_out, use_count
from graphopt.ir.reading import HAS_NO_ANNOTATIONS
from graphopt.ir.save import INLINE_LIMIT_BYTES, model_bytes, save, save_referring
from graphopt.ir.scratch import scratch_folder
from graphopt.ir.state_folder import StateFolder
from graphopt.ir.structure import Checkpoint, Structure, clone, take_structure
from graphopt.ir.text import from_text, to_text
from graphopt.ir.traces import drop_traces
from graphopt.ir.walk import (
    CONTAINERS,
    forget_graphs,
    forget_nodes,
    graphs,
    is_call,
    may_hold_graphs,
    nodes,
    nodes_of_types,
    operators_of,
    ordered_nodes,
    remembered_graphs,
    subgraphs_of,
)
from graphopt.ir.wire import encode_bytes, encode_field

__all__ = [
    "CONTAINERS",
    "HAS_NO_ANNOTATIONS",
    "INLINE_LIMIT_BYTES",
    "Attr",
    "ByteProgress",
    "Checkpoint",
    "FileTensor",
    "Node",
    "SourceFile",
    "StateFolder",
    "Structure",
    "TensorWriter",
    "Value",
    "as_tensor",
    "atomic_file",
    "blocks",
    "clone",
    "constant_array",
    "constant_tensor",
    "detach_inputs",
    "drop_traces",
    "encode_bytes",
    "encode_field",
    "external_files",
    "forget_graphs",
    "forget_nodes",
    "from_text",
    "graphs",
    "initializer_tensors",
    "is_call",
    "is_text_file",
    "load",
    "may_hold_graphs",
    "model_bytes",
    "model_digest",
    "node_list",
    "nodes",
    "nodes_of_types",
    "normalise",
    "operators_of",
    "opset_version",
    "ordered_nodes",
    "output_error",
    "patient_collection",
    "release_files",
    "remembered_graphs",
    "sample_bytes",
    "save",
    "save_referring",
    "scratch_folder",
    "structure_digest",
    "subgraphs_of",
    "take_out",
    "take_structure",
    "tensor_digest",
    "tensor_dims",
    "to_text",
    "use_count",
    "weight_bytes",
]
