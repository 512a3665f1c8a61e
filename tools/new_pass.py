"""Write the two files of a new pass: `make new-pass NAME=fold-transposes`.

The pass loads and does nothing, and its golden says so; `make check` fails until the docstring's
Example shows a change, the pass makes it, and some model has a place for it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"[a-z]+(-[a-z0-9]+)+")

MODULE = '''"""{title}."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.ir import nodes
from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass

__all__ = ["{class_name}"]


@dataclass(frozen=True, kw_only=True)
class {class_name}(Pass):
    """{title}.

    What it does
        Say which places it looks for and what it puts there.

    When it refuses
        Nothing that it matches.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes). No weight is read.

    Example
        before  (float[N] x) => (float[N] y) {{ y = Relu(x) }}
        after   (float[N] x) => (float[N] y) {{ y = Relu(x) }}

    References
        Operator and opset, or paper, section and equation.
    """

    name: ClassVar[str] = "{name}"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """{title}."""
        for _node in nodes(model):
            # with edit.rewrite(node, because="...") as change:
            #     change.replace(node.outputs[0], change.node("Op", [...], like=node.outputs[0]))
            #     change.remove(node)
            continue
'''

GOLDEN = """# {name}

## A place where it acts

```pipeline
{name}
```

```onnx before
(float[N] x) => (float[N] y) {{ y = Relu(x) }}
```

```onnx after
(float[N] x) => (float[N] y) {{ y = Relu(x) }}
```

```edits
0
```
"""


def new_files(name: str) -> dict[Path, str]:
    """Return the paths, below the root, and the texts of the two files of pass `name`."""
    words = name.split("-")
    module = "_".join(words)
    filling = {
        "name": name,
        "class_name": "".join(word.capitalize() for word in words),
        "title": " ".join(words).capitalize(),
    }
    return {
        Path("graphopt/passes") / f"{module}.py": MODULE.format(**filling),
        Path("tests/passes") / f"{module}.md": GOLDEN.format(**filling),
    }


def main(arguments: list[str]) -> int:
    """Write the files, or say why not."""
    if len(arguments) != 1 or not NAME.fullmatch(arguments[0]):
        print("give a verb and an object in full words, for example fold-transposes")
        return 2
    files = new_files(arguments[0])
    taken = [path for path in files if (ROOT / path).exists()]
    if taken:
        print(f"{taken[0]} exists")
        return 2
    for path, text in files.items():
        (ROOT / path).write_text(text, encoding="utf-8")
        print(f"wrote {path}")
    print(f"next: write the Example, then `make check PASS={arguments[0]}`")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
