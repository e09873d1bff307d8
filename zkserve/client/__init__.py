"""The SDK: ask a service for predictions, follow their proofs, fetch and verify receipts.

Importing it pulls in no torch, ezkl, onnx, web3 or numpy. Example::

    with Client("http://127.0.0.1:8000") as client:
        prediction = client.infer("breast_cancer", features)   # at once, not yet proven
        client.wait(prediction.proof_id)
        receipt = client.receipt(prediction.proof_id)          # a proven prediction
        client.verify(receipt)                                 # offline, on this machine

Errors are those of :mod:`zkserve.errors`, also where the service raised them.
"""

from zkserve.client.answers import CommittedInput, JobEvent, Prediction, ProofJob
from zkserve.client.client import Client

__all__ = ["Client", "CommittedInput", "JobEvent", "Prediction", "ProofJob"]
