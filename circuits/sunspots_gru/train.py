"""Train on the real sunspot numbers of PyPI's statsmodels and write weights and samples.

Run it in this folder. Deterministic: one thread, one seed, full batches. The years held out are
never looked at before the last lines print how well they are forecast. The data are needed here
only:

    pip install statsmodels==0.15.0
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from model import UNIT, YEARS, SunspotsGru
from safetensors.torch import save_file
from statsmodels.datasets import sunspots
from torch import nn

SEED = 0
STEPS = 200
HELD_OUT_FROM = 1909
CALIBRATION = 128
FOLDER = Path(__file__).parent


def report(name: str, forecast: np.ndarray, truth: np.ndarray) -> None:
    """Print how far a forecast of changes is off, and how often it has the right sign."""
    off, right = np.abs(forecast - truth).mean(), np.mean((forecast > 0) == (truth > 0))
    print(f"{name:24} mean error {off:5.2f}, right about rise or fall {right:.4f}")


def main() -> None:
    """Train, save, report."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)

    table = sunspots.load_pandas().data
    numbers = table["SUNACTIVITY"].to_numpy(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(numbers, YEARS)[:-1]
    changes = numbers[YEARS:] - numbers[YEARS - 1 : -1]
    held_out = table["YEAR"].to_numpy()[YEARS:] >= HELD_OUT_FROM
    train_x, train_y = windows[~held_out], changes[~held_out]
    held_out_x, held_out_y = windows[held_out], changes[held_out]

    x, y = torch.from_numpy(train_x.copy()), torch.from_numpy(train_y)
    model = SunspotsGru()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05)
    loss = nn.MSELoss()
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(model(x)[:, 0] / UNIT, y / UNIT).backward()
        optimiser.step()

    save_file(model.state_dict(), FOLDER / "weights.safetensors")
    np.savez_compressed(
        FOLDER / "samples" / "samples.npz",
        calibration=train_x[-CALIBRATION:],
        held_out=held_out_x,
        labels=(held_out_y > 0).astype(np.int64),
    )
    line = np.linalg.lstsq(np.c_[train_x, np.ones(len(train_x))], train_y, rcond=None)[0]
    with torch.no_grad():
        forecast = model(torch.from_numpy(held_out_x.copy()))[:, 0].numpy()
        fitted = model(x)[:, 0].numpy()
    report("training", fitted, train_y)
    report("held out", forecast, held_out_y)
    report("  as this year", np.zeros_like(held_out_y), held_out_y)
    report("  linear, same window", np.c_[held_out_x, np.ones(len(held_out_x))] @ line, held_out_y)
    print(f"{len(held_out_y)} years held out, from {HELD_OUT_FROM}")


if __name__ == "__main__":
    main()
