"""Post-training quantisation: float networks to integer programs.

Scales come from calibration samples. What they decide lies in weights, biases and multipliers;
zero points and function tables, which are part of the description, come from the kinds of operators
and from coarse grids, so that a retrained model keeps its description.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from zkserve.engines.native.compiler.functions import tabulate
from zkserve.engines.native.compiler.network import IDENTITY, FloatArray, FloatTensor, Kind, Network
from zkserve.engines.native.compiler.program import (
    EXACT_FLOAT,
    MAX_MULTIPLIER,
    Array,
    Equation,
    Program,
    Tensor,
)
from zkserve.engines.native.compiler.ranges import Range, measure
from zkserve.engines.native.input_scale import InputScale, choose
from zkserve.engines.native.options import Options
from zkserve.errors import ModelRejected

MAX_CELL = (1 << 31) - 1
"""Biases are cells of 32 bits, a sign among them."""
_MARGIN = 1.001
"""What rounding may add to a bound."""
_COARSER = 1.05
_HEADROOM = {1: 1.2, 2: 2.0}
"""How much further than the samples an activation of so many bytes may reach."""
_ATTEMPTS = 400


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A program and the real units of what enters and leaves it."""

    program: Program
    input_scale: InputScale
    output_scale: float


@dataclass(frozen=True, kw_only=True)
class _Target:
    """How a tensor is stored: cells stand for ``scale * (cell - tensor.zero)``.

    Requantisation makes ``before / before_scale + centre``, which its function then replaces.
    """

    tensor: Tensor
    scale: float
    before_scale: float
    centre: int
    table: bytes | None = None


def quantise(network: Network, samples: Array, options: Options) -> Quantised:
    """Quantise a network with calibration samples of shape ``(samples, elements)``.

    Raises:
        ModelRejected: it cannot be done with these options.

    """
    return _Quantiser(network, samples, options).run()


