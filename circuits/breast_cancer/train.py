"""Train on scikit-learn's real data and write weights and samples; run it in this folder.

Deterministic: one thread, one seed, full batches. The held-out third is never looked at before the
last line prints its accuracy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from model import BreastCancer
from safetensors.torch import save_file
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 0
STEPS = 150
CALIBRATION = 128
FOLDER = Path(__file__).parent


def fold_scaling(model: BreastCancer, mean: torch.Tensor, spread: torch.Tensor) -> None:
    """Make a model of standardised features one of raw features, without changing what it says."""
    with torch.no_grad():
        model.hidden.weight /= spread
        model.hidden.bias -= model.hidden.weight @ mean


def main() -> None:
    """Train, save, report."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)

    data = load_breast_cancer()
    features = data.data.astype(np.float32)
    malignant = 1 - data.target  # scikit-learn counts malignant as 0
    train_x, held_out_x, train_y, held_out_y = train_test_split(
        features, malignant, test_size=0.3, stratify=malignant, random_state=SEED
    )

    x = torch.from_numpy(train_x)
    y = torch.from_numpy(train_y).float().unsqueeze(1)
    spread, mean = torch.std_mean(x, dim=0)
    model = BreastCancer()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=1.0)
    loss = nn.BCEWithLogitsLoss()
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(model((x - mean) / spread), y).backward()
        optimiser.step()
    fold_scaling(model, mean, spread)

    save_file(model.state_dict(), FOLDER / "weights.safetensors")
    np.savez_compressed(
        FOLDER / "samples" / "samples.npz",
        calibration=train_x[:CALIBRATION],
        held_out=held_out_x,
        labels=held_out_y.astype(np.int64),
    )
    with torch.no_grad():
        decisions = (model(torch.from_numpy(held_out_x)).squeeze(1) > 0).numpy()
        fitted = (model(x) > 0).numpy().squeeze(1)
    print(f"training accuracy  {np.mean(fitted == train_y):.4f}")
    print(f"held-out accuracy  {np.mean(decisions == held_out_y):.4f} of {len(held_out_y)}")


if __name__ == "__main__":
    main()
