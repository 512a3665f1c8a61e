"""Export estimators of scikit-learn, one command each, and say what came of it.

    python benchmarks/export/estimators.py --interpreter framework/bin/python --work work
        [--table benchmarks/export/results_estimators.md]

`--interpreter` is a Python with scikit-learn, joblib, skl2onnx. The estimators are fitted on 120
seeded rows of four numbers: on two classes with words for labels, three with numbers, two columns
of labels, one value or two. A line is the largest difference at one, five and sixteen rows, what
was not compared, or why there is no file. The exit status is 1 where there is neither.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = (
    "python benchmarks/export/estimators.py --interpreter framework/bin/python --work work "
    "--table FILE"
)
FIT = """
import sys, pathlib, joblib, numpy as np
from sklearn import (calibration, cluster, compose, decomposition, discriminant_analysis, ensemble,
                     feature_extraction, feature_selection, gaussian_process, linear_model, mixture,
                     multiclass, multioutput, naive_bayes, neighbors, neural_network, pipeline,
                     preprocessing, svm, tree)
draw = np.random.default_rng(0)
X = draw.standard_normal((120, 4))
two = np.where(X[:, 0] + X[:, 1] > 0, "yes", "no")
three = X[:, :3].argmax(1)
both = np.stack([(X[:, 0] > 0).astype(int), three], 1)
value = X @ np.arange(1.0, 5.0)
values = np.stack([value, value + X[:, 0]], 1)
hist = ensemble.HistGradientBoostingClassifier(max_iter=10)
levels = ensemble.HistGradientBoostingRegressor(max_iter=9)
several = multioutput.MultiOutputClassifier(linear_model.LogisticRegression())
forest = ensemble.RandomForestRegressor(10, random_state=0)
scaled = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
columns = compose.ColumnTransformer(
    [("a", preprocessing.StandardScaler(), [0, 1]), ("b", preprocessing.MinMaxScaler(), [2, 3])]
)
voting = ensemble.VotingClassifier(
    [("a", linear_model.LogisticRegression()), ("b", naive_bayes.GaussianNB())], voting="soft"
)
stacking = ensemble.StackingRegressor(
    [("a", linear_model.LinearRegression()), ("b", tree.DecisionTreeRegressor(random_state=0))]
)
words = feature_extraction.text.TfidfVectorizer()
made = {
    "AdaBoostClassifier": ensemble.AdaBoostClassifier(n_estimators=9, random_state=0).fit(X, three),
    "BaggingRegressor": ensemble.BaggingRegressor(n_estimators=5, random_state=0).fit(X, value),
    "CalibratedClassifierCV": calibration.CalibratedClassifierCV(svm.LinearSVC()).fit(X, three),
    "ColumnTransformer": columns.fit(X),
    "ElasticNet": linear_model.ElasticNet(0.1).fit(X, value),
    "ExtraTreesClassifier": ensemble.ExtraTreesClassifier(10, random_state=0).fit(X, three),
    "GaussianProcessRegressor": gaussian_process.GaussianProcessRegressor().fit(X, value),
    "GradientBoostingClassifier": ensemble.GradientBoostingClassifier(n_estimators=5).fit(X, two),
    "HistGradientBoostingRegressor": levels.fit(X, value),
    "KNeighborsRegressor": neighbors.KNeighborsRegressor().fit(X, value),
    "LinearDiscriminantAnalysis": discriminant_analysis.LinearDiscriminantAnalysis().fit(X, three),
    "MLPRegressor": neural_network.MLPRegressor(max_iter=50, random_state=0).fit(X, value),
    "OneVsRestClassifier": multiclass.OneVsRestClassifier(svm.LinearSVC()).fit(X, three),
    "PolynomialFeatures": preprocessing.PolynomialFeatures(2).fit(X),
    "SelectKBest": feature_selection.SelectKBest(k=2).fit(X, three),
    "SVC, probabilities": svm.SVC(probability=True, random_state=0).fit(X, two),
    "StackingRegressor": stacking.fit(X, value),
    "StandardScaler": preprocessing.StandardScaler().fit(X),
    "TfidfVectorizer": words.fit(["words are no numbers", "so they are refused"]),
    "TruncatedSVD": decomposition.TruncatedSVD(2, random_state=0).fit(X),
    "VotingClassifier": voting.fit(X, three),
    "LogisticRegression": linear_model.LogisticRegression().fit(X, three),
    "SGDClassifier": linear_model.SGDClassifier(random_state=0).fit(X, three),
    "RidgeClassifier": linear_model.RidgeClassifier().fit(X, two),
    "LinearSVC": svm.LinearSVC().fit(X, three),
    "SVC, 3 classes": svm.SVC().fit(X, three),
    "SVC, 2 classes": svm.SVC().fit(X, two),
    "KNeighborsClassifier": neighbors.KNeighborsClassifier().fit(X, three),
    "GaussianNB": naive_bayes.GaussianNB().fit(X, three),
    "MLPClassifier": neural_network.MLPClassifier(max_iter=50, random_state=0).fit(X, three),
    "RandomForestClassifier": ensemble.RandomForestClassifier(10, random_state=0).fit(X, two),
    "HistGradientBoostingClassifier": hist.fit(X, three),
    "DecisionTreeClassifier, 2 labels": tree.DecisionTreeClassifier(random_state=0).fit(X, both),
    "MultiOutputClassifier": several.fit(X, both),
    "Pipeline": scaled.fit(X, two),
    "LinearRegression, 2 values": linear_model.LinearRegression().fit(X, values),
    "RandomForestRegressor": ensemble.RandomForestRegressor(10, random_state=0).fit(X, value),
    "RandomForestRegressor, 2 values": forest.fit(X, values),
    "GradientBoostingRegressor": ensemble.GradientBoostingRegressor(n_estimators=10).fit(X, value),
    "SVR": svm.SVR().fit(X, value),
    "KMeans": cluster.KMeans(3, random_state=0).fit(X),
    "GaussianMixture": mixture.GaussianMixture(2, random_state=0).fit(X),
    "IsolationForest": ensemble.IsolationForest(n_estimators=10, random_state=0).fit(X),
    "PCA": decomposition.PCA(2).fit(X),
}
for name, estimator in made.items():
    joblib.dump(estimator, pathlib.Path(sys.argv[1], name + ".joblib"))
