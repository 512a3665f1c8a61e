"""Operators that hold graphs: a choice, and repetition."""

from __future__ import annotations

import torch

from graphopt.training.operators.registry import Call, Tensor, UnsupportedForm, operator

__all__: list[str] = []


@operator("If")
def _if(call: Call, condition: Tensor) -> tuple[Tensor, ...]:
    branch = call.get("then_branch" if bool(condition) else "else_branch")
    return tuple(call.run_graph(branch, ()))


@operator("Loop")
def _loop(
    call: Call, trips: Tensor | None = None, condition: Tensor | None = None, *state: Tensor
) -> tuple[Tensor, ...]:
    body, carried = call.get("body"), list(state)
    most = None if trips is None else int(trips)
    goes_on = True if condition is None else bool(condition)
    collected: list[list[Tensor]] = [[] for _ in range(len(body.outputs) - 1 - len(state))]
    number = 0
    while goes_on and (most is None or number < most):
        given = [torch.tensor(number), torch.tensor(goes_on), *carried]
        again, *found = call.run_graph(body, given)
        carried = found[: len(state)]
        for rows, value in zip(collected, found[len(state) :], strict=True):
            rows.append(value)
        goes_on, number = bool(again), number + 1
    if not all(collected) and any(call.wants(len(state) + at) for at in range(len(collected))):
        raise UnsupportedForm("a scan output of no iteration, of which no shape is known")
    return (*carried, *(torch.stack(rows) if rows else torch.empty(0) for rows in collected))


@operator("Scan", since=9)
def _scan(call: Call, *given: Tensor) -> tuple[Tensor, ...]:
    body, scanned = call.get("body"), call.get("num_scan_inputs")
    count = len(given) - scanned
    state, inputs = list(given[:count]), given[count:]
    outputs = len(body.outputs) - count
    axes = call.get("scan_input_axes", [0] * scanned)
    backwards = call.get("scan_input_directions", [0] * scanned)
    collected: list[list[Tensor]] = [[] for _ in range(outputs)]
    steps = inputs[0].shape[axes[0]]
    for step in range(steps):
        rows = [
            x.select(axis, steps - 1 - step if back else step)
            for x, axis, back in zip(inputs, axes, backwards, strict=True)
        ]
        found = call.run_graph(body, [*state, *rows])
        state = found[:count]
        for values, value in zip(collected, found[count:], strict=True):
            values.append(value)
    places = call.get("scan_output_axes", [0] * outputs)
    is_reversed = call.get("scan_output_directions", [0] * outputs)
    ordered = [
        values[::-1] if back else values
        for values, back in zip(collected, is_reversed, strict=True)
    ]
    return (*state, *(torch.stack(v, dim=at) for v, at in zip(ordered, places, strict=True)))
