"""Rounds started from Prefect's page: `c3 serve` waits for them on this machine, a work pool's workers anywhere.

What is started is a flow of its own, because a page gives parameters and no command line: it settles the configuration
as the command would, and runs the same round.
"""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import NoReturn

from prefect import flow, serve
from prefect.types.entrypoint import EntrypointType

from configs.environment import store_root
from pipeline.commands.run import run_iteration
from pipeline.commands.session import RoundOptions, configure_session
from pipeline.execution.process import prepare_process
from store.disk.layout import MAIN

DEPLOYMENT = "round"
ENTRYPOINT = "c3.requested_round"
"""As Prefect's runs import it: by way of c3, because they start in a folder that may hold another package `pipeline`."""


@flow(name="c3", flow_run_name="{run} · round {round}", persist_result=False)
def requested_round(
    run: str = "default",
    round: int = 1,
    config: str | None = None,
    overrides: list[str] | None = None,
    until: str = "update",
    workers: int | None = None,
    variant: str = MAIN,
    store: str | None = None,
) -> str:
    """Run one round, as `c3 run iteration` runs it; return what was made, as a line.

    `config`: a TOML file or preset, recorded with the run. `store`: by default what C3_STORE says there, or c3-store.

    Paths are those of the machine that runs it.
    """
    prepare_process()
    root = Path(store) if store else store_root()
    options = RoundOptions(root, run, round, variant, config, tuple(overrides or ()), workers=workers)
    result = run_iteration(configure_session(options), until)
    made = [report.name for report in result.reports if not report.reused]
    return "; ".join([f"made {', '.join(made)}" if made else "everything was there", *result.unlogged])


def wait_for_rounds(store: Path, limit: int) -> NoReturn:
    """Offer `requested_round` on the Prefect page and run what is asked for, at most `limit` rounds at once."""
    deployment = requested_round.to_deployment(
        DEPLOYMENT, parameters={"store": str(store.resolve())}, entrypoint_type=EntrypointType.MODULE_PATH
    )
    assert not isinstance(deployment, Coroutine), "only inside an event loop is it one"
    deployment.entrypoint = ENTRYPOINT
    serve(deployment, limit=limit)
    raise SystemExit(0)
