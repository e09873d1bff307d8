"""Where the cells of a program lie: from programs to descriptions, and weights to cells.

A layout follows from the program's architecture and the options alone, never from weights: the same
network retrained gives the same bytes. Choices are made by estimated cost, gas and proving time,
whose weights are those of :data:`GAS_A_MICROSECOND` and its neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from zkserve.engines.native.compiler import program as p
from zkserve.engines.native.protocol import description as d
from zkserve.engines.native.protocol.certificate import certify
from zkserve.engines.native.protocol.description import Description, Piece, clog
from zkserve.engines.native.protocol.rules import check
from zkserve.engines.native.protocol.wire import DescriptionInvalid
from zkserve.errors import ModelRejected

GAS_A_TILE = 8_500
GAS_A_ROUND = 3_900
GAS_A_VARIABLE = 2_400
GAS_A_PIECE = 1_200
GAS_A_FLAT_CELL = 150
GAS_A_MICROSECOND = 0.05
"""How much gas a proof may cost more to be made a microsecond sooner."""
MICROSECONDS_A_POINT = 2.5
MICROSECONDS_A_CELL = 0.1

_LEAST_ROW_BITS = 2
_FLATS_TRIED = 4


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """One way to store a block: ``order`` of its dimensions, logs of its pieces in order."""

    order: int
    rest: int
    logs: tuple[int, ...]

    @property
    def cells(self) -> int:
        return sum(1 << log + self.rest for log in self.logs)


def lay_out(program: p.Program, *, batch: int = 1, k: int = 0) -> Description:
    """Return the description of a program, with its certificate.

    Args:
        program: The program; its weights do not matter.
        batch: Predictions in one proof.
        k: log2 of the cells of a tile; 0 takes the cheapest.

    Raises:
        ModelRejected: no layout with this ``k`` has room for it.

    """
    tried = [
        option
        for flat in _flat_choices(program)
        for size in ([k] if k else range(9, 25))
        if (option := _place(program, batch, flat, size)) is not None
    ]
    if not tried:
        asked = f"tiles of 2^{k} cells" if k else "any tile size"
        raise ModelRejected(
            f"The circuit does not fit {asked}.", remedy="Make the model or the batch smaller."
        )
    best = min(tried, key=lambda option: (_cost(option), option.header.k))
    # Where what is free lies in too few parts of the last tile of w, another place for the
    # multiplicities helps, or one more tile.
    for attempt, option in enumerate((best, _multiplicities_last(best), _with_room(best))):
        if _count(_free_rows(option)) < 3 * option.header.k:
            continue
        masked = _masked(option, attempt)
        check(masked)
        try:
            return certify(masked)
        except DescriptionInvalid as leak:
            refusal = leak
    raise ModelRejected(
        f"No layout of the circuit hides its weights: {refusal.message}",
        remedy="Take another k.",
    ) from refusal


# -- choosing


def _flat_choices(program: p.Program) -> Iterator[frozenset[int]]:
    """Yield sets of tensors whose height and width may share bits to save cells."""
    barred = {0} | {
        product.source
        for equation in program.equations
        for product in equation.products
        if product.gemm and product.views
    }
    useful = [
        number
        for number, t in enumerate(program.tensors)
        if number not in barred and clog(t.height * t.width) < clog(t.height) + clog(t.width)
    ]
    yield frozenset()
    if len(useful) <= _FLATS_TRIED:
        for count in range(1, len(useful) + 1):
            yield from map(frozenset, combinations(useful, count))
    else:
        yield frozenset(useful)
        yield from (frozenset({number}) for number in useful)


def _place(program: p.Program, batch: int, flat: frozenset[int], k: int) -> Description | None:
    """Return a description without masks; None if tiles of this size have no room for it."""
    plain = _skeleton(program, batch, flat, k)
    limits = [k - tensor.rest_bits(batch) for tensor in plain.tensors]
    first = plain.tensors[0]
    hidden = clog(first.channels) + first.rest_bits(batch) + clog(program.input_bytes)
    largest = max(max(t.channels, t.height, t.width) for t in program.tensors)
    if min(limits) < 0 or hidden > k or largest > 1 << k:
        return None
    rows = _tightest(
        [
            [_Choice(order=0, rest=k - limit, logs=logs) for logs in _covers(t.channels, limit)]
            for t, limit in zip(plain.tensors[1:], limits[1:], strict=True)
        ]
    )
    entry = _Choice(order=0, rest=k - limits[0], logs=_covers(first.channels, limits[0])[0])
    row_bits = max(_LEAST_ROW_BITS, *(clog(_total(c)) for c in (rows, [entry])))
    if row_bits > k:
        return None
    rows = _fewer_pieces(plain, rows, 1 << row_bits, [t.channels for t in plain.tensors[1:]], k)
    row_offsets = _offsets(rows)
    tensors = [replace(plain.tensors[0], pieces=_pieces(entry.logs, _offsets([entry])[0]))] + [
        replace(tensor, pieces=_pieces(choice.logs, offsets))
        for tensor, choice, offsets in zip(plain.tensors[1:], rows, row_offsets, strict=True)
    ]
    placed = replace(plain, tensors=tuple(tensors))
    weighed = _place_weights(placed, k)
    if weighed is None:
        return None
    placed = replace(weighed, header=replace(weighed.header, row_bits=row_bits))
    if placed.rounds > k + 20 or max(placed.header.table_bits, clog(placed.evaluations)) > k:
        return None
    return _place_helpers(_place_rows(placed))


def _covers(entries: int, limit: int) -> list[tuple[int, ...]]:
    """Return the ways to cut a dimension in aligned pieces of at most ``2**limit``, fewest last."""
    if limit < 0:
        return []
    whole, rest = divmod(entries, 1 << limit)
    full = (limit,) * whole
    bits = [bit for bit in range(limit - 1, -1, -1) if rest >> bit & 1]
    if not rest:
        return [full]
    covers = [(*full, *bits)]
    for count in range(len(bits) - 1, 0, -1):
        kept = bits[: count - 1]
        left = rest - sum(1 << bit for bit in kept)
        cover = (*full, *kept, clog(left))
        if len(set(kept) | {clog(left)}) < count:
            continue  # rounded up, the last piece is as large as the one before it
        covers.append(cover)
    if clog(rest) <= limit and (*full, clog(rest)) not in covers:
        covers.append((*full, clog(rest)))
    return covers


def _tightest(choices: list[list[_Choice]]) -> list[_Choice]:
    return [min(own, key=lambda c: (c.cells, len(c.logs), c.order)) for own in choices]


def _total(choices: Sequence[_Choice]) -> int:
    return sum(choice.cells for choice in choices)


def _merge(chosen: list[_Choice], options: list[list[_Choice]], room: int) -> list[_Choice]:
    """Take fewer pieces where the room allows it, the cheapest in cells first."""
    chosen = list(chosen)
    while True:
        steps = [
            ((other.cells - own.cells) / (len(own.logs) - len(other.logs)), i, other.order, other)
            for i, (own, others) in enumerate(zip(chosen, options, strict=True))
            for other in others
            if len(other.logs) < len(own.logs) and _total(chosen) - own.cells + other.cells <= room
        ]
        if not steps:
            return chosen
        _, i, _, best = min(steps, key=lambda step: step[:3])
        chosen[i] = best


def _fewer_pieces(
    plain: Description, rows: list[_Choice], room: int, channels: list[int], k: int
) -> list[_Choice]:
    options = [
        [_Choice(order=0, rest=own.rest, logs=logs) for logs in _covers(count, k - own.rest)]
        for own, count in zip(rows, channels, strict=True)
    ]
    return _merge(rows, options, room)


def _offsets(choices: Sequence[_Choice]) -> list[list[int]]:
    """Place all pieces, largest first: powers of two in that order leave no gaps."""
    order = sorted(
        (-(log + choice.rest), i, j)
        for i, choice in enumerate(choices)
        for j, log in enumerate(choice.logs)
    )
    offsets = [[0] * len(choice.logs) for choice in choices]
    at = 0
    for negative, i, j in order:
        offsets[i][j] = at
        at += 1 << -negative
    return offsets


def _pieces(logs: Sequence[int], offsets: Sequence[int]) -> tuple[Piece, ...]:
    first, pieces = 0, []
    for log, offset in zip(logs, offsets, strict=True):
        pieces.append(Piece(first=first, log=log, offset=offset))
        first += 1 << log
    return tuple(pieces)


def _place_weights(plain: Description, k: int) -> Description | None:
    options: list[list[_Choice]] = []
    for number, equation in enumerate(plain.equations):
        for product in equation.products:
            own = []
            for order in (0, 1) if equation.groups == 1 else (0,):
                instance = plain.instance(number, replace(product, order=order))
                own += [
                    _Choice(order=order, rest=instance.rest_bits, logs=logs)
                    for logs in _covers(instance.lead, k - instance.rest_bits)
                ]
            options.append(own)
        if equation.bias:
            covers = _covers(equation.channels, k)
            options.append([_Choice(order=0, rest=0, logs=logs) for logs in covers])
    if not all(options):
        return None
    chosen = _tightest(options)
    tiles = max(1, -(-_total(chosen) >> k))
    chosen = _merge(chosen, options, tiles << k)
    placed = iter(list(zip(chosen, _offsets(chosen), strict=True)))
    equations = []
    for equation in plain.equations:
        products = []
        for product in equation.products:
            choice, offsets = next(placed)
            pieces = _pieces(choice.logs, offsets)
            products.append(replace(product, order=choice.order, pieces=pieces))
        bias: tuple[Piece, ...] = ()
        if equation.bias:
            choice, offsets = next(placed)
            bias = _pieces(choice.logs, offsets)
        equations.append(replace(equation, products=tuple(products), bias=bias))
    return replace(
        plain, equations=tuple(equations), header=replace(plain.header, weight_tiles=tiles)
    )


def _place_rows(plain: Description) -> Description:
    """Place the multiplicities behind the columns, masks behind them."""
    h = plain.header
    columns = plain.columns.count << h.row_bits
    multiplicities = -(-columns >> h.table_bits) << h.table_bits
    placed = replace(
        plain,
        header=replace(h, row_tiles=-(-(multiplicities + (1 << h.table_bits)) >> h.k)),
        offsets=replace(plain.offsets, multiplicities=multiplicities),
    )
    return placed if _count(_free_rows(placed)) >= 3 * h.k else _with_room(placed)


def _multiplicities_last(plain: Description) -> Description:
    """Place the multiplicities at the end of the last tile of w, masks in front of them."""
    h = plain.header
    last = (h.row_tiles << h.k) - (1 << h.table_bits)
    return replace(plain, offsets=replace(plain.offsets, multiplicities=last))


def _with_room(plain: Description) -> Description:
    h = plain.header
    return replace(plain, header=replace(h, row_tiles=h.row_tiles + 1))


def _place_helpers(plain: Description) -> Description | None:
    """Place what family h holds: the columns behind or in front of the small blocks."""
    h = plain.header
    masks, libra = clog(plain.evaluations), clog(plain.libra_coefficients)
    if max(masks, libra) > h.k:
        return None
    columns = plain.helper_columns << h.row_bits
    found = []
    for columns_first in (False, True):
        at = columns if columns_first else 0
        places = {}
        for name, bits in sorted(
            (("table_helpers", h.table_bits), ("libra", libra), ("masks", masks)),
            key=lambda block: -block[1],
        ):
            at = -(-at >> bits) << bits
            places[name] = at
            at += 1 << bits
        helpers = 0 if columns_first else -(-at >> h.row_bits) << h.row_bits
        end = at if columns_first else helpers + columns
        offsets = replace(plain.offsets, helpers=helpers, **places)
        tiles = -(-end >> h.k)
        placed = replace(plain, offsets=offsets, header=replace(h, helper_tiles=tiles))
        if min(map(_count, _free_helpers(placed))) < 2 * h.k:
            placed = replace(placed, header=replace(h, helper_tiles=tiles + 1))
        found.append(placed)
    return min(found, key=lambda placed: placed.header.helper_tiles)


def _cost(option: Description) -> float:
    """Return the estimated cost in gas, proving time included."""
    h = option.header
    tiles = h.weight_tiles + h.row_tiles + h.helper_tiles
    pieces = sum(len(t.pieces) for t in option.tensors)
    pieces += sum(
        len(equation.bias) + sum(len(product.pieces) for product in equation.products)
        for equation in option.equations
    )
    flat = sum(
        option.tensors[number].height * option.tensors[number].width
        for equation in option.equations
        for numbers in (
            () if equation.raw else (equation.target,),
            tuple(p.source for p in equation.products if p.kind == d.ProductKind.CONV),
            tuple(s.source for s in equation.scaled),
        )
        for number in numbers
        if option.tensors[number].flat
    )
    gas = (
        GAS_A_TILE * tiles
        + GAS_A_ROUND * option.rounds
        + GAS_A_VARIABLE * h.k
        + GAS_A_PIECE * pieces
        + GAS_A_FLAT_CELL * flat
    )
    points = 2 * option.cells + (option.helper_columns << h.row_bits)
    time_us = MICROSECONDS_A_POINT * points + MICROSECONDS_A_CELL * tiles * option.cells
    return gas + GAS_A_MICROSECOND * time_us


def _free_rows(plain: Description) -> list[range]:
    """Return the cells of the last tile of w behind the columns and outside the multiplicities."""
    h, multiplicities = plain.header, plain.offsets.multiplicities
    start, end = (h.row_tiles - 1) << h.k, h.row_tiles << h.k
    behind = multiplicities + (1 << h.table_bits)
    if behind < end:
        return [range(max(start, behind), end)]
    return [range(max(start, plain.columns.count << h.row_bits), multiplicities)]


def _free_helpers(plain: Description) -> tuple[list[range], list[range]]:
    """Return the cells of h outside every block, in lower and in upper halves of tiles."""
    h, o = plain.header, plain.offsets
    blocks = [
        (o.masks, 1 << clog(plain.evaluations)),
        (o.libra, 1 << clog(plain.libra_coefficients)),
        (o.table_helpers, 1 << h.table_bits),
        (o.helpers, plain.helper_columns << h.row_bits),
    ]
    at, gaps = 0, []
    for start, size in sorted(blocks):
        gaps.append((at, start))
        at = start + size
    gaps.append((at, h.helper_tiles << h.k))
    half = plain.cells // 2
    free: tuple[list[range], list[range]] = ([], [])
    for number in range(2 * h.helper_tiles):
        for start, end in gaps:
            cut = range(max(start, number * half), min(end, (number + 1) * half))
            if cut:
                free[number % 2].append(cut)
    return free


def _count(free: Sequence[range]) -> int:
    return sum(len(part) for part in free)


def _masked(plain: Description, attempt: int) -> Description:
    """Scatter mask cells over what is free, in a way that anybody can repeat."""
    k = plain.header.k
    lower, upper = _free_helpers(plain)
    helpers = [*_chosen(lower, 2 * k, attempt, 0), *_chosen(upper, 2 * k, attempt, 1)]
    rows = _chosen(_free_rows(plain), 3 * k, attempt, 2)
    return replace(
        plain, helper_mask_cells=tuple(sorted(helpers)), row_mask_cells=tuple(sorted(rows))
    )


def _chosen(free: Sequence[range], count: int, attempt: int, family: int) -> set[int]:
    """Return ``count`` of the free cells: SHA-256 of (attempt, family, number) picks them."""
    chosen: set[int] = set()
    number, room = 0, _count(free)
    while len(chosen) < count:
        seed = bytes([attempt, family]) + number.to_bytes(4, "big")
        picked = int.from_bytes(hashlib.sha256(seed).digest()[:8], "big") % room
        for part in free:
            if picked < len(part):
                chosen.add(part[picked])
                break
            picked -= len(part)
        number += 1
    return chosen


def _skeleton(program: p.Program, batch: int, flat: frozenset[int], k: int) -> Description:
    """Return a description without offsets and pieces; a bias that is there has an empty piece."""
    size = program.activation_bytes
    positions = {equation.pool.positions for equation in program.equations} - {1}
    return Description(
        header=d.Header(
            k=k,
            row_bits=0,
            table_bits=clog(512 + 256 * len(program.functions)),
            activation_bytes=size,
            remainder_limbs=size + 1,
            input_bytes=program.input_bytes,
            window_positions=max(positions, default=0),
            difference_limbs=2 * size + 1,
            output_kind=int(program.output_kind),
            weight_tiles=1,
            row_tiles=1,
            helper_tiles=1,
            batch=batch,
        ),
        offsets=d.Offsets(masks=0, libra=0, table_helpers=0, helpers=0, multiplicities=0),
        functions=program.functions,
        tensors=tuple(
            d.Tensor(
                flat=number in flat,
                channels=t.channels,
                height=t.height,
                width=t.width,
                zero_point=t.zero,
                function=t.function,
                pieces=(),
            )
            for number, t in enumerate(program.tensors)
        ),
        equations=tuple(
            _equation(equation, multipliers)
            for equation, multipliers in zip(program.equations, program.multipliers, strict=True)
        ),
        helper_mask_cells=(),
        row_mask_cells=(),
    )


def _equation(equation: p.Equation, multipliers: Sequence[int]) -> d.Equation:
    return d.Equation(
        target=d.OUTPUT if equation.target is None else equation.target,
        first_channel=equation.first,
        channels=equation.channels,
        height=equation.height,
        width=equation.width,
        per_channel=len(multipliers) > 1,
        pool=equation.pool,
        groups=equation.groups,
        products=tuple(_product(product) for product in equation.products),
        scaled=tuple(
            d.Scaled(
                source=term.source,
                first_channel=term.first,
                constant=int(term.factor) if term.fixed else 0,
                views=term.views,
            )
            for term in equation.scaled
        ),
        bias=() if equation.bias is None else (Piece(first=0, log=0, offset=0),),
    )


def _product(product: p.Product) -> d.Product:
    if product.gemm:
        return d.Product(
            kind=d.ProductKind.GEMM,
            source=product.source,
            first_channel=product.first,
            channels=product.channels,
            order=0,
            views=product.views,
        )
    return d.Product(
        kind=d.ProductKind.CONV,
        source=product.source,
        first_channel=product.first,
        channels=product.channels,
        order=0,
        kh=product.weights.shape[2],
        kw=product.weights.shape[3],
        sh=product.strides[0],
        sw=product.strides[1],
        dh=product.dilations[0],
        dw=product.dilations[1],
        ph=product.padding[0],
        pw=product.padding[1],
        views=product.views,
    )
