"""Train on real digits and write weights and samples; run it in this folder.

Deterministic: one thread, one seed. The held-out fifth is never looked at before the last line
prints its accuracy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from data import load_digits
from model import SIDE, LeNet
from safetensors.torch import save_file
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 0
EPOCHS = 15
BATCH = 32
PIXEL_MAX = 255.0
CALIBRATION = 128
HELD_OUT = 2000
FOLDER = Path(__file__).parent


def main() -> None:
    """Train, save, report."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)

    pixels, digits = load_digits()
    pixels = pixels.reshape(-1, 1, SIDE, SIDE)
    train_x, held_out_x, train_y, held_out_y = train_test_split(
        pixels, digits, test_size=HELD_OUT, stratify=digits, random_state=SEED
    )

    x, y = torch.from_numpy(train_x) / PIXEL_MAX, torch.from_numpy(train_y)
    model = LeNet()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    loss = nn.CrossEntropyLoss(label_smoothing=0.05)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimiser.zero_grad()
            loss(model(x[batch]), y[batch]).backward()
            optimiser.step()
        schedule.step()
    with torch.no_grad():
        model.first.weight /= PIXEL_MAX

    save_file(model.state_dict(), FOLDER / "weights.safetensors")
    np.savez_compressed(
        FOLDER / "samples" / "samples.npz",
        calibration=train_x.reshape(-1, SIDE * SIDE)[:CALIBRATION],
        held_out=held_out_x.reshape(-1, SIDE * SIDE),
        labels=held_out_y.astype(np.int64),
    )
    with torch.no_grad():
        decisions = model(torch.from_numpy(held_out_x).float()).argmax(1).numpy()
        fitted = model(torch.from_numpy(train_x).float()).argmax(1).numpy()
    print(f"training accuracy  {np.mean(fitted == train_y):.4f}")
    print(f"held-out accuracy  {np.mean(decisions == held_out_y):.4f} of {len(held_out_y)}")


if __name__ == "__main__":
    main()
