"""Straight-line arithmetic mod p as Yul.

A :class:`Graph` collects expressions over words in memory; equal expressions are one node.
:meth:`Graph.emit` turns roots into assembly statements: what is used more than once is kept in a
word of memory, the rest is nested, so that a multiplication costs little more than its own 8 gas.

Sums are reduced lazily. Every node knows the largest integer it can be at run time; ``add`` is used
as long as that fits a word, and ``mulmod`` takes unreduced operands. Only the results of
:meth:`Graph.emit` that are asked for as ``reduced`` are below p.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

P: Final = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Order of the group G1 of BN254."""
_WORD: Final = (1 << 256) - 1
_LEAVES: Final = frozenset({"const", "load", "signed"})
_HEIGHT: Final = 11
"""Stack items an expression may hold above the modulus: DUP16 must reach it."""
_SIZE: Final = 80
"""Operations of one expression; longer ones are cut, so that texts and parsers stay shallow."""
_GAS: Final = {
    "const": 3,
    "load": 6,
    "signed": 12,
    "add": 3,
    "sub": 9,
    "mul": 11,
    "addmod": 11,
    "mod": 8,
}


class Value:
    """A node of a graph, with the operators of a field."""

    __slots__ = ("args", "bound", "graph", "literal", "number", "op")

    def __init__(
        self,
        graph: Graph,
        op: str,
        args: tuple[Value, ...],
        bound: int,
        number: int,
        literal: int,
    ) -> None:
        self.graph = graph
        self.op = op
        self.args = args
        self.bound = bound
        self.number = number
        self.literal = literal

    def __add__(self, other: Value | int) -> Value:
        return self.graph.add(self, self.graph.value(other))

    def __sub__(self, other: Value | int) -> Value:
        return self.graph.sub(self, self.graph.value(other))

    def __mul__(self, other: Value | int) -> Value:
        return self.graph.mul(self, self.graph.value(other))

    def __radd__(self, other: int) -> Value:
        return self + other

    def __rsub__(self, other: int) -> Value:
        return self.graph.value(other) - self

    def __rmul__(self, other: int) -> Value:
        return self * other

    def __neg__(self) -> Value:
        return 0 - self

    def __pow__(self, exponent: int) -> Value:
        return self.graph.power(self, exponent)

    @property
    def constant(self) -> int | None:
        """The number that a constant stands for; None for other nodes."""
        return self.literal if self.op == "const" else None


@dataclass(frozen=True, kw_only=True)
class Root:
    """A value to be written to a word of memory."""

    address: int
    value: Value
    reduced: bool = True


