"""Write folders of Hugging Face with seeded random weights, one for each architecture.

    python benchmarks/export/architectures.py FOLDER [NAME ...]

Needs torch and transformers, nothing of graphopt. Widths, heads, strides and operators are those
of the published base models; layers are two (of each stage, where there are stages) and words
8,000, so that all of them together take minutes and 700 MB. What exporters stumble over is in the
code of an architecture, which a second layer repeats.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

WORDS, LAYERS, CLASSES = 8000, 2, 1000


def bert() -> Any:
    return transformers.BertModel(
        transformers.BertConfig(num_hidden_layers=LAYERS, vocab_size=WORDS)
    )


def distilbert() -> Any:
    return transformers.DistilBertModel(
        transformers.DistilBertConfig(n_layers=LAYERS, vocab_size=WORDS)
    )


def gpt2() -> Any:
    ends = {"bos_token_id": 1, "eos_token_id": 1}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=LAYERS, vocab_size=WORDS, **ends)
    )


def llama() -> Any:
    """Queries in groups: two heads share keys and values."""
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=1024,
            num_hidden_layers=LAYERS,
            intermediate_size=2816,
            num_attention_heads=16,
            num_key_value_heads=8,
            vocab_size=WORDS,
        )
    )


def t5() -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            num_layers=LAYERS, vocab_size=WORDS, d_ff=2048, decoder_start_token_id=0
        )
    )


def whisper() -> Any:
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1)
    return transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            d_model=384,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=1536,
            decoder_ffn_dim=1536,
            vocab_size=WORDS,
            decoder_start_token_id=1,
            **tokens,
        )
    )


def clip() -> Any:
    ends = {"bos_token_id": 1, "eos_token_id": WORDS - 1}
    text = {"num_hidden_layers": LAYERS, "vocab_size": WORDS, **ends}
    vision = {"num_hidden_layers": LAYERS}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))


def vit() -> Any:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(num_hidden_layers=LAYERS, num_labels=CLASSES)
    )


def segformer() -> Any:
    return transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(num_labels=150)
    )


def convnext() -> Any:
    return transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(depths=[LAYERS] * 4, num_labels=CLASSES)
    )


def swin() -> Any:
    return transformers.SwinForImageClassification(
        transformers.SwinConfig(depths=[LAYERS] * 4, num_labels=CLASSES)
    )


def resnet() -> Any:
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=CLASSES))


def mobilenetv2() -> Any:
    return transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(num_labels=CLASSES, tf_padding=False)
    )


def efficientnet() -> Any:
    """EfficientNet-B0; the default of transformers is B7."""
    return transformers.EfficientNetForImageClassification(
        transformers.EfficientNetConfig(
            width_coefficient=1.0,
            depth_coefficient=1.0,
            hidden_dim=1280,
            image_size=224,
            num_labels=CLASSES,
        )
    )


def detr() -> Any:
    return transformers.DetrForObjectDetection(
        transformers.DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=transformers.ResNetConfig(out_features=["stage4"]),
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            num_labels=91,
        )
    )


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    made.__name__: made
    for made in (
        bert,
        distilbert,
        gpt2,
        llama,
        t5,
        whisper,
        clip,
        vit,
        segformer,
        convnext,
        swin,
        resnet,
        mobilenetv2,
        efficientnet,
        detr,
    )
}


def unsettle(model: Any) -> None:
    """Give norms and biases values of their own: ones and zeros would hide what drops them."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, values in (*model.named_parameters(), *model.named_buffers()):
            if values.ndim != 1 or not values.is_floating_point():
                continue
            noise = torch.randn(values.shape, generator=draw)
            if name.endswith("running_var"):
                values.mul_(1.0 + 0.2 * noise.abs())
            else:
                values.add_(0.05 * noise)


def write(name: str, folder: Path) -> None:
    """Make one model, and write it as its users find it."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().eval()
    unsettle(model)
    model.save_pretrained(folder / name)


def main() -> None:
    """Write what is named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=[*ARCHITECTURES, []])
    given = parser.parse_args()
    for name in given.names or ARCHITECTURES:
        write(name, given.folder)
        print(name, flush=True)


if __name__ == "__main__":
    main()
