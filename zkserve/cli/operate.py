"""Commands of operating: status, demo, db, keys, jobs, chain, srs, storage."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zkserve import log
from zkserve.cli import doctor
from zkserve.cli.console import JsonFlag, answer, progress, read_settings, table
from zkserve.cli.owner import open_chain, open_node
from zkserve.cli.user import ApiKeyOption, UrlOption, open_client
from zkserve.client import Client
from zkserve.errors import Unauthorized
from zkserve.sealing import new_key
from zkserve.store import jobs, keys
from zkserve.store.database import Database
from zkserve.types import JobState


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(status)
    app.command()(doctor.doctor)
    app.command()(demo)
    db = typer.Typer(help="The database.", no_args_is_help=True)
    db.command("upgrade")(db_upgrade)
    app.add_typer(db, name="db")
    key_commands = typer.Typer(help="API keys.", no_args_is_help=True)
    key_commands.command("create")(keys_create)
    key_commands.command("list")(keys_list)
    key_commands.command("revoke")(keys_revoke)
    app.add_typer(key_commands, name="keys")
    job_commands = typer.Typer(help="Proof jobs, as their operator.", no_args_is_help=True)
    job_commands.command("list")(jobs_list)
    job_commands.command("retry")(jobs_retry)
    app.add_typer(job_commands, name="jobs")
    chain = typer.Typer(help="The contracts.", no_args_is_help=True)
    chain.command("deploy")(chain_deploy)
    app.add_typer(chain, name="chain")
    srs = typer.Typer(help="Structured reference strings.", no_args_is_help=True)
    srs.command("import")(srs_import)
    app.add_typer(srs, name="srs")
    storage = typer.Typer(
        help="The storage key, and what is sealed under it.", no_args_is_help=True
    )
    storage.command("new-key")(storage_new_key)
    storage.command("seal")(storage_seal)
    app.add_typer(storage, name="storage")


def status(url: UrlOption = None, api_key: ApiKeyOption = None, as_json: JsonFlag = False) -> None:
    """Ask the service how it is: ready or not, models, your newest proofs.

    Exits with 1 while it is not ready. Example: `zkserve status --url http://127.0.0.1:8000`
    """
    with open_client(url, api_key) as client:
        ready = client.ready()
        models = client.models() if ready else []
        proofs = _own_proofs(client) if ready else []
    data = {"ready": ready, "models": models, "proofs": proofs}
    if as_json:
        answer(data, True)
    else:
        answer(data, False, "ready" if ready else "[red]not ready[/]")
        if models:
            rows = [
                (str(model["name"]), str(model["version"]), _leak(model.get("leak")))
                for model in models
            ]
            table("Models", ("name", "version", "leak budget"), rows)
        if proofs:
            recent = [(str(proof["id"]), str(proof["state"])) for proof in proofs[:10]]
            table("Newest proofs", ("id", "state"), recent)
    if not ready:
        sys.exit(1)


def _leak(leak: dict[str, int] | None) -> str:
    return f"{leak['made']} of {leak['proofs']} proofs" if leak else ""


def _own_proofs(client: Client) -> list[dict[str, Any]]:
    try:
        return client.proofs()
    except Unauthorized:
        return []  # whoever has no key has no proofs; whether the service is up, anybody may ask


def demo(
    folder: Annotated[Path, typer.Option(help="Where receipts and demo.json are written.")] = Path(
        "build"
    ),
    as_json: JsonFlag = False,
) -> None:
    """Show the whole product on a chain of its own: publish, predict, prove, settle, verify.

    Takes about a minute and leaves nothing running. Example: `zkserve demo --folder build`
    """
    from zkserve import demo as show_case

    log.configure("ERROR")
    for number in (signal.SIGTERM, signal.SIGHUP):  # clean up as after an interrupt
        signal.signal(number, signal.default_int_handler)
    with progress(as_json) as show:
        result = show_case.run(folder.resolve(), show)
    if as_json:
        answer(result, True)
        return
    columns = tuple(result["predictions"][0])
    rows = [(name, *(_cell(p[name]) for p in result["predictions"])) for name in columns]
    titles = ("", *(str(p) for p in result["titles"]))
    table("Two proven predictions", titles, rows)
    answer(
        {},
        False,
        f"Written to {folder / 'demo.json'}; receipts and artifacts lie in {folder / 'demo'}.",
        "[yellow]Development SRS: these proofs can be forged by whoever made it.[/]",
    )


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def srs_import(
    source: Annotated[Path, typer.Argument(metavar="PTAU", help="A ceremony's .ptau file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the SRS is written.")],
    log_size: Annotated[
        int, typer.Option(min=9, max=24, help="For circuits of tiles of up to 2^n cells.")
    ] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Make an SRS for the native engine of a public ceremony's powers of tau, checked by pairings.

    Set ZKSERVE_SRS_PATH and ZKSERVE_SRS_SHA256 to what it prints.
    Example: `zkserve srs import powersOfTau28_hez_final_20.ptau srs/tau.srs --log-size 18`
    """
    from zkserve.encoding import sha256_file, to_hex
    from zkserve.engines.native.ceremony import import_srs
    from zkserve.engines.native.verifier_srs import VerifierSrs

    with progress(as_json) as show:
        show("checking and writing the powers")
        import_srs(source, out, log_size)
        show("computing the digest")
        digest = sha256_file(out)
        points = to_hex(VerifierSrs.cut(out).digest)
    answer(
        {"path": str(out), "sha256": digest, "srs_digest": points},
        as_json,
        f"ZKSERVE_SRS_PATH={out}",
        f"ZKSERVE_SRS_SHA256={digest}",
        f"  Native circuits verified under it show the SRS digest {points}.",
        "  That this ceremony is one to trust is for you to know.",
    )


