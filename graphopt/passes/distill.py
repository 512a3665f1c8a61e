"""Distillation of the original into what was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import mask_inputs
from graphopt.ir import as_tensor, load, scratch_folder
from graphopt.rewrite import Approximate, Contract, Editor, Facts, Measure, Needs, Pass, option
from graphopt.training import (
    OUTPUT_LOSSES,
    POOLINGS,
    Objective,
    Recipe,
    TorchModel,
    Trained,
    check_torch,
    comparable,
    lessons,
    require_torch,
    streams,
    torch_fault,
    train,
    trainable_weights,
    unsupported_operators,
)

__all__ = ["Distill"]


@dataclass(frozen=True, kw_only=True)
class Distill(Pass):
    """Train the weights that are left to compute what the original computed.

    What it does
        Runs the model in torch and changes its weights, by gradient descent, until its outputs on
        the samples are like those of the model as it was before anything approximate; no labels
        are needed. Values behind each block can count as well (`hidden`). Weights and biases of
        layers and normalizations are trained; integers, tables of embeddings (unless `embeddings`)
        and all other constants stay. A share of the samples is held out: the weights with the least
        loss on those are kept. Run it behind pruning: `prune-neurons,distill`. The extra `torch`
        must be installed.

    When it refuses
        `no-gain`            no weights had a lower loss on the samples held out.
        `few-samples`        there is nothing to hold out.
        `nothing-to-train`   no layer has a constant weight in 32 or 64 bits.
        `no-torch-function`  an operator, at its version, has no function in torch.
        `not-reproduced`     torch computes something else than the runtime on the first sample.
        `no-counterpart`     a value to compare has another shape than the original's, or is no
                             tensor of finite floats.

    What it keeps
        Every operator, every shape, and every type. Weights that several nodes read stay one.

    Cost
        One run of the original per sample, whose outputs (and streams, with `hidden`) wait on disk;
        then `steps` runs forwards and backwards, or `minutes` of CPU time. Memory for weights four
        times over.

    Example
        behind prune-neurons{ratio=0.5 score=l2 compensation=off}
        options {steps=1 batch=1 rate=0.5 warmup=0.0}
        samples x: [[1.0, 1.0]]
        samples x: [[2.0, 2.0]]
        before  (float[N,2] x) => (float[N,1] y)
                <float[2,2] w = {1.0, 1.0, 1.0, 1.0}, float[2,1] v = {2.0, 1.0}>
                { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }
        after   (float[N,2] x) => (float[N,1] y)
                <float[2,1] w = {1.5, 1.5}, float[1,1] v = {2.5}>
                { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }

    References
        Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2 (`kl`). Jiao
        et al. 2020, "TinyBERT", equations 8 and 9 (hidden states and embeddings). Loshchilov and
        Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.
    """

    name: ClassVar[str] = "distill"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"), is_idempotent=False
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset(
        {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "FusedMatMul"}
    )

    teacher: str = option(
        "", help="file of the model to learn from; what the pipeline began with where empty"
    )
    loss: str = option("mse", help="how outputs are compared", choices=OUTPUT_LOSSES)
    pool: str = option("off", help="what becomes of an output's positions", choices=POOLINGS)
    hidden: float = option(1.0, help="weight of values behind the blocks", minimum=0.0)
    similarity: float = option(
        0.0, help="weight of cosines between the samples of a batch", minimum=0.0
    )
    temperature: float = option(1.0, help="of the distributions of `kl`", minimum=0.01)
    steps: int = option(1000, help="updates of the weights", unit="steps", minimum=1)
    batch: int = option(32, help="rows of an update", unit="rows", minimum=1)
    rate: float = option(5e-5, help="of AdamW, at its highest", minimum=0.0)
    decay: float = option(0.0, help="weight decay of matrices", minimum=0.0)
    warmup: float = option(
        0.05, help="steps until the rate is highest", unit="fraction", minimum=0.0, maximum=1.0
    )
    held_out: float = option(
        0.1, help="samples not trained on", unit="fraction", minimum=0.0, maximum=0.9
    )
    checks: int = option(10, help="looks at the samples held out", minimum=1)
    patience: int = option(3, help="looks without a gain until it ends", minimum=1)
    minutes: float = option(10.0, help="CPU time at most, 0: any", unit="minutes", minimum=0.0)
    threads: int = option(1, help="of torch", unit="threads", minimum=1, maximum=1024)
    precision: str = option(
        "float32", help="of products while training", choices=("float32", "bfloat16")
    )
    embeddings: bool = option(False, help="train tables of embeddings, too")
    exclude: tuple[str, ...] = option((), help="weights to leave alone", unit="name pattern")
    seed: int = option(0, help="of the order of samples", minimum=0)

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002 - whatever the model
        """Ask for the samples and the original."""
        return Needs(samples=True, original=not self.teacher)

    def check_extras(self) -> None:
        """Check that torch is installed.

        Raises:
            MissingExtraError: It is not.
        """
        check_torch(f"pass `{self.name}`")

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Train a copy of the weights, and put them in place where they are better."""
        original = load(self.teacher) if self.teacher else facts.original
        if facts.measure is None or original is None:
            return
        require_torch(f"pass `{self.name}`")
        weights = trainable_weights(model, embeddings=self.embeddings, exclude=self.exclude)
        if not weights:
            why = "no layer has a constant weight in 32 or 64 bits that may change"
            edit.refuse(model.graph.outputs[0], "nothing-to-train", why=why)
            return
        unknown = unsupported_operators(model)
        for node in unknown:
            why = f"torch has no function for {node.domain or 'ai.onnx'}.{node.op_type}"
            edit.refuse(node, "no-torch-function", why=why)
        objective = None if unknown else self._objective(model, original, edit, facts.measure)
        if objective is None:
            return
        student = TorchModel(model, trainable=weights)
        fault = torch_fault(model, student, objective.values, facts.measure)
        if fault is not None:
            edit.refuse(model.graph.outputs[0], "not-reproduced", why=fault)
            return
        trained = self._trained(original, student, objective, facts)
        if trained is None:
            edit.refuse(
                model.graph.outputs[0], "few-samples", why="one is trained on, one held out"
            )
        elif not trained.after < trained.before:
            why = f"a loss of {trained.before:.4g} before and {trained.after:.4g} after"
            edit.refuse(model.graph.outputs[0], "no-gain", why=f"{why}; {trained.ended}")
        else:
            self._put(model, trained, edit)

    def _objective(
        self, model: ir.Model, original: ir.Model, edit: Editor, measure: Measure
    ) -> Objective | None:
        """Return what is compared, or ``None`` where no output can be."""
        theirs = {value.name for value in original.graph.outputs}
        outputs = [value.name or "" for value in model.graph.outputs if value.name in theirs]
        inside = streams(model, original) if self.hidden else []
        faults = comparable(model, original, [*outputs, *inside], measure)
        for name, why in faults.items():
            if why is not None:
                edit.refuse(_value(model, name), "no-counterpart", why=why)
        found = tuple(name for name in outputs if faults[name] is None)
        if not found:
            return None
        masks = sorted(mask_inputs(model))
        return Objective(
            outputs=found,
            streams=tuple(name for name in inside if faults[name] is None),
            mask=masks[0] if masks else None,
            loss=self.loss,
            pool=self.pool,
            hidden=self.hidden,
            similarity=self.similarity,
            temperature=self.temperature,
        )

    def _trained(
        self, original: ir.Model, student: TorchModel, objective: Objective, facts: Facts
    ) -> Trained | None:
        assert facts.measure is not None
        values = objective.values
        with scratch_folder() as folder:
            samples = lessons(original, student.inputs, values, facts.measure, folder)
            if len(samples) < 2:  # noqa: PLR2004 - one to train on, one to hold out
                return None
            return train(student, samples, objective, self._recipe(), facts.report)

    def _recipe(self) -> Recipe:
        names = Recipe.__dataclass_fields__
        return Recipe(**{name: getattr(self, name) for name in names})

    def _put(self, model: ir.Model, trained: Trained, edit: Editor) -> None:
        gain = f"loss on samples held out {trained.before:.4g} -> {trained.after:.4g}"
        because = f"{trained.steps} steps, {gain}"
        with edit.rewrite(model.graph, because=because) as change:
            for name, array in trained.weights.items():
                change.set_tensor(model.graph.initializers[name], as_tensor(array, name))
        edit.note(f"{because}; ended by: {trained.ended}")
        if trained.ended == "time is up":
            edit.note("the clock ended it: the same command may give another file")


def _value(model: ir.Model, name: str) -> ir.Value:
    values: Mapping[str | None, ir.Value] = {
        value.name: value for node in model.graph for value in node.outputs
    }
    return values.get(name, model.graph.outputs[0])
