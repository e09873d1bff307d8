"""Every error zkserve raises on purpose.

::

    ZkserveError                      code, http status, remedy
    ├── InvalidInput                  the caller sent something unusable
    │   ├── RecipeInvalid             a circuits/<name>/ folder is wrong
    │   ├── ModelRejected             the ONNX model cannot be compiled safely
    │   └── InputOutOfRange           the circuit's lookups do not cover this input
    ├── NotFound                      no such model, version, job, artifact
    ├── Conflict                      the state of the thing forbids the action
    │   ├── IdempotencyConflict       same key, other body
    │   ├── LeakBudgetSpent           a further proof would reveal too much of the weights
    │   └── VersionDeprecated         proofs of it reveal its weights, and it is deprecated
    ├── Unauthorized                  no valid API key
    ├── ProofInvalid                  a proof does not prove its claim
    ├── BundleMismatch                artifacts differ from what was pinned
    ├── EngineFailed                  the engine broke while working
    │   ├── ChildKilled               the child died: memory limit, abort, signal
    │   ├── ChildTimeout              the child outlived its limit
    │   └── JobCancelled              somebody asked for the work to stop
    ├── DevelopmentSrsRefused         a development SRS in production
    ├── StorageKeyWrong               no storage key, or not the one that artifacts are sealed under
    ├── ChainError                    the node refused, or answered nonsense
    │   └── TransactionReverted       mined and reverted
    └── Unavailable                   a dependency is down; try again
        └── Unprofitable              gas costs more than is paid; wait

Third-party errors are wrapped once, at the seam, ``from exc``.
"""

from __future__ import annotations

from typing import ClassVar


class ZkserveError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What was given and what was expected.
        remedy: What to do next, a sentence in the imperative; shown by the CLI and the API.

    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


class InvalidInput(ZkserveError):
    """The caller sent something unusable."""

    code = "invalid-input"
    status = 422


class RecipeInvalid(InvalidInput):
    """A recipe folder is incomplete or contradicts itself."""

    code = "recipe-invalid"


class ModelRejected(InvalidInput):
    """The ONNX model cannot be compiled, or not safely."""

    code = "model-rejected"


class InputOutOfRange(InvalidInput):
    """The circuit's lookup tables or decompositions do not cover this input."""

    code = "input-out-of-range"


class NotFound(ZkserveError):
    """No such model, version, circuit, job or artifact."""

    code = "not-found"
    status = 404


class Conflict(ZkserveError):
    """The state of the thing forbids the action."""

    code = "conflict"
    status = 409


class IdempotencyConflict(Conflict):
    """The same Idempotency-Key came with another body."""

    code = "idempotency-conflict"
    status = 422


class LeakBudgetSpent(Conflict):
    """A further proof would reveal more of the weights than their budget allows."""

    code = "leak-budget-spent"


class VersionDeprecated(Conflict):
    """A deprecated version whose proofs reveal its weights gives no new ones."""

    code = "version-deprecated"


class Unauthorized(ZkserveError):
    """No valid API key was given."""

    code = "unauthorized"
    status = 401


class ProofInvalid(ZkserveError):
    """A proof does not prove the claim it came with."""

    code = "proof-invalid"
    status = 422


class BundleMismatch(ZkserveError):
    """Artifacts, engine version or circuit id differ from what was pinned at publication."""

    code = "bundle-mismatch"


class EngineFailed(ZkserveError):
    """The engine broke while compiling, setting up, predicting or proving."""

    code = "engine-failed"


class ChildKilled(EngineFailed):
    """The child process died without an answer: memory limit, abort or signal."""

    code = "child-killed"


class ChildTimeout(EngineFailed):
    """The child process outlived its time limit and was killed."""

    code = "child-timeout"
    status = 504


class JobCancelled(EngineFailed):
    """Somebody asked for the work to stop."""

    code = "cancelled"
    status = 409


class DevelopmentSrsRefused(ZkserveError):
    """A development SRS was met where production forbids it."""

    code = "development-srs-refused"


class StorageKeyWrong(ZkserveError):
    """The storage key is missing, malformed, or not the one that artifacts are sealed under."""

    code = "storage-key-wrong"


class ChainError(ZkserveError):
    """The node refused a call or answered something that cannot be true."""

    code = "chain-error"
    status = 502


class TransactionReverted(ChainError):
    """A transaction was mined and reverted."""

    code = "transaction-reverted"


class Unavailable(ZkserveError):
    """A dependency is down; nothing was lost, try again."""

    code = "unavailable"
    status = 503


class Unprofitable(Unavailable):
    """A transaction costs more, at today's fees, than it earns."""

    code = "unprofitable"
