"""What passes are told of values in tests: ranges as given, moments measured on a few samples."""

import ast
from dataclasses import dataclass, field

import numpy as np

from graphopt.calibration import SampleMeasure, load_samples
from graphopt.rewrite import ValueRange
from graphopt.runtime import generate_feed_sets, input_specs


@dataclass
class MadeUpStatistics:
    """A provider of statistics for one model.

    Samples are generated where none are given, and only once a pass asks for them.
    """

    model: object
    samples: list | None = None
    ranges: dict = field(default_factory=dict)
    default: ValueRange = field(default_factory=lambda: ValueRange(-1.0, 1.0))

    def __call__(self, _model, names, _method):
        return {name: self.ranges.get(name, self.default) for name in names}

    @property
    def measure(self):
        return _Lazily(self)

    def moments(self, model, asked, grams=()):
        return self.measure.moments(model, asked, grams=grams)


class _Lazily:
    def __init__(self, source):
        self._source = source

    def __getattr__(self, name):
        if not self._source.samples:
            self._source.samples = generate_feed_sets(self._source.model, count=3)
        return getattr(SampleMeasure(samples=load_samples(self._source.samples)), name)

    def moments(self, model, asked, *, grams=()):
        return self.__getattr__("moments")(model, asked, grams=grams)

    def cross(self, model, other, pairs, *, products=True, held=(None, None)):
        return self.__getattr__("cross")(model, other, pairs, products=products, held=held)

    def outputs(self, model, names=None, *, settings=({},)):
        return self.__getattr__("outputs")(model, names, settings=settings)


def read_samples(text, model):
    """Return feeds from lines of the form ``x: [[1, 2], [3, 4]]``; an empty line begins a new one."""
    if not text.strip():
        return None
    types = {spec.name: spec.numpy_dtype for spec in input_specs(model)}
    feeds = []
    for part in text.strip().split("\n\n"):
        pairs = [line.split(":", 1) for line in part.splitlines() if line.strip()]
        feeds.append(
            {
                name.strip(): np.array(ast.literal_eval(value.strip()), types[name.strip()])
                for name, value in pairs
            }
        )
    return feeds
