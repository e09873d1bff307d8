"""The words that a verifier's arithmetic begins with."""

from __future__ import annotations

from dataclasses import dataclass

from zkserve.engines.native.evm.yul import Graph, Value


@dataclass(frozen=True, kw_only=True)
class Words:
    """The challenges, and what of the statement and the proof enters arithmetic."""

    graph: Graph
    hidden: bool
    alpha: Value
    lam: Value
    eta: Value
    tau: list[Value]
    equations: list[list[list[Value]]]
    """For each equation ``r_l``, split."""
    output: list[list[Value]]
    r: list[Value]
    chi_x: Value
    chi: list[Value]
    beta: Value
    rho: list[Value]
    theta: Value
    gamma: Value
    zeta: Value
    nu: Value
    omega: Value
    multipliers: tuple[Value, ...]
    outputs: list[Value]
    input_sum: Value
    """``sum_t word_t chi_x^t`` of a public input."""
    first: Value
    """``V``."""
    main: Value
    """The claim after the main sumcheck."""
    factors: list[Value]
    """``E``."""
    powers: list[Value]
    """``beta^(5 + i)``, one for each of ``E`` and one more."""
    power_sum: Value
    """``E`` weighted with them."""
    mask: Value
    """``s_M``."""
    final: Value
    """The claim ``e`` after the final sumcheck."""
    openings: list[Value]
