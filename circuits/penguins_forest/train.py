"""Train on the real penguins of PyPI's palmerpenguins and write weights and samples.

Run it in this folder. Deterministic: one seed. The held-out part is never looked at before the last
lines print its accuracy. The forest is scikit-learn's; hummingbird-ml makes matrices of it. Both it
and the data are needed here only:

    pip install palmerpenguins==0.1.6
    pip install --no-deps hummingbird-ml==0.4.12 onnxconverter-common==1.16.0 dill==0.4.1

``--no-deps``, as hummingbird-ml asks for an onnx older than zkserve's; what is used of it here
works with both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hummingbird.ml import convert
from model import COARSE, MEASUREMENTS, Forest
from palmerpenguins import load_penguins
from safetensors.torch import save_file
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

SEED = 0
TREES = 10
DEPTH = 4
CALIBRATION = 128
COLUMNS = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")
STEPS = np.array([0.1, 0.1, 1.0, 25.0])
"""What the measurements are multiples of."""
FOLDER = Path(__file__).parent


def matrices(forest: RandomForestClassifier) -> Forest:
    """Return a fitted forest in the form of the circuit, from hummingbird's matrices.

    Hummingbird compares ``weight_1 @ x <= bias_1``, counts the conditions met on the way to each
    leaf with ``weight_2`` (1 for met, -1 for not met), compares the count with ``bias_2``, and adds
    up ``weight_3`` of the leaves reached. It pads trees with conditions and leaves that nothing
    reaches; they are left out.
    """
    core = convert(forest, "torch", extra_config={"tree_implementation": "gemm"}).model
    found = {name.rpartition(".")[2]: p.detach().numpy() for name, p in core.named_parameters()}
    trees, leaves, conditions = found["weight_2"].shape
    picks = found["weight_1"].reshape(trees, conditions, MEASUREMENTS)
    thresholds = found["bias_1"].reshape(trees, conditions)
    expected = found["bias_2"].reshape(trees, leaves)
    parts: dict[str, list[np.ndarray]] = {"picks": [], "thresholds": [], "needed": [], "votes": []}
    paths = []
    for tree in range(trees):
        path = found["weight_2"][tree]
        used = np.abs(path).sum(axis=0) > 0
        reached = np.abs(path).sum(axis=1) > 0
        parts["picks"].append(picks[tree][used])
        parts["thresholds"].append(thresholds[tree][used])
        parts["needed"].append(expected[tree][reached])
        parts["votes"].append(found["weight_3"][tree][:, reached].T)
        paths.append(path[np.ix_(reached, used)])
    feature = np.concatenate(parts["picks"]).argmax(axis=1)
    slope = -2 / STEPS[feature] / COARSE  # half as wide as a step, so that rounding has room
    model = Forest(len(feature), sum(len(path) for path in paths))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
        rows = torch.arange(len(feature))
        model.conditions.weight[rows, torch.from_numpy(feature)] = torch.from_numpy(slope).float()
        between = off_grid(np.concatenate(parts["thresholds"]), STEPS[feature])
        model.conditions.bias.copy_(torch.from_numpy(-slope * between))
        model.leaves.weight.copy_(torch.block_diag(*map(torch.from_numpy, paths)))
        # Where all conditions hold the count is the one expected; any other is lower.
        model.leaves.bias.copy_(torch.from_numpy(1 - np.concatenate(parts["needed"])))
        model.votes.weight.copy_(torch.from_numpy(np.concatenate(parts["votes"]).T))
    return model


def off_grid(thresholds: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return thresholds that lie midway between two values that a measurement can take.

    "At most 42.4" decides every multiple of 0.1 as "at most 42.45" does, which leaves room for
    rounding.
    """
    return (np.floor(thresholds / steps + 1e-3) + 0.5) * steps


def main() -> None:
    """Train, save, report."""
    penguins = load_penguins().dropna(subset=list(COLUMNS))
    measured = penguins[list(COLUMNS)].to_numpy(np.float32)
    species = penguins["species"].astype("category").cat.codes.to_numpy(np.int64)
    train_x, held_out_x, train_y, held_out_y = train_test_split(
        measured, species, test_size=0.4, stratify=species, random_state=SEED
    )
    forest = RandomForestClassifier(TREES, max_depth=DEPTH, random_state=SEED).fit(train_x, train_y)
    model = matrices(forest)

    save_file(model.state_dict(), FOLDER / "weights.safetensors")
    np.savez_compressed(
        FOLDER / "samples" / "samples.npz",
        calibration=train_x[:CALIBRATION],
        held_out=held_out_x,
        labels=held_out_y,
    )
    with torch.no_grad():
        votes = model(torch.from_numpy(measured)).numpy()
        held_out = model(torch.from_numpy(held_out_x)).numpy()
    apart = np.abs(votes - forest.predict_proba(measured)).max()
    majority = np.bincount(train_y).argmax()
    print(f"conditions {model.conditions.out_features}, leaves {model.leaves.out_features}")
    print(f"apart from scikit-learn's forest, at most {apart:.1e} on all {len(measured)}")
    print(f"majority class     {np.mean(held_out_y == majority):.4f}")
    print(f"training accuracy  {forest.score(train_x, train_y):.4f}")
    print(
        f"held-out accuracy  {np.mean(held_out.argmax(1) == held_out_y):.4f} of {len(held_out_y)}"
    )


if __name__ == "__main__":
    main()