"""


def told(path: Path, interpreter: str) -> tuple[str, bool]:
    """Export one; return what to print, and whether it ended well."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "graphopt", "export", f"sklearn:{path}", "--trust"]
        words += ["-o", f"{folder}/out", "--interpreter", interpreter, "--json", "--no-progress"]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
    document = json.loads(ended.stdout or "{}")
    if ended.returncode == 0:
        return "; ".join([f"{document['largest_difference']:.1e}", *document["doubts"]]), True
    why = " ".join(str(document.get("error", document).get("why", "")).split())
    return f"no: {why[:110]}", bool(why) and ended.returncode in {1, 2}


def main() -> int:
    """Fit, export, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--interpreter", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--table", type=Path, help="where the table is written, too")
    given = parser.parse_args()
    folder = given.work.absolute() / "estimators"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([given.interpreter, "-W", "ignore", "-c", FIT, folder], check=True)
    lines = ["| estimator | difference |", "|---|---|"]
    print("\n".join(lines))
    faults = 0
    for path in sorted(folder.glob("*.joblib")):
        said, is_well = told(path, given.interpreter)
        faults += not is_well
        lines.append(f"| {path.stem} | {said.replace('|', chr(92) + '|')} |")
        print(lines[-1], flush=True)
    if given.table is not None:
        given.table.write_text("\n".join([*heading(given.interpreter, lines), *lines, ""]))
    return 1 if faults else 0


def heading(interpreter: str, lines: list[str]) -> list[str]:
    """Return what stands above the table."""
    names = ("scikit-learn", "skl2onnx", "onnx")
    ask = f"from importlib.metadata import version; print(*map(version, {names}))"
    words = [interpreter, "-c", ask]
    found = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    versions = ", ".join(f"{name} {held}" for name, held in zip(names, found, strict=True))
    refused = sum("| no: " in line for line in lines)
    return [
        "# Estimators of scikit-learn",
        "",
        f"`{COMMAND}`",
        "",
        f"{versions}; {platform.machine()}. Largest difference at one, five and sixteen rows, as",
        "part of the largest value; labels are equal. `no`: nothing is written, for this reason.",
        f"{len(lines) - 2 - refused} of {len(lines) - 2} match, {refused} are refused.",
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
