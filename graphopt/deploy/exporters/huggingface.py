"""Models of Hugging Face from a local folder, behind wrappers of their tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .loaded import ExportError, Loaded

__all__ = ["TASKS", "load_huggingface"]

TASKS = {
    "feature-extraction": ("AutoModel", "last_hidden_state"),
    "fill-mask": ("AutoModelForMaskedLM", "logits"),
    "text-classification": ("AutoModelForSequenceClassification", "logits"),
    "token-classification": ("AutoModelForTokenClassification", "logits"),
    "question-answering": ("AutoModelForQuestionAnswering", "start_logits end_logits"),
    "text-generation": ("AutoModelForCausalLM", "logits"),
    "image-classification": ("AutoModelForImageClassification", "logits"),
    "image-feature-extraction": ("AutoModel", "last_hidden_state"),
    "semantic-segmentation": ("AutoModelForSemanticSegmentation", "logits"),
}
"""By task: the class of the model, and what the exported model returns."""

_BY_CLASS = {
    "MaskedLM": "fill-mask",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "CausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ImageClassification": "image-classification",
    "SemanticSegmentation": "semantic-segmentation",
}
_BATCH, _LENGTH = 2, 7
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


def load_huggingface(text: str, *, trust: bool) -> Loaded:
    """Load ``FOLDER[@task]``.

    Raises:
        ExportError: The folder holds no model, leads out of itself, has only pickled weights and
            ``trust`` is not set, or the task is unknown.
    """
    path, _, task = text.partition("@")
    folder = Path(path)
    config = _checked(folder, trust=trust)
    task = task or _task_of(config)
    if task not in TASKS:
        raise ExportError(f"unknown task `{task}`; known: {', '.join(TASKS)}")
    import transformers

    name, results = TASKS[task]
    kind = getattr(transformers, name)
    module = kind.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=None if trust else True,
    )
    module.eval()
    is_image = task.startswith(("image-", "semantic-"))
    loaded = (_vision if is_image else _text)(module, folder, results.split(), task)
    loaded.origin = {"task": task, "architecture": type(module).__name__, "folder": folder.name}
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
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def _task_of(config: dict[str, Any]) -> str:
    for name in config.get("architectures") or ():
        for part, task in _BY_CLASS.items():
            if part in name:
                return task
    if "image_size" in config and "vocab_size" not in config:
        return "image-feature-extraction"
    return "feature-extraction"


def _text(module: Any, _folder: Path, results: list[str], task: str) -> Loaded:
    import torch

    generator = torch.Generator().manual_seed(0)
    size = getattr(module.config, "vocab_size", 100)
    ids = torch.randint(1, size, (_BATCH, _LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    args: list[Any] = [ids, mask]
    if _has_types(module):
        args.append(torch.zeros_like(ids))
    axes = {0: "batch", 1: "sequence"}
    names = ["input_ids", "attention_mask", "token_type_ids"][: len(args)]
    extra = {"use_cache": False} if task == "text-generation" else {}
    wrapper = _wrapped_types if len(args) == 3 else _wrapped_text  # noqa: PLR2004
    return Loaded(
        wrapper(module, results, extra),
        tuple(args),
        dict.fromkeys(names, axes),
        output_names=results,
    )


def _has_types(module: Any) -> bool:
    return getattr(module.config, "type_vocab_size", 0) > 1


def _vision(module: Any, folder: Path, results: list[str], _task: str) -> Loaded:
    import torch

    channels = getattr(module.config, "num_channels", 3)
    size = _image_size(module, folder)
    pixels = torch.randn((_BATCH, channels, size, size), generator=torch.Generator().manual_seed(0))
    axes = {"pixel_values": {0: "batch"}}
    return Loaded(_wrapped_image(module, results), (pixels,), axes, output_names=results)


def _image_size(module: Any, folder: Path) -> int:
    own = getattr(module.config, "image_size", None)
    if isinstance(own, int):
        return own
    spec = folder / "preprocessor_config.json"
    size = json.loads(spec.read_text(encoding="utf-8")).get("size", {}) if spec.exists() else {}
    if isinstance(size, int):
        return size
    return int(size.get("height") or size.get("shortest_edge") or 224)


def _wrapped_text(module: Any, results: list[str], extra: dict[str, Any]) -> Any:
    import torch

    class Text(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            found = self.model(input_ids=input_ids, attention_mask=attention_mask, **extra)
            return tuple(getattr(found, name) for name in results)

    return Text()


def _wrapped_types(module: Any, results: list[str], extra: dict[str, Any]) -> Any:
    import torch

    class TextWithTypes(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            found = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                **extra,
            )
            return tuple(getattr(found, name) for name in results)

    return TextWithTypes()


def _wrapped_image(module: Any, results: list[str]) -> Any:
    import torch

    class Image(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, pixel_values: Any) -> Any:
            found = self.model(pixel_values=pixel_values)
            return tuple(getattr(found, name) for name in results)

    return Image()
