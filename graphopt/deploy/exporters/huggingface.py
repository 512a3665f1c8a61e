"""Models of Hugging Face from a local folder."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from .huggingface_tasks import PARTS, TASKS, Call
from .loaded import ExportError, Loaded
from .optimum_exporter import export_optimum

__all__ = ["load_huggingface"]

_BY_CLASS = {
    "MaskedLM": "fill-mask",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "CausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ImageClassification": "image-classification",
    "SemanticSegmentation": "semantic-segmentation",
    "ObjectDetection": "object-detection",
    "CLIPModel": "zero-shot-image-classification",
    "WhisperForConditionalGeneration": "automatic-speech-recognition",
    "ForConditionalGeneration": "text2text-generation",
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


def load_huggingface(text: str, *, trust: bool) -> Loaded:
    """Load ``FOLDER[@task[/part]]``.

    Raises:
        ExportError: The folder holds no model, leads out of itself, has only pickled weights and
            ``trust`` is not set, or the task or the part is unknown.
    """
    is_whole = Path(text).is_dir()  # a folder, too, may have an `@` in its name
    path, _, wanted = (text, "", "") if is_whole else text.rpartition("@")
    folder = Path(path or text)
    config = _checked(folder, trust=trust)
    task, _, part = (wanted or _task_of(config)).partition("/")
    if task not in TASKS:
        raise ExportError(f"unknown task `{task}`; known: {', '.join(TASKS)}")
    if part and not (TASKS[task].has_parts and part in PARTS):
        parts = f"its parts: {', '.join(PARTS)}" if TASKS[task].has_parts else "it has no parts"
        raise ExportError(f"unknown part `{part}` of `{task}`; {parts}")
    import transformers

    model = getattr(transformers, TASKS[task].kind).from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=None if trust else True,
    )
    model.eval()
    call = TASKS[task].form(model, folder, part)
    loaded = _loaded(model, call, call.outputs or TASKS[task].outputs)
    loaded.origin = {"task": task, "architecture": type(model).__name__, "folder": folder.name}
    if part:
        loaded.origin["part"] = part
    loaded.exporters = {"optimum": partial(export_optimum, model, task, part)}
    return loaded


def _checked(folder: Path, *, trust: bool) -> dict[str, Any]:
    """Return the configuration of a folder that holds a model and nothing that leads out of it."""
    if not (folder / "config.json").is_file():
        raise ExportError(f"`{folder.name}` holds no `config.json`")
    root = folder.resolve()
    # The cache of Hugging Face links from `snapshots/X` to `blobs`, beside it.
    homes = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    for path in sorted(folder.rglob("*")):
        if not any(path.resolve().is_relative_to(home) for home in homes):
            raise ExportError(f"`{path.relative_to(folder)}` leads out of the folder")
    has_plain = any(folder.glob("*.safetensors"))
    has_pickles = any(path for form in _PICKLES for path in folder.glob(form))
    if not has_plain and has_pickles and not trust:
        raise ExportError(
            "its weights are pickled, and loading them can run any code: add `--trust` if you "
            "know where they come from, or save them as safetensors"
        )
    _check_index(folder, trust=trust)
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def _check_index(folder: Path, *, trust: bool) -> None:
    """Refuse an index of weights that names files elsewhere, or pickled ones."""
    for index in sorted(folder.glob("*.index.json")):
        named = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
        for name in sorted(set(named.values())):
            # Parts of weights lie beside their index, under a bare name.
            if Path(name).name != name:
                raise ExportError(f"`{index.name}` names `{name}`, which leads out of the folder")
            is_plain = name.endswith(".safetensors")
            # `use_safetensors` looks at the index alone: what it names is loaded by its ending.
            if ".safetensors" in index.name and not is_plain and not trust:
                raise ExportError(f"`{index.name}` names `{name}`, which may be pickled")


def _task_of(config: dict[str, Any]) -> str:
    for name in config.get("architectures") or ():
        for part, task in _BY_CLASS.items():
            if part in name:
                return task
    if "image_size" in config and "vocab_size" not in config:
        return "image-feature-extraction"
    return "feature-extraction"


def _loaded(model: Any, call: Call, outputs: tuple[str, ...]) -> Loaded:
    """Return a module that takes the inputs by position and returns the outputs in order."""
    import torch

    names = list(call.cases[0])

    class Called(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: Any) -> Any:
            found = call.run(dict(zip(names, args, strict=True)))
            return tuple(found[name] for name in outputs)

    cases = [tuple(case.values()) for case in call.cases]
    return Loaded(
        Called(),
        cases[0],
        call.axes,
        input_names=names,
        output_names=outputs,
        arguments=names,
        cases=cases,
        implied=call.implied,
    )