@dataclass
class _Quantiser:
    network: Network
    samples: Array
    options: Options
    targets: list[_Target] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    multipliers: list[tuple[int, ...]] = field(default_factory=list)
    functions: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bytes = self.options.activation_bytes
        self.shift = 8 * (self.bytes + 1)
        self.top = (1 << 8 * self.bytes) - 1
        kinds = {t.activation.kind for t in self.network.tensors if t.activation.tabulated}
        if kinds and self.bytes > 1:
            raise ModelRejected(
                f"Activations of 16 bits know no {', '.join(sorted(kinds))}.",
                remedy="Take activations = 8.",
            )
        if kinds:
            self.functions.append(bytes(range(256)))

    def run(self) -> Quantised:
        network = _with_target(self.network, self.options)
        ranges = measure(network, self.samples, percentile=self.options.calibration == "percentile")
        entry = choose(network, self.samples, self.options.input_bytes)
        first = network.tensors[0]
        tensor = Tensor(
            channels=first.channels, height=first.height, width=first.width, zero=entry.zero
        )
        # Weights that read the input are scaled below, cell by cell; its unit is then 1.
        network = entry.fold(network)
        self.targets = [_Target(tensor=tensor, scale=entry.unit, before_scale=1.0, centre=0)]
        self.input_bytes = entry.bytes
        output_scale = network.output_scale
        for number, group in groupby(network.equations, key=lambda e: e.target):
            equations = list(group)
            if number is None:
                output_scale *= self.raw(equations[0])
            else:
                self.store(number, network.tensors[number], ranges[number], equations)
        if network.equations[-1].target is not None:
            output_scale *= self.targets[network.equations[-1].target].scale
        program = self.program()
        program.check()
        return Quantised(program=program, input_scale=entry, output_scale=output_scale)

    def program(self) -> Program:
        return Program(
            activation_bytes=self.bytes,
            input_bytes=self.input_bytes,
            tensors=tuple(target.tensor for target in self.targets),
            equations=tuple(self.equations),
            multipliers=tuple(self.multipliers),
            functions=tuple(self.functions),
        )

    # -- tensors

    def store(
        self, number: int, tensor: FloatTensor, seen: Range, equations: Sequence[Equation]
    ) -> None:
        """Choose the scale of a tensor and quantise what fills it, coarser until it fits."""
        at_least = 0.0
        for _ in range(_ATTEMPTS):
            target = self.target(tensor, seen, at_least)
            made = [self.integers(equation, target) for equation in equations]
            if all(one is not None for one in made):
                break
            if tensor.same_as is not None:
                break
            at_least = target.before_scale * _COARSER
        if any(one is None for one in made):
            raise ModelRejected(
                f"The sums that make tensor {number} can grow too large to be requantised.",
                remedy="Scale its weights down, or take activations = 16.",
            )
        if len(self.targets) != number:
            raise AssertionError("tensors are made in order")
        function = 0
        if target.table is not None:
            if target.table not in self.functions:
                self.functions.append(target.table)
            function = self.functions.index(target.table)
        stored = replace(target.tensor, function=function)
        self.targets.append(replace(target, tensor=stored))
        for one in made:
            if one is not None:
                self.equations.append(one[0])
                self.multipliers.append(one[1])

    def target(self, tensor: FloatTensor, seen: Range, at_least: float) -> _Target:
        size = {"channels": tensor.channels, "height": tensor.height, "width": tensor.width}
        if tensor.same_as is not None:
            same = self.targets[tensor.same_as]
            return _Target(
                tensor=Tensor(**size, zero=same.tensor.zero),
                scale=same.scale,
                before_scale=same.scale,
                centre=same.tensor.zero,
            )
        activation, middle = tensor.activation, (self.top + 1) // 2
        if activation.tabulated:
            table = tabulate(activation, *seen.before, at_least=at_least)
            return _Target(
                tensor=Tensor(**size, zero=table.zero),
                scale=table.after_scale,
                before_scale=table.before_scale,
                centre=table.centre,
                table=table.data,
            )
        low, high = (end * _HEADROOM[self.bytes] for end in seen.after)
        if activation.kind == Kind.CLIP and activation.low < 0:
            # Both clamps are wanted, so both ends are those of the clip and not of the samples.
            scale = max((activation.high - activation.low) / self.top, at_least)
            if scale == at_least:
                raise _too_wide()
            zero = round(-activation.low / scale)
        elif activation == IDENTITY:
            zero = middle
            scale = max(abs(low), abs(high)) / (middle - 1)
        else:
            zero, scale = 0, high / self.top
        if scale <= 0:
            scale = 1.0 / self.top
        scale = max(scale, at_least)
        if activation.kind == Kind.CLIP and activation.low >= 0:
            scale = min(scale, activation.high / self.top)
            if scale < at_least:
                raise _too_wide()
        return _Target(
            tensor=Tensor(**size, zero=zero), scale=scale, before_scale=scale, centre=zero
        )

    # -- equations

    def integers(
        self, equation: Equation, target: _Target
    ) -> tuple[Equation, tuple[int, ...]] | None:
        """Return an equation in integers and its multipliers; None if a bound would break."""
        if any(term.fixed for term in equation.scaled):
            return self.checked(_repeat(equation, self.bytes), (1 << 15,), target)
        move = (target.centre - target.tensor.zero) * target.before_scale
        bias = equation.bias
        if move:
            bias = (np.zeros(equation.channels) if bias is None else bias) + move
        unit = self.smallest_units(equation, bias)
        if equation.pool.positions > 1:
            pooled = (1 << 8 * (2 * self.bytes + 1) - 1) - 1
            unit = np.maximum(unit, self.totals(equation, bias) * _MARGIN / pooled)
        if not self.per_channel(equation):
            unit = unit.max(keepdims=True)
        step = target.before_scale / (1 << self.shift)
        multipliers = np.maximum(np.ceil(unit / step), 1)
        if _one_weight_each(equation):
            multipliers = _coarse(multipliers)
        if multipliers.max() > MAX_MULTIPLIER:
            return None
        rounded = self.rounded(replace(equation, bias=bias), multipliers * step)
        return self.checked(rounded, tuple(int(m) for m in multipliers), target)

    def checked(
        self, equation: Equation, multipliers: tuple[int, ...], target: _Target
    ) -> tuple[Equation, tuple[int, ...]] | None:
        """Return what came in if no input can overflow it."""
        tensors = [t.tensor for t in self.targets]
        aimed = replace(equation, target=len(tensors))
        program = Program(
            activation_bytes=self.bytes,
            input_bytes=self.input_bytes,
            tensors=(*tensors, target.tensor),
            equations=(aimed,),
            multipliers=(multipliers,),
        )
        bounds = program.bounds(aimed)
        fits = all(
            bound <= program.limit(aimed, multipliers[c % len(multipliers)])
            for c, bound in enumerate(bounds)
        )
        return (equation, multipliers) if fits else None

    def per_channel(self, equation: Equation) -> bool:
        """Whether an equation takes a multiplier a channel; a scaled term has one factor only."""
        if not self.options.per_channel or equation.scaled or _one_weight_each(equation):
            return False
        return equation.groups in (1, equation.channels)

    def raw(self, equation: Equation) -> float:
        """Quantise the equation of raw outputs; return their unit."""
        unit = self.smallest_units(equation, equation.bias).max(keepdims=True)
        rounded = self.rounded(equation, unit)
        self.equations.append(rounded)
        self.multipliers.append(())
        if max(self.program().bounds(rounded)) >= EXACT_FLOAT:
            raise ModelRejected("The raw outputs can grow past 2^53.")
        return float(unit[0])

    def smallest_units(self, equation: Equation, bias: Array | None) -> FloatArray:
        """Return for each channel the finest unit of accumulators that its integers fit."""
        largest = np.full(equation.channels, 2.0**-60)
        widest = (1 << 8 * self.options.weight_bytes) - 1
        for product in equation.products:
            weights = np.abs(product.weights).reshape(equation.channels, -1).max(axis=1)
            unit = weights * self.targets[product.source].scale / widest
            largest = np.maximum(largest, unit)
        for term in equation.scaled:
            unit = term.factor * self.targets[term.source].scale / MAX_MULTIPLIER
            largest = np.maximum(largest, unit)
        if bias is not None:
            largest = np.maximum(largest, np.abs(bias) / MAX_CELL)
        return largest

    def totals(self, equation: Equation, bias: Array | None) -> FloatArray:
        """Return for each channel the largest real magnitude of an accumulator."""
        shapes = Program(
            activation_bytes=self.bytes,
            input_bytes=self.input_bytes,
            tensors=tuple(t.tensor for t in self.targets),
            equations=(),
            multipliers=(),
        )
        total = np.zeros(equation.channels) if bias is None else np.abs(bias)
        for product in equation.products:
            norms = np.abs(product.weights).reshape(equation.channels, -1).sum(axis=1)
            reach = shapes.largest(product.source, product.views)
            total = total + norms * reach * self.targets[product.source].scale
        for term in equation.scaled:
            reach = shapes.largest(term.source, term.views)
            total = total + term.factor * reach * self.targets[term.source].scale
        return total

    def rounded(self, equation: Equation, unit: FloatArray) -> Equation:
        """Return an equation in integers at a unit of accumulators, one or one a channel."""
        widest = (1 << 8 * self.options.weight_bytes) - 1
        products = tuple(
            replace(
                product,
                weights=np.clip(
                    np.rint(
                        product.weights
                        * (self.targets[product.source].scale / unit)[:, None, None, None]
                    ),
                    -widest,
                    widest,
                ).astype(np.int64),
            )
            for product in equation.products
        )
        scaled = tuple(
            replace(
                term,
                factor=min(
                    max(round(term.factor * self.targets[term.source].scale / unit[0]), 1),
                    MAX_MULTIPLIER,
                ),
            )
            for term in equation.scaled
        )
        bias = equation.bias
        if bias is not None:
            bias = np.clip(np.rint(bias / unit), -MAX_CELL, MAX_CELL).astype(np.int64)
        return replace(equation, products=products, scaled=scaled, bias=bias)


