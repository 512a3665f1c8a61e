"""Write tiny models of every framework into FOLDER; run by a Python that has the frameworks."""

import pickle
import sys
from pathlib import Path


def write_huggingface(folder):
    import torch
    import transformers

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = transformers.BertConfig(vocab_size=40, intermediate_size=24, **small)
    transformers.BertModel(bert).eval().save_pretrained(folder / "bert")
    llama = transformers.LlamaConfig(
        vocab_size=40, intermediate_size=24, num_key_value_heads=1, **small
    )
    transformers.LlamaForCausalLM(llama).eval().save_pretrained(folder / "llama")
    sliding = transformers.MistralConfig(
        vocab_size=40, intermediate_size=24, num_key_value_heads=1, sliding_window=4, **small
    )
    transformers.MistralForCausalLM(sliding).eval().save_pretrained(folder / "sliding")
    t5 = transformers.T5Config(
        vocab_size=40, d_model=16, d_ff=24, d_kv=8, num_heads=2, num_layers=1
    )
    transformers.T5ForConditionalGeneration(t5).eval().save_pretrained(folder / "t5")
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    whisper = transformers.WhisperConfig(
        vocab_size=40,
        d_model=16,
        num_mel_bins=8,
        max_source_positions=6,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
        **heads,
    )
    speech = transformers.WhisperForConditionalGeneration(whisper).eval()
    speech.save_pretrained(folder / "whisper")
    vit = transformers.ViTConfig(
        image_size=16, patch_size=8, intermediate_size=24, num_labels=3, **small
    )
    transformers.ViTForImageClassification(vit).eval().save_pretrained(folder / "vit")


def write_program(folder):
    import torch

    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    torch.export.save(torch.export.export(layers, (torch.ones(2, 4),)), folder / "program.pt2")


def write_estimators(folder):
    import joblib
    import numpy as np
    import skops.io
    from sklearn import ensemble, linear_model, pipeline, preprocessing, svm

    draw = np.random.default_rng(0)
    rows = draw.standard_normal((120, 4))
    words = np.where(rows[:, 0] + rows[:, 1] > 0, "yes", "no")
    numbers = rows @ np.arange(1.0, 5.0)
    scaled = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression()
    )
    made = {
        "forest": ensemble.RandomForestClassifier(5, random_state=0).fit(rows, words),
        "scaled": scaled.fit(rows, words),
        "numbers": ensemble.RandomForestRegressor(5, random_state=0).fit(rows, numbers),
        "pairs": linear_model.LinearRegression().fit(rows, np.stack([numbers, -numbers], 1)),
        "outliers": ensemble.IsolationForest(n_estimators=5, random_state=0).fit(rows),
        "scaler": preprocessing.StandardScaler().fit(rows),
        "margins": svm.LinearSVC().fit(rows, words),
        "swapped": svm.SVC().fit(rows, words),
        "unfitted": linear_model.LinearRegression(),
    }
    for name, estimator in made.items():
        joblib.dump(estimator, folder / f"{name}.joblib")
    (folder / "plain.pkl").write_bytes(pickle.dumps(made["scaled"]))
    skops.io.dump(made["scaled"], folder / "scaled.skops")
    skops.io.dump(made["forest"], folder / "forest.skops")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    write_huggingface(place)
    write_program(place)
    write_estimators(place)
