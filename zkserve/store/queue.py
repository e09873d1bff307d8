"""Enqueueing durable work inside the transaction of the row that causes it."""

from __future__ import annotations

from dbos import DBOSClient, EnqueueOptions, WorkflowSerializationFormat
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from zkserve.errors import Unavailable
from zkserve.store.database import Database

APPLICATION = "zkserve"
PROOFS = "proofs"
CHAIN = "chain"
SETTLE = "settle"


class JobQueue:
    """Durable queues in the database of the tables; only needs migrated tables, no worker.

    ``application_version`` is stamped on everything enqueued: workers of another version leave it
    alone, so a deployment finishes or strands nothing by chance.
    """

    def __init__(self, database: Database, application_version: str) -> None:
        self._application_version = application_version
        self._client = DBOSClient(
            system_database_engine=database.engine,
            application_name=APPLICATION,
            lazy=True,
            retry_connection_errors=False,
        )

    def enqueue(
        self,
        session: Session,
        workflow: str,
        queue: str,
        job_id: str,
        *,
        attempt: int = 0,
        delay_s: float = 0.0,
        first: bool = True,
        occasion: int | None = None,
    ) -> None:
        """Enqueue a workflow for a job when the transaction of ``session`` commits.

        The workflow gets ``(job_id, attempt)``. Its id is the job's for the first, otherwise
        ``<job id>.<workflow>.<attempt>``; enqueueing an id again does nothing. An ``occasion``
        is added to it where one attempt may need several.
        """
        repeated = f"{job_id}.{workflow}.{attempt}" + ("" if occasion is None else f".{occasion}")
        options: EnqueueOptions = {
            "workflow_name": workflow,
            "queue_name": queue,
            "workflow_id": job_id if first else repeated,
            "app_version": self._application_version,
            # The default is pickle: a database that can be written to is not to run code.
            "serialization_type": WorkflowSerializationFormat.PORTABLE,
        }
        if delay_s > 0:
            options["delay_seconds"] = delay_s
        self._client.enqueue_in_transaction(session, options, job_id, attempt)

    def cancel(self, job_id: str) -> None:
        """Take what waits for a job off the queues; what runs sees the job's row by itself.

        Raises:
            Unavailable: the database did not answer.

        """
        try:
            found = self._client.list_workflows(
                workflow_id_prefix=job_id,
                status=["ENQUEUED", "DELAYED"],
                load_input=False,
                load_output=False,
            )
            self._client.cancel_workflows([workflow.workflow_id for workflow in found])
        except OperationalError as exc:
            raise Unavailable("The database did not answer.", remedy="Try again.") from exc
