"""Random small circuits over everything a native description can say."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.native_circuits import IDENTITY, equation, lay_out, product, tensor
from zkserve.engines.native import core
from zkserve.engines.native.description import (
    NO_POOL,
    OUTPUT,
    Description,
    Equation,
    OutputKind,
    Pool,
    Product,
    ProductKind,
    Scaled,
    Tensor,
    View,
    decode,
)

SIZE_BITS = (10, 11, 12)


@dataclass(frozen=True, kw_only=True)
class RandomCircuit:
    """A certified description, weights and multipliers that overflow nothing, and one input."""

    description: Description
    cells: NDArray[np.int32]
    multipliers: list[int]
    inputs: NDArray[np.int32]


def make(seed: int, srs: object) -> RandomCircuit:
    """Return the first circuit from ``seed`` on that fits its tiles and overflows nothing."""
    rng, module = random.Random(seed), core.load()
    while True:
        try:
            bare = _Draw(rng).description().encode()
            description = decode(bare[:-32] + module.certify(bare, 1))
            circuit = _with_weights(rng, description)
            blinds = bytes(32 * description.header.weight_tiles)
            module.Prover(
                srs, description.encode(), 0, circuit.cells, blinds, circuit.multipliers, 1
            )
        except ValueError:  # too large, or a bound does not hold
            continue
        return circuit


def _with_weights(rng: random.Random, description: Description) -> RandomCircuit:
    header, first = description.header, description.tensors[0]
    numbers = np.random.default_rng(rng.getrandbits(32))
    return RandomCircuit(
        description=description,
        cells=numbers.integers(-3, 4, header.weight_tiles << header.k, dtype=np.int32),
        multipliers=[rng.choice((1, 7, 300, 5000)) for _ in range(description.multipliers)],
        inputs=numbers.integers(
            0,
            256**header.input_bytes,
            (header.batch, first.channels, first.height, first.width),
            dtype=np.int32,
        ),
    )


@dataclass
class _Draw:
    """One circuit on the way: tensors so far, the last of which is mostly read next."""

    rng: random.Random
    tensors: list[Tensor] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)

    def description(self) -> Description:
        rng = self.rng
        wide = rng.random() < 0.3
        functions = () if wide or rng.random() < 0.5 else (IDENTITY, rng.randbytes(256))
        window = rng.choice((0, 2, 4))
        input_bytes = rng.choice((1, 2))
        sizes = [rng.randint(1, 4), rng.randint(1, 7), rng.randint(1, 7)]
        self.tensors.append(tensor(*sizes, zero_point=rng.randrange(256**input_bytes)))
        layers = rng.randint(1, 4)
        raw = rng.random() < 0.5
        for layer in range(layers):
            top = 65535 if wide else 255
            self._layer(raw and layer == layers - 1, window, top, len(functions))
        return lay_out(
            k=rng.choice(SIZE_BITS),
            tensors=self.tensors,
            equations=self.equations,
            functions=functions,
            batch=rng.choice((1, 1, 2, 3)),
            activation_bytes=2 if wide else 1,
            input_bytes=input_bytes,
            window_positions=window,
            output_kind=OutputKind.RAW if raw else OutputKind.REQUANTISED,
            seed=rng.getrandbits(32),
        )

    def _layer(self, raw: bool, window: int, top: int, functions: int) -> None:
        rng = self.rng
        source = len(self.tensors) - 1 if rng.random() < 0.7 else rng.randrange(len(self.tensors))
        gemm, groups, channels = rng.random() < 0.35, 1, rng.randint(1, 6)
        if not gemm and rng.random() < 0.3:
            groups = min(rng.randint(1, 3), self.tensors[source].channels)
            channels = groups * rng.randint(1, 3)
        term, grid = self._product(source, groups, gemm)
        terms = [term]
        if groups == 1 and rng.random() < 0.25:
            terms.append(self._product(rng.randrange(len(self.tensors)), 1, gemm)[0])
        pool, size = (NO_POOL, grid) if raw else self._pool(window, grid)
        made = equation(
            OUTPUT if raw else len(self.tensors),
            channels,
            grid,
            pool=pool,
            groups=groups,
            per_channel=not raw and channels in (channels // groups, groups) and rng.random() < 0.4,
            products=tuple(terms),
            scaled=self._scaled(channels, grid),
            bias=rng.random() < 0.8,
        )
        self.equations.append(made)
        if raw:
            return
        self.tensors.append(
            tensor(
                channels,
                *size,
                zero_point=rng.randint(0, top),
                function=rng.randrange(functions) if functions else 0,
                flat=rng.random() < 0.3,
            )
        )

    def _product(self, source: int, groups: int, gemm: bool) -> tuple[Product, tuple[int, int]]:
        rng, read = self.rng, self.tensors[source]
        views, size = self._views(read) if not (gemm and read.flat) else ((), (0, 0))
        channels = groups * rng.randint(1, read.channels // groups)
        first, order = rng.randint(0, read.channels - channels), rng.randint(0, 1)
        if gemm:
            return product(source, channels, first=first, order=order, views=views), (1, 1)
        kernel, stride, dilation = (
            (rng.randint(1, most), rng.randint(1, most)) for most in (3, 2, 2)
        )
        padding = (rng.randrange(kernel[0]), rng.randrange(kernel[1]))
        grid = [
            max(1, (n + 2 * p - d * (k - 1) - 1) // s + 1)
            for n, k, s, d, p in zip(size, kernel, stride, dilation, padding, strict=True)
        ]
        made = product(
            source,
            channels,
            first=first,
            kind=ProductKind.CONV,
            order=order,
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            padding=padding,
            views=views,
        )
        return made, (grid[0], grid[1])

    def _views(self, read: Tensor) -> tuple[tuple[View, ...], tuple[int, int]]:
        rng, views, size = self.rng, [], (read.height, read.width)
        for _ in range(rng.choice((0, 0, 1, 2))):
            axes = []
            for length in size:
                kernel = rng.randint(1, min(3, length))
                stride, pad = rng.randint(1, 2), rng.randrange(kernel)
                axes.append((kernel, stride, pad, (length + 2 * pad - kernel) // stride + 1))
            (kh, sh, ph, height), (kw, sw, pw, width) = axes
            size = (height, width)
            views.append(View(kh=kh, kw=kw, sh=sh, sw=sw, ph=ph, pw=pw, height=height, width=width))
        return tuple(views), size

    def _pool(self, window: int, grid: tuple[int, int]) -> tuple[Pool, tuple[int, int]]:
        rng = self.rng
        if not window or rng.random() < 0.4:
            return NO_POOL, grid
        eh = rng.choice([n for n in (1, 2, 4) if window % n == 0])
        axes = []
        for length, extent in zip(grid, (eh, window // eh), strict=True):
            kernel, stride = rng.randint(1, extent), rng.randint(1, 2)
            pad = rng.randrange(kernel)
            axes.append((kernel, stride, pad, (length + 2 * pad - kernel) // stride + 1))
        (kh, sh, ph, height), (kw, sw, pw, width) = axes
        fits = sh * (height - 1) - ph < grid[0] and sw * (width - 1) - pw < grid[1]
        if min(height, width) < 1 or not fits:
            return NO_POOL, grid
        return Pool(kh=kh, kw=kw, sh=sh, sw=sw, ph=ph, pw=pw, eh=eh, ew=window // eh), (
            height,
            width,
        )

    def _scaled(self, channels: int, grid: tuple[int, int]) -> tuple[Scaled, ...]:
        rng = self.rng
        if rng.random() < 0.6:
            return ()
        return tuple(
            Scaled(
                source=number,
                first_channel=rng.randint(0, read.channels - channels),
                constant=rng.choice((0, 3)),
            )
            for number, read in enumerate(self.tensors)
            if read.channels >= channels and (read.height, read.width) == grid
        )[:1]
