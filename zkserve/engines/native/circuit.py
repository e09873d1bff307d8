"""A circuit as its bundle holds it: every file compared with its pin before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from zkserve.encoding import bytes32, circuit_id, sha256_hex
from zkserve.engines.base import Bundle, FloatArray
from zkserve.engines.native.inputs import Opening, input_shape
from zkserve.engines.native.interface import Interface
from zkserve.engines.native.protocol.description import Description, decode
from zkserve.engines.native.protocol.wire import DescriptionInvalid
from zkserve.engines.native.verifier_srs import VerifierSrs
from zkserve.errors import BundleMismatch, InputOutOfRange, InvalidInput
from zkserve.types import CircuitManifest, InputMode

NAME = "native"
VERSION = "1"
"""The protocol's: what was made under it is proved and verified by every release that has it."""
_PROVING = ("description", "weights", "srs")


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A bundle, its description and its interface."""

    bundle: Bundle
    description: Description
    interface: Interface

    @classmethod
    def of(cls, bundle: Bundle) -> Circuit:
        """Read a bundle.

        Raises:
            BundleMismatch: its engine, its circuit id or a file is not as pinned, or manifest,
                interface, description and SRS contradict each other.

        """
        manifest = bundle.manifest
        if (manifest.engine, manifest.engine_version) != (NAME, VERSION):
            raise BundleMismatch(
                f"The circuit was made by {manifest.engine} {manifest.engine_version}; this is "
                f"{NAME} {VERSION}.",
                remedy="Install the version that the circuit names, or publish it again.",
            )
        if circuit_id(manifest) != manifest.circuit_id:
            raise BundleMismatch("The circuit id is not that of the manifest's own fields.")
        description = _description(_pinned(bundle, "description"))
        if manifest.batch != description.header.batch:
            raise BundleMismatch("The manifest's batch is not that of the circuit's description.")
        interface = _interface(_pinned(bundle, "interface"))
        _check_interface(interface, manifest, description)
        circuit = cls(bundle=bundle, description=description, interface=interface)
        if circuit.verifier_srs.development and not manifest.development_srs:
            raise BundleMismatch(
                "The circuit rests on a development SRS, and its manifest says that it does not.",
                remedy="Do not trust this circuit: whoever made its SRS can forge proofs.",
            )
        return circuit

    @property
    def manifest(self) -> CircuitManifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def hidden(self) -> bool:
        """Whether claims hold a commitment to the input instead of the input."""
        return self.manifest.input_mode is InputMode.COMMITTED

    @property
    def verifier_srs(self) -> VerifierSrs:
        """What verifying needs of the SRS."""
        return VerifierSrs.decode(self.read("verifier_srs"))

    def read(self, name: str) -> bytes:
        """Return the bytes of an artifact.

        Raises:
            BundleMismatch: it is missing, or not the pinned one.

        """
        return _pinned(self.bundle, name)

    def proving_files(self) -> dict[str, Any]:
        """Return what :mod:`zkserve.engines.native.steps` knows a circuit by; it checks the pins.

        Raises:
            BundleMismatch: a file is missing.

        """
        files = {}
        for name in _PROVING:
            path = self.bundle.files.get(name)
            if path is None or not path.is_file() or name not in self.manifest.pins:
                raise _missing(name)
            files[name] = [str(path.resolve()), self.manifest.pins[name]]
        return {
            "files": files,
            "hidden": self.hidden,
            "weights": bytes32(self.manifest.weights).hex(),
            "shape": input_shape(self.description),
            "k": self.description.header.k,
        }

    def quantise(self, inputs: FloatArray) -> tuple[int, ...]:
        """Return the cells of real inputs, shape ``(elements,)``: each tensor of the whole batch.

        Raises:
            InvalidInput: another shape, or not finite.
            InputOutOfRange: a value that no cell stands for.

        """
        size = sum(spec.size for spec in self.manifest.inputs)
        if inputs.shape != (size,):
            raise InvalidInput(f"The input has shape {inputs.shape}; expected ({size},).")
        if not np.isfinite(inputs).all():
            where = int(np.flatnonzero(~np.isfinite(inputs))[0])
            raise InvalidInput(f"Element {where} of the input is not a finite float32.")
        rows = self._rows(inputs.astype(np.float32))
        if self.interface.outside(rows).any():
            raise InputOutOfRange(
                "The input holds a value outside the range that the circuit takes.",
                remedy="Scale the input as the model expects, or publish a circuit calibrated on "
                "wider samples.",
            )
        return tuple(int(cell) for cell in self.interface.quantise(rows).ravel())

    def to_real(self, cells: tuple[int, ...]) -> FloatArray:
        """Return the real inputs that cells stand for, shape ``(elements,)``."""
        shaped = np.asarray(cells, np.uint16).reshape(input_shape(self.description))
        rows = self.interface.dequantise(shaped).astype(np.float32)
        return np.concatenate([part.ravel() for part in np.split(rows, self._cuts, axis=1)])

    @property
    def _cuts(self) -> list[int]:
        """Where the tensors of one sample end, but for the last."""
        sizes = [spec.size // self.manifest.batch for spec in self.manifest.inputs]
        return [int(end) for end in np.cumsum(sizes)[:-1]]

    def _rows(self, inputs: FloatArray) -> FloatArray:
        """Return a row for each sample of a batch."""
        batch = self.manifest.batch
        parts = np.split(inputs, [batch * end for end in self._cuts])
        return np.hstack([part.reshape(batch, -1) for part in parts])

    def decode_opening(self, opening: bytes) -> Opening:
        """Read an opening of this circuit.

        Raises:
            ProofInvalid: it is not one.

        """
        return Opening.decode(opening, self.description, hidden=self.hidden)


def _pinned(bundle: Bundle, name: str) -> bytes:
    path = bundle.files.get(name)
    if path is None or not path.is_file() or name not in bundle.manifest.pins:
        raise _missing(name)
    data = path.read_bytes()
    if sha256_hex(data) != bundle.manifest.pins[name]:
        raise BundleMismatch(
            f"Artifact {name!r} differs from what was pinned at publication.",
            remedy="Fetch the artifacts again; if this stays, do not trust the circuit.",
        )
    return data


def _missing(name: str) -> BundleMismatch:
    return BundleMismatch(f"The bundle has no artifact {name!r}.")


def _check_interface(
    interface: Interface, manifest: CircuitManifest, description: Description
) -> None:
    """Check that what callers are told of values is of the tensors that are proved."""
    batch, *shape = input_shape(description)
    elements = (1, math.prod(shape))
    for what, stated, expected in (
        ("interface's input shape", interface.shape, tuple(shape)),
        ("interface's bytes of an input", interface.input_bytes, description.header.input_bytes),
        ("interface's number of inputs", sum(s.size for s in interface.inputs), math.prod(shape)),
        ("interface's number of outputs", batch * interface.output.size, description.outputs),
        ("manifest's inputs", manifest.inputs, tuple(s.batched(batch) for s in interface.inputs)),
        ("manifest's output", manifest.output, interface.output.batched(batch)),
        ("manifest's output scale", manifest.output_scale, interface.output_scale),
    ):
        if stated != expected:
            raise BundleMismatch(f"The {what}, {stated}, is not the circuit's, {expected}.")
    if len(interface.scales) not in elements or len(interface.zeros) not in elements:
        raise BundleMismatch("The interface has not one scale and zero, or one for each input.")


@lru_cache(maxsize=32)
def _description(data: bytes) -> Description:
    try:
        return decode(data)
    except DescriptionInvalid as exc:
        raise BundleMismatch(f"The circuit's description is refused: {exc}.") from exc


@lru_cache(maxsize=32)
def _interface(data: bytes) -> Interface:
    try:
        return Interface.from_json(data.decode())
    except (ValueError, KeyError, TypeError) as exc:
        raise BundleMismatch(f"The circuit's interface cannot be read: {exc}.") from exc
