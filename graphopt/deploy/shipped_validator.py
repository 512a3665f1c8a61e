"""The validators of a bundle: each one readable file, joined from several.

Those of `validate.py` are what `graphopt validate` runs too; those of `validate.mjs` lie in `web`.
"""

from __future__ import annotations

import ast
import posixpath
import re
from importlib import resources

__all__ = ["schema_text", "validator_text", "web_files"]

_PARTS = (
    "integrity.py", "signature.py", "../runtime/latency_statistics.py", "stopwatch.py",
    "../calibration/unprepared.py", "../calibration/prepared_texts.py",
    "../calibration/prepared_images.py", "../calibration/prepared_sound.py",
    "../calibration/preparation.py", "differences.py", "records.py", "raw_agreement.py",
    "agreement.py", "on_device.py",
)  # fmt: skip
_WEB_PARTS = (
    "integrity.mjs", "blake2b.mjs", "signature.mjs", "arrays.mjs", "stopwatch.mjs", "agreement.mjs",
    "runtimes.mjs", "sources.mjs", "on_device.mjs",
)  # fmt: skip
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


def web_files() -> dict[str, str]:
    """Return the validator for JavaScript and the page that runs it, by their names in a bundle."""
    sources = [_read(f"web/{name}") for name in _WEB_PARTS]
    joined = [
        re.sub(r'^import [^;]* from "\./.*";\n', "", text, flags=re.MULTILINE) for text in sources
    ]
    # The program's own comment, which the last part has, goes first.
    head, command = joined[-1].split("\n\n", 1)
    whole = "\n".join([f"{head}\n", *joined[:-1], command])
    return {"validate.mjs": whole, "validate.html": _read("web/validate.html")}


def _read(name: str) -> str:
    return (
        resources.files("graphopt")
        .joinpath(posixpath.normpath(f"deploy/{name}"))
        .read_text("utf-8")
    )


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
