"""Export estimators of scikit-learn, one command each, and say what came of it.

    python benchmarks/export/estimators.py --interpreter framework/bin/python --work work

`--interpreter` is a Python with scikit-learn, joblib, skl2onnx. The estimators are fitted on 120
seeded rows of four numbers: on two classes with words for labels, three with numbers, two columns
of labels, one value or two. A line is the largest difference at one, five and sixteen rows, what
was not compared, or why there is no file. The exit status is 1 where there is neither.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

FIT = """
import sys, pathlib, joblib, numpy as np
from sklearn import (cluster, decomposition, ensemble, linear_model, mixture, multioutput,
                     naive_bayes, neighbors, neural_network, pipeline, preprocessing, svm, tree)
draw = np.random.default_rng(0)
X = draw.standard_normal((120, 4))
two = np.where(X[:, 0] + X[:, 1] > 0, "yes", "no")
three = X[:, :3].argmax(1)
both = np.stack([(X[:, 0] > 0).astype(int), three], 1)
value = X @ np.arange(1.0, 5.0)
values = np.stack([value, value + X[:, 0]], 1)
hist = ensemble.HistGradientBoostingClassifier(max_iter=10)
several = multioutput.MultiOutputClassifier(linear_model.LogisticRegression())
forest = ensemble.RandomForestRegressor(10, random_state=0)
scaled = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
made = {
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
    given = parser.parse_args()
    folder = given.work.absolute() / "estimators"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([given.interpreter, "-W", "ignore", "-c", FIT, folder], check=True)
    print("| estimator | difference |\n|---|---|")
    faults = 0
    for path in sorted(folder.glob("*.joblib")):
        said, is_well = told(path, given.interpreter)
        faults += not is_well
        print(f"| {path.stem} | {said.replace('|', chr(92) + '|')} |", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
