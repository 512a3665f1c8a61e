"""The `validate.py` of a bundle: one readable file, joined from files that graphopt runs too."""

from __future__ import annotations

import ast
from importlib import resources

__all__ = ["schema_text", "validator_text"]

_PARTS = ("integrity.py", "signature.py", "agreement.py", "on_device.py")
_IMPORTS = (ast.Import, ast.ImportFrom)
_NUMPY = """try:
    import numpy as np
except ImportError as error:
    sys.stderr.write(f"broken: numpy cannot be imported: {error}\\n")
    sys.exit(2)
"""


def validator_text() -> str:
    """Return a program for Python 3.8 with nothing but the standard library, numpy and onnxruntime.

    The imports of the parts are merged, their imports from each other, their docstrings (but the
    last one, which is the program's) and their `__all__` are dropped.
    """
    sources = [_read(name) for name in _PARTS]
    imports = {line for source in sources for line in _imports(source)} - {"import numpy as np"}
    docstring = ast.get_source_segment(sources[-1], ast.parse(sources[-1]).body[0])
    ordered = "\n".join(sorted(imports, key=lambda line: (line.startswith("from"), line)))
    header = f"{docstring}\n\nfrom __future__ import annotations\n\n{ordered}\n\n{_NUMPY}"
    return "\n\n".join([header, *(_body(source) for source in sources)])


def schema_text() -> str:
    """Return the JSON schema of manifests, which lies beside `validate.py` in a bundle."""
    return _read("manifest.schema.json")


def _read(name: str) -> str:
    return resources.files("graphopt.deploy").joinpath(name).read_text(encoding="utf-8")


def _imports(source: str) -> list[str]:
    found = []
    for node in ast.parse(source).body:
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        is_ours = module == "__future__" or module.startswith("graphopt.")
        if isinstance(node, ast.ImportFrom) and not is_ours:
            found += [f"from {module} import {ast.unparse(name)}" for name in node.names]
        elif isinstance(node, ast.Import):
            found.append(ast.unparse(node))
    return found


def _body(source: str) -> str:
    lines = source.splitlines()
    head = [node for node in ast.parse(source).body if _is_head(node)]
    return "\n".join(lines[max(node.end_lineno or 0 for node in head) :]).strip("\n") + "\n"


def _is_head(node: ast.stmt) -> bool:
    is_docstring = isinstance(node, ast.Expr)
    is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    return is_docstring or is_all or isinstance(node, _IMPORTS)
