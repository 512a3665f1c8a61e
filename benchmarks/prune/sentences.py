"""Make sentences to prune and to judge a sentence encoder by, without a download.

Usage:
    python benchmarks/prune/sentences.py --tokenizer FOLDER --out samples

`FOLDER` holds the `tokenizer.json` of the model (`pip install tokenizers`). The sentences are what
people wrote for people and any development machine has: documentation strings of the standard
library and of installed packages, manual pages, licences, texts about the Python language. They
are cut into passages of one to four sentences, cleaned of markup, deduplicated, and drawn by a
seeded hash. Passages for evaluation come from other packages and programs than those for
calibration: `evaluation` has many of a few subjects, `unrelated` two of each of many.

Writes `calibration/` (feeds of passages of one length: nothing is padded), `padded/` (the same
passages in feeds with padding, to test that padding is left out), `evaluation/` (one passage a
feed), and the passages themselves as `calibration.txt` and `evaluation.txt`. The same installed
files give the same passages.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import hashlib
import itertools
import re
import site
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MANUALS = Path("/usr/share/man")
LICENCES = Path("/usr/share/common-licenses")
SECTIONS = ("man1", "man3", "man5", "man7", "man8")
MOST_PER_FILE, MOST_FILES = 6, 4000
MOST_PER_FAMILY = 60  # files of one package, or manual pages of one program
LEAST_WORDS, MOST_WORDS = 6, 60
LEAST_LETTERS = 0.78
EVALUATION_SHARE = 4  # one family in four is kept for evaluation
PASSAGES_OF_A_SUBJECT = 16

Feed = dict[str, NDArray[np.int64]]
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_ROFF = re.compile(r"\\f.|\\\(..|\\[&|^%/,]|\\s[+-]?\d")
_MARKUP = re.compile(r"[`*_\\|<>{}\[\]=@#~^$]|--|://|\w\(\)")


def _rank(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()


def docstrings(path: Path) -> Iterator[str]:
    """Yield the paragraphs of the documentation strings of a Python file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield from text.split("\n\n")


