"""What is multiplied by each weight, measured a few layers at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.gptq import shrunk_gram
from graphopt.compression.weight_layers import WeightLayer
from graphopt.rewrite import Measure

__all__ = ["LayerInputs"]

_FLOAT_BYTES = 8


class LayerInputs:
    """Gram matrices of the inputs of layers, for a pass that changes one layer after the other.

    Layers are measured in batches whose matrices fit into ``memory_bytes``, each batch on the model
    as it then is: what enters a layer has gone through the layers before it as they will be.
    """

    def __init__(
        self,
        model: ir.Model,
        measure: Measure,
        layers: Sequence[WeightLayer],
        *,
        memory_bytes: int = 1 << 28,
    ) -> None:
        self._model = model
        self._measure = measure
        self._memory_bytes = memory_bytes
        # Names are taken down now: a layer that has been replaced has no inputs.
        self._sizes = {
            name: layer.weight.shape[0] for layer in layers if (name := self._name(layer))
        }
        self._names = {layer: self._name(layer) for layer in layers}
        self._readers = {name: layer.node for layer, name in self._names.items() if name}
        self._due = list(self._sizes)
        self._grams: dict[str, npt.NDArray[np.float64]] = {}

    def _name(self, layer: WeightLayer) -> str | None:
        """Return the name of the activation, where it is a value of the main graph."""
        value = layer.node.inputs[0]
        if value is None or layer.node.graph is not self._model.graph:
            return None
        return value.name

    def gram(self, layer: WeightLayer) -> npt.NDArray[np.float64] | None:
        """Return ``E[x x^T]``, shrunk by what is chance; ``None`` where it cannot be measured.

        Args:
            layer: The layers must be asked for in the order in which they were given.
        """
        name = self._names[layer]
        if name is None:
            return None
        if name in self._due:
            self._measure_from(name)
        return self._grams.get(name)

    def _measure_from(self, name: str) -> None:
        batch: list[str] = []
        size = 0
        for due in self._due[self._due.index(name) :]:
            size += self._sizes[due] ** 2 * _FLOAT_BYTES
            if batch and size > self._memory_bytes:
                break
            batch.append(due)
        self._grams.clear()  # before the next ones are made
        # A layer before may have been replaced by now, and its result with it.
        current = {due: self._readers[due].inputs[0] for due in batch}
        asked = [value.name or "" for value in current.values() if value is not None]
        found = self._measure.moments(self._model, asked, grams=asked)
        self._due = [due for due in self._due if due not in batch]
        for due, value in current.items():
            moments = found.get(value.name or "") if value is not None else None
            if moments is None or moments.gram is None:
                continue
            if moments.is_finite and moments.count:
                self._grams[due] = shrunk_gram(moments.gram, moments.count)
