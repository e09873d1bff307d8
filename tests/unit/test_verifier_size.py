"""The size of a verifier's code is known before its version is offered on a chain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from zkserve import publish
from zkserve.engines.base import Bundle
from zkserve.errors import ChainError, ModelRejected, Unavailable, ZkserveError
from zkserve.recipe import Recipe
from zkserve.types import CircuitManifest, InputMode, Scale, TensorSpec, WeightsMode

_MANIFEST = CircuitManifest(
    circuit_id="0x" + "11" * 32,
    engine="ezkl",
    engine_version="1",
    input_mode=InputMode.PUBLIC,
    weights_mode=WeightsMode.HASHED,
    weights="0x" + "22" * 32,
    inputs=(TensorSpec(name="x", shape=(1, 1)),),
    output=TensorSpec(name="y", shape=(1, 1)),
    output_scale=Scale(),
    pins={},
    public=frozenset(),
    development_srs=True,
    rows=1,
)


class _Exporting:
    def export_verifier(self, bundle: Bundle) -> str:
        del bundle
        return "contract C {}"


def _measured(
    monkeypatch: pytest.MonkeyPatch, answer: int | Exception, *, on_chain: bool, solc: str = "solc"
) -> Mapping[str, object]:
    """Return the facts of a circuit whose verifier a compiler says this of."""

    def compiled(source: str, command: str) -> int:
        assert (source, command) == ("contract C {}", solc)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(publish, "engine", {"ezkl": _Exporting()}.__getitem__)
    monkeypatch.setattr(publish.evm, "verifier_bytes", compiled)
    bundle = Bundle(manifest=_MANIFEST, files={})
    nowhere = Path("nowhere")
    recipe = Recipe(
        name="tiny", description="", source=nowhere, samples_path=nowhere, engine="ezkl"
    )
    found = publish._with_verifier_size(recipe, bundle, solc, on_chain, lambda _: None)
    assert found.manifest.circuit_id == bundle.manifest.circuit_id
    return found.manifest.facts


def test_a_verifier_that_fits_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for on_chain in (True, False):
        assert _measured(monkeypatch, 24_576, on_chain=on_chain) == {"verifier_bytes": 24_576}


def test_a_verifier_that_no_chain_takes_is_refused_before_it_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ModelRejected, match="24577 bytes") as caught:
        _measured(monkeypatch, 24_577, on_chain=True)
    assert "--no-chain" in (caught.value.remedy or "")
    assert _measured(monkeypatch, 24_577, on_chain=False) == {"verifier_bytes": 24_577}


@pytest.mark.parametrize("problem", [Unavailable("No compiler."), ChainError("Another version.")])
def test_only_who_publishes_for_a_chain_needs_a_compiler(
    monkeypatch: pytest.MonkeyPatch, problem: ZkserveError
) -> None:
    with pytest.raises(type(problem)):
        _measured(monkeypatch, problem, on_chain=True)
    assert _measured(monkeypatch, problem, on_chain=False) == {}
    assert _measured(monkeypatch, problem, on_chain=False, solc="") == {}
