"""Write BERT-base and ResNet-50 with seeded weights, for `verify.py`; needs torch and transformers.

Usage:
    python benchmarks/cuda/models.py FOLDER [NAME ...]

`FOLDER/NAME/model.onnx` is exported through TorchScript from the configuration that transformers
has as its default, which is the published one for both; batch and length are open. `spec.json`
beside it says what its inputs are (`benchmarks/simplify/feeds.py`). Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPSET = 20  # the newest that knows GELU and that TorchScript's exporter writes
SEED = 0
LENGTH, WORDS = 128, 30_522

Spec = dict[str, Any]


def bert_base() -> tuple[Any, tuple[Any, ...], Spec]:
    """Return the module, example inputs and the spec of twelve layers, without the pooler."""
    import torch
    from transformers import BertConfig, BertModel

    module = BertModel(BertConfig(), add_pooling_layer=False)
    tokens = torch.ones((2, LENGTH), dtype=torch.int64)
    dims = ["batch", "seq"]
    spec = {
        "dims": {"batch": 1, "seq": LENGTH},
        "inputs": [
            _input("input_ids", "int64", dims, kind="randint", high=WORDS),
            _input("attention_mask", "int64", dims, kind="ones"),
            _input("token_type_ids", "int64", dims, kind="zeros"),
        ],
        "outputs": ["last_hidden_state"],
    }
    return module, (tokens, tokens, tokens * 0), spec


def resnet50() -> tuple[Any, tuple[Any, ...], Spec]:
    """Return the module, an example input and the spec of the classifier of a thousand classes."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    module = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    dims = ["batch", 3, 224, 224]
    spec = {
        "dims": {"batch": 1},
        "inputs": [_input("pixel_values", "float32", dims, kind="image")],
        "outputs": ["logits"],
    }
    return module, (torch.zeros((2, 3, 224, 224)),), spec


MODELS: dict[str, Callable[[], tuple[Any, tuple[Any, ...], Spec]]] = {
    "bert_base": bert_base,
    "resnet50": resnet50,
}


def _input(name: str, dtype: str, dims: list[Any], **gen: Any) -> list[Any]:
    return [name, {"dtype": dtype, "dims": dims, "gen": gen}]


def write(name: str, folder: Path) -> None:
    """Export one model and write its spec."""
    import torch

    torch.manual_seed(SEED)
    module, example, spec = MODELS[name]()

    class FirstOutput(torch.nn.Module):
        """Gives one tensor where transformers gives an object of many."""

        def __init__(self) -> None:
            super().__init__()
            self.m = module

        def forward(self, *arrays: Any) -> Any:
            names = [entry[0] for entry in spec["inputs"]]
            return self.m(**dict(zip(names, arrays, strict=True)), return_dict=False)[0]

    axes = {
        given: {place: dim for place, dim in enumerate(entry["dims"]) if isinstance(dim, str)}
        for given, entry in spec["inputs"]
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        FirstOutput().eval(),
        example,
        str(folder / "model.onnx"),
        input_names=list(axes),
        output_names=spec["outputs"],
        dynamic_axes={**axes, spec["outputs"][0]: next(iter(axes.values()))},
        opset_version=OPSET,
        dynamo=False,
    )
    (folder / "spec.json").write_text(json.dumps(spec) + "\n", encoding="utf-8")


def main() -> None:
    """Write the models that are named, or both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=[[], *MODELS], default=[])
    given = parser.parse_args()
    for name in given.names or MODELS:
        write(name, given.folder / name)


if __name__ == "__main__":
    main()