def _one_weight_each(equation: Equation) -> bool:
    """Whether a channel has one weight, as in a normalisation; its multiplier would publish it."""
    return any(product.weights[0].size == 1 for product in equation.products)


def _coarse(multipliers: FloatArray) -> FloatArray:
    """Round multipliers up to two significant bits; weights make up for it, and are hidden."""
    mantissas, exponents = np.frexp(multipliers)
    return np.asarray(np.ldexp(np.ceil(mantissas * 4) / 4, exponents))


def _too_wide() -> ModelRejected:
    return ModelRejected(
        "The sums before a Clip are too coarse or can grow too large for its bounds.",
        remedy="Take activations = 8, or weight_bytes = 2 and input_bytes = 2.",
    )


def _repeat(equation: Equation, size: int) -> Equation:
    """Give the terms of an identity the factor that reproduces cells: 2^15 times it is 2^S."""
    factor = 1 << 8 * (size + 1) - 15
    return replace(equation, scaled=tuple(replace(term, factor=factor) for term in equation.scaled))


def _with_target(network: Network, options: Options) -> Network:
    """Store the outputs, or leave them raw, as the options say."""
    last = network.equations[-1]
    if options.output == "raw":
        if last.target is not None:
            raise ModelRejected(
                "The model ends with an activation or a pool, which has no raw output.",
                remedy='Take output = "requantised".',
            )
        return network
    if last.target is not None:
        return network
    tensor = FloatTensor(channels=last.channels, height=last.height, width=last.width)
    return replace(
        network,
        tensors=(*network.tensors, tensor),
        equations=(*network.equations[:-1], replace(last, target=len(network.tensors))),
    )


def exact_scale(value: float) -> tuple[int, int]:
    """Return ``(multiplier, shift)`` such that ``multiplier / 2**shift`` is the value.

    Raises:
        ModelRejected: the value is not a sensible unit.

    """
    if not math.isfinite(value) or not 2.0**-100 < value < 2.0**60:
        raise ModelRejected(f"The outputs have the unit {value:g}, which is out of range.")
    numerator, denominator = value.as_integer_ratio()
    shift = denominator.bit_length() - 1
    while shift > 127:
        numerator, shift = (numerator + 1) >> 1, shift - 1
    return numerator, shift
