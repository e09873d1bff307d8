"""Random native circuits: geometry that nobody thought of, within the bounds of section 3."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import prod

from tests.native_circuits import IDENTITY, equation, lay_out, product, tensor, view
from zkserve.engines.native.protocol.certificate import certify
from zkserve.engines.native.protocol.description import (
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
    clog,
    viewed_size,
)

K = 10
WEIGHT = 5
"""Weights and biases lie between minus and plus this."""
_WINDOWS = {2: [(1, 2), (2, 1)], 4: [(1, 4), (2, 2), (4, 1)]}


@dataclass(frozen=True, kw_only=True)
class RandomCircuit:
    """A certified description, and multipliers with which nothing can overflow."""

    description: Description
    multipliers: tuple[int, ...]


def random_circuit(seed: int) -> RandomCircuit:
    """Return the circuit of a seed."""
    return _Maker(random.Random(seed)).make()


class _Maker:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._wide = rng.random() < 0.3
        self._positions = rng.choice((0, 2, 4))
        self._batch = rng.choice((1, 1, 2, 3))
        functions = 0 if self._wide else rng.choice((0, 0, 2))
        table = bytes(rng.randrange(256) for _ in range(256))
        self._functions = (IDENTITY, table)[:functions]
        self._input_bytes = rng.choice((1, 2))
        self._top = 65535 if self._wide else 255
        size = (rng.randint(1, 6), rng.randint(1, 6))
        self._tensors = [
            tensor(rng.randint(1, 3), *size, zero_point=rng.randrange(256**self._input_bytes))
        ]
        self._equations: list[Equation] = []

    def make(self) -> RandomCircuit:
        for _ in range(self._rng.randint(1, 3)):
            self._layer()
        kind = self._rng.choice(list(OutputKind))
        if kind == OutputKind.RAW:
            self._equations.append(self._equation(OUTPUT, self._rng.randint(1, 4)))
        d = certify(
            lay_out(
                k=K,
                tensors=self._tensors,
                equations=self._equations,
                functions=self._functions,
                batch=self._batch,
                activation_bytes=2 if self._wide else 1,
                input_bytes=self._input_bytes,
                window_positions=self._positions,
                output_kind=kind,
                seed=self._rng.randrange(1 << 30),
            )
        )
        t = d.tensors[0]
        input_bits = clog(self._input_bytes) + clog(t.channels) + t.rest_bits(self._batch)
        if max(d.header.row_bits, input_bits) > d.header.k:
            raise ValueError("the random circuit does not fit its tiles")
        return RandomCircuit(description=d, multipliers=self._multipliers(d))

    def _layer(self) -> None:
        """Add a tensor that one or two equations produce."""
        number = len(self._tensors)
        channels = self._rng.choice((1, 2, 3, 4, 4, 6))
        first = self._equation(number, channels)
        made = [first]
        pooled = self._pool(first)
        if pooled is not None:
            pool, size = pooled
            made = [equation(number, channels, (first.height, first.width), pool=pool,
                             groups=first.groups, per_channel=first.per_channel,
                             products=first.products, scaled=first.scaled)]  # fmt: skip
        else:
            size = (first.height, first.width)
            if size == (1, 1) and self._rng.random() < 0.3:
                made.append(self._gemm(number, 2, at=channels))
        self._tensors.append(
            tensor(
                sum(e.channels for e in made),
                *size,
                zero_point=self._rng.choice((0, self._rng.randrange(self._top + 1))),
                function=self._rng.randrange(max(1, len(self._functions))),
                flat=self._rng.random() < 0.3,
            )
        )
        self._equations += made

    def _source(self) -> int:
        return self._rng.randrange(max(0, len(self._tensors) - 2), len(self._tensors))

    def _equation(self, target: int, channels: int) -> Equation:
        if self._rng.random() < 0.35:
            return self._gemm(target, channels)
        return self._conv(target, channels)

    def _gemm(self, target: int, channels: int, at: int = 0) -> Equation:
        products = []
        for _ in range(self._rng.choice((1, 1, 2))):
            source = self._source()
            t = self._tensors[source]
            views = () if t.flat else self._views(t)
            first, count = self._range(t.channels)
            order = self._rng.randrange(2)
            products.append(product(source, count, first=first, order=order, views=views))
        return equation(
            target,
            channels,
            first=at,
            per_channel=target != OUTPUT and self._rng.random() < 0.4,
            products=tuple(products),
            bias=self._rng.random() < 0.7,
        )

    def _conv(self, target: int, channels: int) -> Equation:
        source = self._source()
        t = self._tensors[source]
        views = self._views(t)
        height, width = viewed_size(t, views)
        first, count = self._range(t.channels)
        groups = self._rng.choice([g for g in range(1, 4) if channels % g == count % g == 0])
        kernel = self._rng.randint(1, 3), self._rng.randint(1, 3)
        stride = self._rng.randint(1, 2), self._rng.randint(1, 3)
        dilation = self._rng.randint(1, 2), self._rng.randint(1, 2)
        padding = self._rng.randint(0, 2), self._rng.randint(0, 2)
        grid = self._rng.randint(1, height + 1), self._rng.randint(1, width + 1)
        term: Product = product(
            source,
            count,
            first=first,
            kind=ProductKind.CONV,
            order=self._rng.randrange(2),
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            padding=padding,
            views=views,
        )
        scaled: tuple[Scaled, ...] = ()
        if (height, width) == grid and t.channels >= channels:
            at = self._rng.randint(0, t.channels - channels)
            constant = self._rng.choice((0, 3))
            scaled = (Scaled(source=source, first_channel=at, constant=constant, views=views),)
        whole = groups in (1, channels)
        return equation(
            target,
            channels,
            grid,
            groups=groups,
            per_channel=target != OUTPUT and whole and self._rng.random() < 0.4,
            products=(term,),
            scaled=scaled,
            bias=self._rng.random() < 0.7,
        )

    def _range(self, channels: int) -> tuple[int, int]:
        first = self._rng.choice((0, self._rng.randrange(channels)))
        return first, self._rng.randint(1, channels - first)

    def _views(self, t: Tensor) -> tuple[View, ...]:
        views: list[View] = []
        while self._rng.random() < 0.25 and len(views) < 2:
            height, width = viewed_size(t, tuple(views))
            kernel = self._rng.randint(1, 3), self._rng.randint(1, 3)
            stride = self._rng.randint(1, 2), self._rng.randint(1, 2)
            padding = self._rng.randint(0, 1), self._rng.randint(0, 1)
            size = self._rng.randint(1, height), self._rng.randint(1, width)
            views.append(view(kernel, stride, padding, *size))
        return tuple(views)

    def _pool(self, e: Equation) -> tuple[Pool, tuple[int, int]] | None:
        gemm = any(p.kind == ProductKind.GEMM for p in e.products)
        if gemm or not self._positions or self._rng.random() < 0.4:
            return None
        eh, ew = self._rng.choice(_WINDOWS[self._positions])
        kh, kw = self._rng.randint(1, eh), self._rng.randint(1, ew)
        ph, pw = self._rng.randrange(kh), self._rng.randrange(kw)
        sh, sw = self._rng.randint(1, 3), self._rng.randint(1, 3)
        # the last window begins inside: stride · (size - 1) - padding < accumulators
        height = self._rng.randint(1, (e.height - 1 + ph) // sh + 1)
        width = self._rng.randint(1, (e.width - 1 + pw) // sw + 1)
        pool = Pool(kh=kh, kw=kw, sh=sh, sw=sw, ph=ph, pw=pw, eh=eh, ew=ew)
        return pool, (height, width)

    def _multipliers(self, d: Description) -> tuple[int, ...]:
        """Return the largest multipliers that section 3 allows, or random smaller ones."""
        result: list[int] = []
        for e in d.equations:
            total = WEIGHT
            for p in e.products:
                contraction = p.channels // e.groups
                contraction *= p.kh * p.kw
                if p.kind == ProductKind.GEMM:
                    contraction *= prod(viewed_size(d.tensors[p.source], p.views))
                total += WEIGHT * contraction * _largest(d, p.source, p.views)
            own = []
            for s in e.scaled:
                factor = s.constant or self._rng.randint(1, 20)
                own += [] if s.constant else [factor]
                total += factor * _largest(d, s.source, s.views)
            if not e.raw:
                zero_point = d.tensors[e.target].zero_point
                limit = (1 << d.value_bits - 1) - (1 << d.shift - 1) - (zero_point << d.shift) - 1
                largest = min(65535, limit // total)
                if largest < 1 or (e.pooled and 2 * total >= 1 << 8 * d.header.difference_limbs):
                    raise ValueError("the random circuit may overflow")
                result += [
                    self._rng.choice((largest, self._rng.randint(1, largest)))
                    for _ in range(e.channels if e.per_channel else 1)
                ]
            result += own
        return tuple(result)


def _largest(d: Description, source: int, views: tuple[View, ...]) -> int:
    """The largest absolute value of what a term reads."""
    t = d.tensors[source]
    top = d.top if source else 256**d.header.input_bytes - 1
    return max(t.zero_point, top - t.zero_point) * prod(v.kh * v.kw for v in views)