def manual(path: Path) -> Iterator[str]:
    """Yield the paragraphs of a manual page, less its macros."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        text = file.read()
    lines = []
    for line in text.split("\n"):
        if line.startswith((".", "'")):
            is_word = re.match(r"\.(B|I|BR|IR|RB|RI|Nm|Ar|Pa)\s+([^\s].*)", line)
            lines.append(is_word.group(2).replace('"', "") if is_word else "\n")
        else:
            lines.append(_ROFF.sub("", line.replace("\\-", "-").replace("\\(aq", "'")))
    yield from " ".join(lines).split("\n")


def plain(path: Path) -> Iterator[str]:
    """Yield the paragraphs of a text file."""
    yield from path.read_text(encoding="utf-8", errors="replace").split("\n\n")


def topics() -> Iterator[str]:
    """Yield the paragraphs of the texts about the language that come with Python."""
    from pydoc_data.topics import topics as texts

    for name in sorted(texts):
        yield from texts[name].split("\n\n")


def passages(paragraphs: Iterable[str]) -> Iterator[str]:
    """Yield passages of one to four sentences that read like text."""
    for number, paragraph in enumerate(paragraphs):
        text = " ".join(paragraph.split())
        sentences = [one for one in _SENTENCE.split(text) if _is_text(one)]
        wanted = 1 + number % 4
        for start in range(0, len(sentences), wanted):
            passage = " ".join(sentences[start : start + wanted])
            if len(passage.split()) <= 2 * MOST_WORDS:
                yield passage


def _is_text(sentence: str) -> bool:
    words = sentence.split()
    letters = sum(character.isalpha() for character in sentence)
    return (
        LEAST_WORDS <= len(words) <= MOST_WORDS
        and sentence[0].isupper()
        and sentence[-1] in ".!?"
        and not _MARKUP.search(sentence)
        and letters >= LEAST_LETTERS * len(sentence)
    )


def _files(seed: int) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield texts by a name that does not hang on where things are installed."""
    library = Path(sysconfig.get_path("stdlib"))
    roots = [library, *(Path(one) for one in site.getsitepackages())]
    found: dict[str, Path] = {}
    for root in roots:
        for path in root.rglob("*.py"):
            name = path.relative_to(root).as_posix()
            if not {"test", "tests", "site-packages", "idlelib"} & set(
                path.parts[len(root.parts) :]
            ):
                found.setdefault(name, path)
    for section in SECTIONS:
        for path in (MANUALS / section).glob("*.gz"):
            found.setdefault(f"{section}/{path.name}", path)
    for path in LICENCES.glob("*"):
        found.setdefault(f"licences/{path.name}", path)
    names = list(_mixed(sorted(found, key=lambda name: _rank(seed, name))))
    # As many of each kind: programs and libraries talk of different things in different words.
    kinds = [[name for name in names if name.startswith(one)] for one in ("man", "licences")]
    manuals, licences = kinds
    python = [name for name in names if name.endswith(".py")]
    mixed = itertools.zip_longest(manuals[: MOST_FILES // 2], python[: MOST_FILES // 2])
    for name in [*licences, *(one for pair in mixed for one in pair if one is not None)]:
        path = found[name]
        reader = docstrings if path.suffix == ".py" else manual if path.suffix == ".gz" else plain
        yield name, reader(path)
    yield "topics", topics()


def _family(name: str) -> str:
    """Return what a file belongs to: a package, or the program that a manual page is about."""
    parts = name.split("/")
    if name.endswith(".py"):
        return parts[0].removesuffix(".py")
    return name if parts[0] == "licences" else re.split(r"[-_.:]", parts[-1])[0]


def _mixed(names: Iterable[str]) -> Iterator[str]:
    """Yield names, of each family only the first ones."""
    counts: Counter[str] = Counter()
    for name in names:
        counts[_family(name)] += 1
        if counts[_family(name)] <= MOST_PER_FAMILY:
            yield name


@dataclass(frozen=True)
class Passages:
    """Passages to calibrate on and to judge by, no family of texts in two of them.

    Attributes:
        calibration: Of all kinds.
        evaluation: Of few families, many of each: pairs go from the same subject to none in common,
            as pairs do in sentence similarity tasks.
        unrelated: At most two of a family: similarities differ by little, which is harder to keep.
    """

    calibration: list[str]
    evaluation: list[str]
    unrelated: list[str]


def collect(seed: int, calibration: int, evaluation: int) -> Passages:
    """Return passages; `evaluation` is the number of each of the two sets to judge by."""
    seen: set[str] = set()
    families: dict[str, list[str]] = {}
    for name, paragraphs in _files(seed):
        most = MOST_PER_FILE * (20 if name == "topics" or name.startswith("licences") else 1)
        found = []
        for passage in passages(paragraphs):
            key = re.sub(r"\W+", " ", passage.lower())
            if key not in seen:
                seen.add(key)
                found.append(passage)
        found.sort(key=lambda passage: _rank(seed, passage))
        families.setdefault(_family(name), []).extend(found[:most])
    order = sorted(families, key=lambda name: _rank(seed + 1, name))
    held_out = [name for name in order if _rank(seed + 1, name)[-1] % EVALUATION_SHARE == 0]
    rest = [passage for name in order if name not in set(held_out) for passage in families[name]]
    related: list[str] = []
    unrelated: list[str] = []
    for name in held_out:
        some = families[name]
        if len(some) >= PASSAGES_OF_A_SUBJECT and len(related) < evaluation:
            related += some[:PASSAGES_OF_A_SUBJECT]
        elif len(unrelated) < evaluation:
            unrelated += some[:2]
    rest.sort(key=lambda passage: _rank(seed, passage))
    return Passages(rest[:calibration], related[:evaluation], unrelated[:evaluation])


def _feed(rows: list[list[int]]) -> Feed:
    longest = max(len(row) for row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def feeds_of_one_length(rows: Iterable[list[int]], batch: int) -> Iterator[Feed]:
    """Yield feeds of up to `batch` rows with as many tokens, in an order that mixes lengths."""
    by_length: dict[int, list[list[int]]] = {}
    for row in rows:
        by_length.setdefault(len(row), []).append(row)
    found = [
        some[start : start + batch]
        for _, some in sorted(by_length.items())
        for start in range(0, len(some), batch)
    ]
    for place in np.random.default_rng(0).permutation(len(found)):
        yield _feed(found[place])


def write(feeds: Iterable[Feed], folder: Path) -> int:
    """Write feeds as numbered files; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.npz"):
        old.unlink()
    count = 0
    for count, feed in enumerate(feeds, start=1):
        np.savez(folder / f"{count:05}.npz", **feed)  # type: ignore[arg-type]  # arrays by name
    return count


def main() -> None:
    """Collect, tokenize and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--calibration", type=int, default=3000, help="passages")
    parser.add_argument("--evaluation", type=int, default=400, help="passages")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a passage")
    parser.add_argument("--batch", type=int, default=16, help="passages of a feed")
    parser.add_argument("--seed", type=int, default=0, help="which passages are drawn")
    arguments = parser.parse_args()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(arguments.max_length)
    found = vars(collect(arguments.seed, arguments.calibration, arguments.evaluation))
    rows = {name: [tokenizer.encode(text).ids for text in texts] for name, texts in found.items()}
    for name, texts in found.items():
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        lengths = [len(row) for row in rows[name]]
        print(f"{name}: {len(texts)} passages, {sum(lengths)} tokens, {min(lengths)} to ", end="")
        print(f"{max(lengths)} each, median {int(np.median(lengths))}")
    batch, calibration = arguments.batch, rows.pop("calibration")
    write(feeds_of_one_length(calibration, batch), arguments.out / "calibration")
    starts = range(0, len(calibration), batch)
    padded = (_feed(calibration[start : start + batch]) for start in starts)
    write(padded, arguments.out / "padded")
    for name, some in rows.items():
        write((_feed([row]) for row in some), arguments.out / name)


if __name__ == "__main__":
    main()
