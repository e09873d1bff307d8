"""Train on scikit-learn's real data and write weights and samples; run it in this folder.

Deterministic: one seed. The held-out third, that of ``breast_cancer``, is never looked at before
the last lines print its accuracy. The trees are scikit-learn's; hummingbird-ml makes tensors of
them, which is all that it is needed for:

    pip install --no-deps hummingbird-ml==0.4.12 onnxconverter-common==1.16.0 dill==0.4.1

``--no-deps``, as hummingbird-ml asks for an onnx older than zkserve's; what is used of it here
works with both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hummingbird.ml import convert
from model import BoostedTrees
from safetensors.torch import save_file
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split

SEED = 0
TREES = 10
DEPTH = 2
RATE = 0.3
CALIBRATION = 128
FOLDER = Path(__file__).parent


def tensors(boosted: GradientBoostingClassifier) -> dict[str, torch.Tensor]:
    """Return hummingbird's tensors of fitted trees, by its own names."""
    core = convert(boosted, "torch", extra_config={"tree_implementation": "perf_tree_trav"}).model
    (trees,) = core._operators
    return {name.replace(".", "_"): p.detach().clone() for name, p in trees.named_parameters()}


def main() -> None:
    """Train, save, report."""
    data = load_breast_cancer()
    features = data.data.astype(np.float32)
    malignant = 1 - data.target  # scikit-learn counts malignant as 0
    train_x, held_out_x, train_y, held_out_y = train_test_split(
        features, malignant, test_size=0.3, stratify=malignant, random_state=SEED
    )
    boosted = GradientBoostingClassifier(
        n_estimators=TREES, max_depth=DEPTH, learning_rate=RATE, random_state=SEED
    ).fit(train_x, train_y)
    found = tensors(boosted)
    model = BoostedTrees(found)

    save_file(found, FOLDER / "weights.safetensors")
    np.savez_compressed(
        FOLDER / "samples" / "samples.npz",
        calibration=train_x[:CALIBRATION],
        held_out=held_out_x,
        labels=held_out_y.astype(np.int64),
    )
    with torch.no_grad():
        logits = np.array([model(row[None]).item() for row in torch.from_numpy(features)])
        held_out = np.array([model(row[None]).item() for row in torch.from_numpy(held_out_x)])
    apart = np.abs(logits - boosted.decision_function(features)).max()
    print(f"apart from scikit-learn's trees, at most {apart:.1e} on all {len(features)}")
    print(f"majority class     {1 - np.mean(held_out_y):.4f}")
    print(f"training accuracy  {boosted.score(train_x, train_y):.4f}")
    decided = held_out > 0
    missed = int(np.sum(~decided & (held_out_y == 1)))
    flagged = int(np.sum(decided & (held_out_y == 0)))
    print(f"held-out accuracy  {np.mean(decided == held_out_y):.4f} of {len(held_out_y)}")
    print(f"malignant missed {missed}, benign flagged {flagged}")
    print(f"logits from {logits.min():.2f} to {logits.max():.2f}")


if __name__ == "__main__":
    main()