class Graph:
    """Expressions over words of memory, with equal ones shared."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[object, ...], Value] = {}
        self._powers: dict[int, dict[int, Value]] = {}

    def _node(self, op: str, args: tuple[Value, ...], bound: int, literal: int = 0) -> Value:
        identity = (op, literal, *(arg.number for arg in args))
        if identity not in self._nodes:
            self._nodes[identity] = Value(self, op, args, bound, len(self._nodes), literal)
        return self._nodes[identity]

    def value(self, number: Value | int) -> Value:
        """Return a node for a constant; a node stays what it is."""
        if isinstance(number, Value):
            return number
        number %= P
        return self._node("const", (), number, number)

    def load(self, address: int) -> Value:
        """Return the word at an address, which must hold a value below p when it is read."""
        return self._node("load", (), P - 1, address)

    def signed(self, address: int) -> Value:
        """Return the two's complement word at an address, of magnitude below ``2**62``."""
        return self._node("signed", (), P + (1 << 62), address)

    def add(self, a: Value, b: Value) -> Value:
        """Return ``a + b``."""
        if a.number > b.number:
            a, b = b, a
        if a.constant is not None and b.constant is not None:
            return self.value(a.constant + b.constant)
        for x, y in ((a, b), (b, a)):
            if x.constant == 0:
                return y
            if x.constant is not None and x.constant > P // 2:
                return self.sub(y, self.value(-x.constant))
            if x.op == "sub" and x.args[1] is y:
                return x.args[0]
        if a.bound + b.bound <= _WORD:
            return self._node("add", (a, b), a.bound + b.bound)
        return self._node("addmod", (a, b), P - 1)

    def sub(self, a: Value, b: Value) -> Value:
        """Return ``a - b``."""
        if a is b:
            return self.value(0)
        if b.constant is not None:
            if b.constant == 0:
                return a
            if a.constant is not None:
                return self.value(a.constant - b.constant)
            if b.constant > P // 2:
                return self.add(a, self.value(-b.constant))
        if a.constant == 0 and b.op == "sub" and b.args[0].constant == 0:
            return b.args[1]
        if b.bound > P:
            b = self._node("mod", (b,), P - 1)
        if a.constant is None and a.bound + P > _WORD:
            a = self._node("mod", (a,), P - 1)
        return self._node("sub", (a, b), a.bound + P)

    def mul(self, a: Value, b: Value) -> Value:
        """Return ``a * b``."""
        if a.number > b.number:
            a, b = b, a
        if a.constant is not None and b.constant is not None:
            return self.value(a.constant * b.constant)
        for x, y in ((a, b), (b, a)):
            if x.constant == 0:
                return x
            if x.constant == 1:
                return y
            if x.constant is not None and x.constant > P // 2:
                return self.sub(self.value(0), self.mul(y, self.value(-x.constant)))
        return self._node("mul", (a, b), P - 1)

    def power(self, base: Value, exponent: int) -> Value:
        """Return ``base**exponent``; powers of one base share their parts."""
        known = self._powers.setdefault(base.number, {0: self.value(1), 1: base})
        if exponent not in known:
            if exponent - 1 in known and exponent % 2:
                known[exponent] = known[exponent - 1] * base
            else:
                half = self.power(base, exponent // 2)
                known[exponent] = half * half if exponent % 2 == 0 else half * half * base
        return known[exponent]

    def sum(self, values: Iterable[Value]) -> Value:
        """Return the sum of values."""
        total = self.value(0)
        for value in values:
            total = total + value
        return total

    def product(self, values: Iterable[Value]) -> Value:
        """Return the product of values, multiplied from the first to the last."""
        total = self.value(1)
        for value in values:
            total = total * value
        return total

    def emit(self, stages: Sequence[Sequence[Root]], spill: int) -> tuple[list[str], int]:
        """Return the statements of each stage, and the end of the memory that they use.

        ``p`` and ``p1`` (p + 1) must be in scope. Intermediate words lie from ``spill`` on and
        survive from one stage to the next.
        """
        stages = [
            [Root(address=r.address, value=self._reduce(r)) for r in stage] for stage in stages
        ]
        kept, heights = self._kept([root for stage in stages for root in stage])
        order: list[list[tuple[Value, int | None]]] = []
        done: set[int] = set()
        for stage in stages:
            statements: list[tuple[Value, int | None]] = []
            for root in stage:
                waiting = [node for node in reachable([root.value]) if node.number in kept - done]
                for node in waiting:
                    done.add(node.number)
                    statements.append((node, None))
                statements.append((root.value, root.address))
            order.append(statements)
        return _write(order, kept, heights, spill)

    def _reduce(self, root: Root) -> Value:
        if root.reduced and root.value.bound >= P:
            return self._node("mod", (root.value,), P - 1)
        return root.value

    def _kept(self, roots: list[Root]) -> tuple[set[int], dict[int, int]]:
        """Choose the nodes that are worth, or must have, a word of memory.

        The second result is the number of stack items that each expression takes.
        """
        nodes = reachable([root.value for root in roots])
        uses: dict[int, int] = {}
        for node in nodes:
            for child in node.args:
                uses[child.number] = uses.get(child.number, 0) + 1
        for root in roots:
            uses[root.value.number] = uses.get(root.value.number, 0) + 1
        kept: set[int] = set()
        gas: dict[int, int] = {}
        height: dict[int, int] = {}
        size: dict[int, int] = {}
        for node in nodes:
            number = node.number
            while True:
                parts = [6 if c.number in kept else gas[c.number] for c in node.args]
                heights = [1 if c.number in kept else height[c.number] for c in node.args]
                sizes = [1 if c.number in kept else size[c.number] for c in node.args]
                height[number] = _height(node, heights)
                size[number] = 1 + sum(sizes)
                if height[number] <= _HEIGHT and size[number] <= _SIZE:
                    break
                heavy = max(
                    (c for c in node.args if c.op not in _LEAVES and c.number not in kept),
                    key=lambda c: (height[c.number] > _HEIGHT // 2, size[c.number]),
                )
                kept.add(heavy.number)
            gas[number] = sum(parts) + _GAS[node.op]
            if node.op == "sub" and node.args[0].constant is not None:
                gas[number] -= 6
            count = uses[number]
            if node.op not in _LEAVES and gas[number] * (count - 1) > 6 + 6 * count:
                kept.add(number)
        return kept, height


def _write(
    order: list[list[tuple[Value, int | None]]],
    kept: set[int],
    heights: dict[int, int],
    spill: int,
) -> tuple[list[str], int]:
    last: dict[int, int] = {}
    for index, (node, address) in enumerate(s for stage in order for s in stage):
        inner = node.args if address is None else (node,)
        for used in _inline(inner, kept):
            last[used] = index
    places: dict[int, int] = {}
    free: list[int] = []
    end = spill
    texts = []
    index = 0
    for stage in order:
        lines = []
        for node, address in stage:
            text = _text(node, places, heights, top=address is None)
            inner = node.args if address is None else (node,)
            for used in _inline(inner, kept):
                if last[used] == index and used in places:
                    free.append(places[used])
                    last[used] = -1
            if address is None:
                if free:
                    address = free.pop()
                else:
                    address, end = end, end + 32
                places[node.number] = address
            lines.append(f"mstore({address:#x}, {text})")
            index += 1
        texts.append("\n".join(lines))
    return texts, end


def reachable(roots: Iterable[Value]) -> list[Value]:
    """Return the nodes that some roots are computed from, each after its operands."""
    seen: dict[int, Value] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.number not in seen:
            seen[node.number] = node
            stack.extend(node.args)
    return [seen[number] for number in sorted(seen)]


def _inline(nodes: Sequence[Value], kept: set[int]) -> set[int]:
    """Return the kept nodes that an expression reads."""
    found: set[int] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node.number in kept:
            found.add(node.number)
        else:
            stack.extend(node.args)
    return found


def _height(node: Value, heights: list[int]) -> int:
    if not heights:
        return 2 if node.op == "signed" else 1
    if len(heights) == 1:
        return 1 + heights[0]
    if node.op == "sub":
        a, b = heights
        if node.args[0].constant in (0, 1):
            return max(b, 2)
        heights = [a, max(b, 2)]
    low, high = sorted(heights)
    below = 0 if node.op == "add" else 1
    return below + max(high, 1 + low)


def _text(node: Value, places: dict[int, int], heights: dict[int, int], *, top: bool) -> str:
    """Write an expression; the deeper operand stands last, where Yul begins."""
    if node.number in places and not top:
        return f"mload({places[node.number]:#x})"
    if node.op == "const":
        return str(node.literal) if node.literal < 1 << 32 else f"{node.literal:#x}"
    if node.op == "load":
        return f"mload({node.literal:#x})"
    if node.op == "signed":
        return f"add(p, mload({node.literal:#x}))"
    texts = [_text(child, places, heights, top=False) for child in node.args]
    if node.op == "mod":
        return f"mod({texts[0]}, p)"
    depths = [1 if c.number in places else heights[c.number] for c in node.args]
    if node.op == "sub":
        if node.args[0].constant in (0, 1):
            return f"sub({'p1' if node.args[0].constant else 'p'}, {texts[1]})"
        texts[1], depths[1] = f"sub(p, {texts[1]})", max(depths[1], 2)
    light, heavy = texts if depths[1] >= depths[0] else texts[::-1]
    if node.op in {"add", "sub"}:
        return f"add({light}, {heavy})"
    return f"{'mulmod' if node.op == 'mul' else 'addmod'}({light}, {heavy}, p)"
