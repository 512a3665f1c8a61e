"""Reports of several validators beside each other, without what their runtimes alone say."""

import re

import pytest

# Versions, providers, bytes and milliseconds of another runtime; what its CPU kernels are called.
OWN_WORDS = re.compile(
    r"^onnxruntime [0-9.]+|(?<=here is )[0-9.]+|(?<=here are only ).*|^[0-9]+ bytes"
    r"|^other kernels|^the same kernels|^median .*|(?<=not valid JSON: ).*"
    r"|(?<=npz` cannot be read: ).*|(?<=not load the model: ).*|(?<=not run the model: ).*",
    re.DOTALL,
)


def settled(document):
    """Return a report with a sign in place of what no two validators could say alike."""
    checks = [
        {**item, "detail": OWN_WORDS.sub("...", item["detail"])} for item in document["checks"]
    ]
    return {**document, "checks": checks, "outputs": None, "latency": None}


def assert_same(theirs, ours):
    """Hold the report of one validator against that of another, field by field."""
    assert [*theirs] == [*ours]
    assert settled(theirs) == settled(ours)
    assert _close(theirs["outputs"]) == ours["outputs"]
    latencies = [document["latency"] and {*document["latency"]} for document in (theirs, ours)]
    assert latencies[0] == latencies[1]


def _close(value):
    if isinstance(value, dict):
        return {key: _close(item) for key, item in value.items()}
    return pytest.approx(value, rel=1e-6, abs=1e-6) if isinstance(value, float) else value
