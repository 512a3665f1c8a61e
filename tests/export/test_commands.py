"""The commands of `docs/coming-from.md` that ask for a framework."""

import shutil

from coming_from import LINES, command, needs_a_framework, run

FACTORY = """
import torch

def make_encoder():
    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    return layers, (torch.ones(2, 4),), {"input": {0: "batch"}}
"""


def test_commands(interpreter, sources, tmp_path, monkeypatch, capfd):
    shutil.copytree(sources / "bert", tmp_path / "encoder")
    for name in ("program.pt2", "forest.joblib"):
        shutil.copy(sources / name, tmp_path / name)
    (tmp_path / "my_models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    asked = [words for words in map(command, LINES) if needs_a_framework(words)]
    assert {words[0] for words in asked} == {"export", "optimize"}
    told = [[*words, "--interpreter", interpreter] for words in asked]
    assert "\n".join(fault for words in told if (fault := run(words, capfd))) == ""
    folders = [words[words.index("-o") + 1] for words in asked]
    assert all((tmp_path / name / "model.onnx").exists() for name in folders)
