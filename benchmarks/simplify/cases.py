"""What each peer is told about a model of the zoo, by the architecture in its folder's name."""

from __future__ import annotations

from typing import Any

PORTABLE = ("onnxsim", "onnxslim", "onnxoptimizer", "onnxscript", "ort-basic")
FUSING = ("ort-extended", "ort-transformers", "ort-transformers:fusions")
PEERS = (*PORTABLE, *FUSING)

# Model type, heads and hidden size for ONNX Runtime's transformer optimizer, as its users give
# them; 0: detected. Other architectures get the tool's default, `bert`.
MODEL_TYPES: dict[str, tuple[str, int, int]] = {
    "minilm": ("bert", 12, 384),
    "bert_base": ("bert", 12, 768),
    "distilbert": ("bert", 12, 768),
    "gpt2": ("gpt2", 12, 768),
    "llama": ("gpt2", 16, 1024),
    "t5": ("t5", 8, 512),
    "whisper": ("bart", 6, 384),
    "vit": ("vit", 12, 768),
    "clip": ("clip", 8, 512),
    "swin": ("swin", 0, 0),
    "detr": ("bart", 8, 256),
}


def peer_options(tool: str, name: str) -> dict[str, Any]:
    """Return the settings of a peer for one model.

    Args:
        tool: Name of the peer; `ort-transformers:fusions` leaves the runtime's own pass out.
        name: Folder of the model in the zoo, for example `gpt2_past.dyn`.
    """
    if not tool.startswith("ort-transformers"):
        return {}
    match = next((value for key, value in MODEL_TYPES.items() if name.startswith(key)), None)
    model_type, heads, hidden = match or ("bert", 0, 0)
    options: dict[str, Any] = {"model_type": model_type, "num_heads": heads, "hidden_size": hidden}
    return {**options, "opt_level": 0} if tool.endswith(":fusions") else options