def storage_new_key(as_json: JsonFlag = False) -> None:
    """Print a fresh storage key; nothing is stored.

    Example: `(umask 077; zkserve storage new-key > /etc/zkserve/storage.key)`
    """
    key = new_key()
    answer({"key": key}, as_json, key.rstrip())


def storage_seal(as_json: JsonFlag = False) -> None:
    """Seal all that is secret under the storage key's first line, where it is not yet.

    For a change of keys: stop the other processes, put the new key before the old one, run this,
    and take the old one away. Cut off anywhere, it loses nothing; run it again.
    Example: `zkserve storage seal`
    """
    from zkserve import storage

    node = open_node(read_settings())
    with progress(as_json) as show:
        show("sealing")
        number = storage.seal_all(node)
    recipient = node.artifacts.key.recipients[0]
    answer(
        {"sealed": number, "recipient": recipient},
        as_json,
        f"{number} files sealed anew; all are sealed under the key of {recipient}.",
    )


def db_upgrade(as_json: JsonFlag = False) -> None:
    """Create or migrate the tables; safe to repeat.

    Example: `ZKSERVE_DATA_DIR=/srv/models zkserve db upgrade`
    """
    settings = read_settings()
    log.configure("WARNING")
    Database(settings.database).upgrade()
    answer({"upgraded": True}, as_json, "The database is up to date.")


def keys_create(
    tenant: Annotated[str, typer.Argument(help="Whom the key is for.")], as_json: JsonFlag = False
) -> None:
    """Create an API key; it is shown this once.

    Example: `zkserve keys create clinic`
    """
    node = open_node(read_settings())
    with node.database.session() as session:
        key = keys.create(session, tenant)
    answer({"tenant": tenant, "key": key}, as_json, key)


def keys_list(as_json: JsonFlag = False) -> None:
    """List API keys by prefix.

    Example: `zkserve keys list --json`
    """
    node = open_node(read_settings())
    with node.database.session() as session:
        rows = [
            {
                "prefix": row.prefix,
                "tenant": row.tenant,
                "created_at": row.created_at.isoformat(),
                "revoked": row.revoked_at is not None,
            }
            for row in keys.listing(session)
        ]
    if as_json:
        answer(list(rows), True)
        return
    cells = [
        (
            str(r["prefix"]),
            str(r["tenant"]),
            str(r["created_at"]),
            "revoked" if r["revoked"] else "",
        )
        for r in rows
    ]
    table("API keys", ("prefix", "tenant", "created", ""), cells)


def keys_revoke(
    prefix: Annotated[str, typer.Argument(help="The key's prefix, from `zkserve keys list`.")],
    as_json: JsonFlag = False,
) -> None:
    """Revoke an API key at once.

    Example: `zkserve keys revoke 1a2b3c4d`
    """
    node = open_node(read_settings())
    with node.database.session() as session:
        keys.revoke(session, prefix)
    answer({"revoked": prefix}, as_json, f"{prefix} is revoked.")


def jobs_list(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List all tenants' proof jobs, newest first.

    Example, the dead letters: `zkserve jobs list --state failed`
    """
    node = open_node(read_settings())
    with node.database.snapshot() as session:
        found = [
            {
                "id": job.id,
                "tenant": job.tenant,
                "state": job.state,
                "created_at": job.created_at.isoformat(timespec="seconds"),
                "error": job.error_message,
            }
            for job in jobs.listing(session, None, state=state, limit=limit)
        ]
    if as_json:
        answer(list(found), True)
        return
    columns = ("id", "tenant", "state", "created_at", "error")
    rows = [tuple(job[column] or "" for column in columns) for job in found]
    table("Proof jobs", columns, rows)


def jobs_retry(
    job_id: Annotated[str, typer.Argument(help="Id of a failed job, from `zkserve jobs list`.")],
    as_json: JsonFlag = False,
) -> None:
    """Give a failed job one more attempt, from the stage it failed in.

    Example: `zkserve jobs retry 0198c5d2-7b1e-7c3a-9a51-0e6f2b7d4c10`
    """
    from zkserve import prove
    from zkserve.store.queue import JobQueue

    settings = read_settings()
    node = open_node(settings)
    job = prove.retry(node, JobQueue(node.database, settings.application_version), job_id)
    answer({"id": job.id, "state": job.state}, as_json, f"{job.id} is {job.state} again.")


def chain_deploy(as_json: JsonFlag = False) -> None:
    """Deploy registry and market to the chain of ZKSERVE_RPC_URL, signed by ZKSERVE_SIGNER_KEY.

    Once per chain: called again it answers with the same addresses. Example: `zkserve chain deploy`
    """
    from zkserve import outbox
    from zkserve.chain import deploy

    settings = read_settings()
    node, chain = open_node(settings), open_chain(settings)
    with progress(as_json) as show:
        show("deploying registry and market")
        ledger = deploy.deploy(
            chain,
            lambda purpose, code: outbox.create(
                node.database, chain, purpose=purpose, code=code, depth=settings.confirmations
            ),
        )
    path = settings.data_dir / f"deployment-{ledger.chain_id}.toml"
    ledger.write(path)
    registry, market = ledger.address(deploy.REGISTRY), ledger.address(deploy.MARKET)
    answer(
        {"chain_id": ledger.chain_id, "registry": registry, "market": market, "ledger": str(path)},
        as_json,
        f"export ZKSERVE_REGISTRY={registry}",
        f"export ZKSERVE_MARKET={market}",
    )
