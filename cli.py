"""The c3 command. Arguments are parsed and checked before anything heavy is imported."""

from __future__ import annotations

import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.commands.session import RoundOptions

app = typer.Typer(
    help="Contextual counterfactual credit assignment for teams of language models, as cached stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
run_app = typer.Typer(help="Run a round, a training, an evaluation or a single stage.", no_args_is_help=True)
app.add_typer(run_app, name="run")
export_app = typer.Typer(help="Write a round's rows as JSONL for other programs.", no_args_is_help=True)
app.add_typer(export_app, name="export")


class Format(StrEnum):
    """How `c3 sql` writes its rows."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


class Source(StrEnum):
    """The stage an episode was finished by."""

    rollout = "rollout"
    replay = "replay"


Store = Annotated[Path | None, typer.Option(help="Where runs and artifacts lie (default: C3_STORE, or c3-store).")]
Run = Annotated[str, typer.Option("--run", help="Name of the run.")]
RoundNumber = Annotated[int, typer.Option("--round", min=1, help="Round, counted from 1.")]
AfterRound = Annotated[int, typer.Option("--round", min=0, help="After which round; 0: the untrained team.")]
LatestRound = Annotated[int | None, typer.Option("--round", min=1, help="Round; the latest credited one by default.")]
ConfigSource = Annotated[
    str | None, typer.Option("--config", help="A TOML file or a preset; recorded with the run. Default: c3.toml.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override, as in --set update.learning_rate=1e-4.")]

VariantName = Annotated[str, typer.Option("--variant", help="A named branch of the run; --set says how it differs.")]
MaxSeconds = Annotated[float | None, typer.Option(min=0, help="Stop at the end of a part after so many seconds.")]
MaxEvaluations = Annotated[int | None, typer.Option(min=1, help="Stop at the end of a part after so many evaluations.")]
RetryUnscored = Annotated[
    bool, typer.Option("--retry-unscored", help="Grade again what the evaluator failed on, and only that.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Parts made side by side (the bytes stay the same).")]

Output = Annotated[Path | None, typer.Option(help="File to write; standard output by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


_NOTHING_TO_RETRY = "no reward is missing, so none is graded again"


@app.callback()
def _before(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the command hold for every command."""


@run_app.command("iteration")
def run_iteration(
    round: RoundNumber,
    run: Run = "default",
    config: ConfigSource = None,
    set: Overrides = None,
    variant: VariantName = "main",
    until: Annotated[str, typer.Option(help="Stop after this stage.")] = "update",
    rerun_from: Annotated[
        str | None, typer.Option("--from", help="Make this stage and those after it again, beside what is there.")
    ] = None,
    draw_set: Annotated[int | None, typer.Option(min=0, help="Ask for the K-th set of draws; 0 is the first.")] = None,
    max_seconds: MaxSeconds = None,
    max_evaluations: MaxEvaluations = None,
    retry_unscored: RetryUnscored = False,
    workers: Workers = None,
    store: Store = None,
) -> None:
    """Run one round: collect, credit, update. What is there is reused.

    Roll out, freeze, sample, replay, grade, credit, update.
    """
    from pipeline.commands import run as commands
    from pipeline.commands.session import configure_session
    from pipeline.rounds.plan import heldout_overlap
    from pipeline.rounds.warnings import config_warnings
    from pipeline.views.plan import show_overlap, show_warnings
    from pipeline.views.progress import ProgressBars
    from pipeline.views.receipt import show_round
    from pipeline.views.status import show_stale

    console = _console()
    options = _options(store, run, round, variant, config, set, workers, max_seconds, max_evaluations)
    session = configure_session(options, ProgressBars(console))
    commands.request_draw_set(session, draw_set)
    if retry_unscored and not commands.request_retry(session):
        typer.echo(_NOTHING_TO_RETRY)
    show_warnings(console, config_warnings(session.round.config))
    if commands.has_work(session, until):
        show_overlap(console, heldout_overlap(session.round.config))
    result = commands.run_iteration(session, until, rerun_from)
    show_round(console, result)
    show_stale(console, result.stale)


@run_app.command("training")
def run_training(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds to run, from 1; finished ones are reused.")],
    run: Run = "default",
    config: ConfigSource = None,
    set: Overrides = None,
    seeds: Annotated[str | None, typer.Option(help="A sweep: seeds 0,1,2 run as NAME-seed0, NAME-seed1, ...")] = None,
    variant: VariantName = "main",
    max_seconds: MaxSeconds = None,
    max_evaluations: MaxEvaluations = None,
    workers: Workers = None,
    store: Store = None,
) -> None:
    """Run round after round, with greedy evaluations where configured."""
    from pipeline.commands.training import Training, seeds_of
    from pipeline.rounds.warnings import config_warnings
    from pipeline.views.plan import show_overlap, show_warnings
    from pipeline.views.progress import ProgressBars
    from pipeline.views.status import show_stale
    from pipeline.views.training import show_result, show_training

    console = _console()
    options = _options(store, run, 1, variant, config, set, workers, max_seconds, max_evaluations)
    context = None
    for seed in seeds_of(seeds):
        training = Training(options, rounds, seed, ProgressBars(console), context)
        context = training.context  # the caps are the command's
        show_warnings(console, config_warnings(training.config))
        show_overlap(console, training.overlap)
        for result in training.run():
            show_result(console, result)
        summary = training.summary()
        show_training(console, summary)
        show_stale(console, summary.stale)


@run_app.command("stage")
def run_stage(
    stage: Annotated[str, typer.Argument(help="rollout, freeze, sample, replay, grade, advantages, update, ...")],
    round: RoundNumber,
    run: Run = "default",
    config: ConfigSource = None,
    set: Overrides = None,
    variant: VariantName = "main",
    retry_unscored: RetryUnscored = False,
    workers: Workers = None,
    store: Store = None,
) -> None:
    """Run one stage of a round; the stages before it must have run."""
    from pipeline.commands import run as commands
    from pipeline.commands.session import configure_session
    from pipeline.rounds.warnings import config_warnings
    from pipeline.views.plan import show_warnings
    from pipeline.views.progress import ProgressBars
    from pipeline.views.receipt import show_steps, show_unlogged
    from pipeline.views.status import show_stale

    console = _console()
    commands.check_stage(stage)
    session = configure_session(
        _options(store, run, round, variant, config, set, workers), ProgressBars(console), stage
    )
    if retry_unscored and not commands.request_retry(session, stage):
        typer.echo(_NOTHING_TO_RETRY)
    show_warnings(console, config_warnings(session.round.config))
    reports, unlogged = commands.run_stage(session, stage)
    show_steps(console, reports)
    show_unlogged(console, unlogged)
    show_stale(console, commands.later_stale(session))


@run_app.command("evaluation")
def run_evaluation(
    round: AfterRound,
    run: Run = "default",
    config: ConfigSource = None,
    set: Overrides = None,
    variant: VariantName = "main",
    store: Store = None,
) -> None:
    """Answer the configured held-out problems greedily."""
    from pipeline.commands import run as commands
    from pipeline.commands.session import configure_session
    from pipeline.views.progress import ProgressBars
    from pipeline.views.training import show_evaluation

    console = _console()
    session = configure_session(_options(store, run, round, variant, config, set), ProgressBars(console))
    show_evaluation(console, commands.run_evaluation(session))


@app.command()
def plan(
    round: RoundNumber = 1,
    run: Run = "default",
    config: ConfigSource = None,
    set: Overrides = None,
    variant: VariantName = "main",
    store: Store = None,
) -> None:
    """Show what a round will cost, and which of its steps are there. Runs and records nothing."""
    from pipeline.commands.session import planned_round
    from pipeline.rounds.cost import round_cost
    from pipeline.rounds.plan import heldout_overlap, plan_steps
    from pipeline.rounds.warnings import config_warnings
    from pipeline.views.plan import show_cost, show_overlap, show_plan_steps, show_warnings

    planned = planned_round(_options(store, run, round, variant, config, set))
    console = _console()
    show_cost(console, round_cost(planned.config, round))
    show_warnings(console, config_warnings(planned.config))
    show_overlap(console, heldout_overlap(planned.config))
    show_plan_steps(console, plan_steps(planned))


@app.command()
def doctor(
    round: Annotated[int, typer.Option("--round", min=0, help="Probe with the policy this round ended with.")] = 0,
    run: Run = "default",
    config: ConfigSource = None,
    set: Overrides = None,
    store: Store = None,
) -> None:
    """Check the engine, or each server, before a round needs it.

    Reachable, the right model, adapters can be loaded, the same log-probs as the trainer.
    """
    from pipeline.commands.doctor import examine
    from pipeline.commands.session import planned_round
    from pipeline.rounds.policy import policy_after
    from pipeline.views.findings import show_checks

    planned = planned_round(_options(store, run, round, "main", config, set))
    policy = policy_after(planned) if round else None
    if not show_checks(_console(), examine(planned.config, policy)):
        raise typer.Exit(4)


@app.command()
def status(run: Annotated[str | None, typer.Option(help="Only this run.")] = None, store: Store = None) -> None:
    """Show rounds by stages. ok: made in this round; reuse: taken from another that asked for the same; part: begun."""
    from pipeline.rounds.status import round_statuses
    from pipeline.views.status import show_status
    from store.disk.layout import Layout

    show_status(_console(), round_statuses(Layout(_store(store)), run))


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over problems, decisions, contexts, advantages, ...")],
    format: Annotated[Format, typer.Option(help="How rows are written.")] = Format.table,
    output: Annotated[Path | None, typer.Option(help="File to write; parquet needs one.")] = None,
    store: Store = None,
) -> None:
    """Query every run, round and variant. Read-only. Try: c3 sql "show tables"."""
    from pipeline.commands.sql import write_answer
    from pipeline.views.rows import show_rows
    from store.disk.layout import Layout

    show = partial(show_rows, _console())
    write_answer(Layout(_store(store)), query, format.value, output, show)


@app.command()
def compare(
    round: RoundNumber,
    run: Run = "default",
    variant: VariantName = "main",
    gradients: Annotated[
        bool,
        typer.Option("--gradients", help="Also load the policy, and set the gradients each would make side by side."),
    ] = False,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """Compare every estimator on what a round has stored. Generates nothing."""
    from pipeline.commands.compare import as_json, compare, compare_gradients
    from pipeline.commands.session import open_session
    from pipeline.commands.sql import write_json
    from pipeline.views.compare import show_comparison, show_gradients

    session = open_session(_options(store, run, round, variant))
    found = compare(session)
    pairs = compare_gradients(session) if gradients else None
    if json:
        write_json(as_json(session, found, pairs))
        return
    console = _console()
    show_comparison(console, session.round, found)
    if pairs is not None:
        show_gradients(console, pairs)


@app.command()
def diagnose(
    round: RoundNumber,
    run: Run = "default",
    variant: VariantName = "main",
    replays: Annotated[
        int | None,
        typer.Option(
            min=0, help="Independent replays of each message to spend (default: as asked before; 0 at first)."
        ),
    ] = None,
    json: AsJson = False,
    max_seconds: MaxSeconds = None,
    workers: Workers = None,
    store: Store = None,
) -> None:
    """Measure what a round's credit is worth: fidelity, noise, influence. Without --replays nothing is generated."""
    from pipeline.commands import diagnose as commands
    from pipeline.commands.run import run_diagnosis
    from pipeline.commands.session import open_session
    from pipeline.commands.sql import write_json
    from pipeline.views.diagnose import show_diagnosis
    from pipeline.views.progress import ProgressBars
    from pipeline.views.receipt import show_steps

    console = _console()
    options = _options(store, run, round, variant, workers=workers, max_seconds=max_seconds)
    session = open_session(options, ProgressBars(console))
    budget = commands.request_replays(session, replays)
    if not json:
        console.print(f"[bold]run {run}, round {round}[/bold]: {budget}")
    reports, artifact = run_diagnosis(session)
    if json:
        write_json(commands.as_json(session, artifact))
    else:
        show_steps(console, reports)
        show_diagnosis(console, artifact)


@app.command()
def why(
    id: Annotated[str | None, typer.Argument(help="A decision, state or problem, by its id.")] = None,
    role: Annotated[str | None, typer.Option(help="Only this role's messages.")] = None,
    worst: Annotated[int | None, typer.Option(min=1, help="Show the N lowest advantages.")] = None,
    best: Annotated[int | None, typer.Option(min=1, help="Show the N highest advantages.")] = None,
    tied: Annotated[int | None, typer.Option(min=1, help="Show N groups whose returns all tie.")] = None,
    round: LatestRound = None,
    run: Run = "default",
    variant: VariantName = "main",
    json: AsJson = False,
    store: Store = None,
) -> None:
    """Explain why a message got its advantage.

    What it saw, its alternatives, the arithmetic, and how each replay ended.
    """
    from pipeline.commands.session import credited_session
    from pipeline.commands.sql import write_json
    from pipeline.commands.why import explain, question_of
    from pipeline.views.why import page_lines

    question, parameters = question_of(id, role, worst, best, tied)
    session = credited_session(_options(store, run, round or 1, variant), round is not None)
    page = explain(session.resolver, question, parameters)
    if json:
        write_json(page)
    else:
        typer.echo("\n".join(page_lines(page)))


@app.command("what-if")
def what_if(
    id: Annotated[str | None, typer.Argument(help="A state, or a decision taken there, by its id.")] = None,
    role: Annotated[str | None, typer.Option(help="Instead: every frozen state of this role.")] = None,
    message: Annotated[str | None, typer.Option(help="What the role says there.")] = None,
    message_file: Annotated[Path | None, typer.Option(help="What the role says there, from a file (UTF-8).")] = None,
    empty: Annotated[
        bool, typer.Option("--empty", help="It says nothing: what is earned without its message.")
    ] = False,
    replays: Annotated[int, typer.Option(min=1, help="Independent continuations at each state.")] = 4,
    round: LatestRound = None,
    run: Run = "default",
    variant: VariantName = "main",
    json: AsJson = False,
    workers: Workers = None,
    store: Store = None,
) -> None:
    """Put another message, or none, into a frozen state.

    And see what the frozen team makes of it. It is never trained on.
    """
    from pipeline.commands import what_if as commands
    from pipeline.commands.session import credited_session
    from pipeline.commands.sql import write_json
    from pipeline.views.progress import ProgressBars
    from pipeline.views.receipt import show_steps
    from pipeline.views.what_if import cost_line, page_lines

    console = _console()
    options = _options(store, run, round or 1, variant, workers=workers)
    opened = credited_session(options, round is not None, ProgressBars(console))
    session = commands.ask(opened, id, role, commands.message_of(message, message_file), empty, replays)
    if not json:
        typer.echo(cost_line(*commands.cost(session)))
    page, reports = commands.what_if(session)
    if json:
        write_json(page)
    else:
        show_steps(console, reports)
        typer.echo("\n".join(["", *page_lines(page)]))


@export_app.command("pairs")
def export_pairs(
    round: RoundNumber,
    role: Annotated[str | None, typer.Option(help="Only this role's states.")] = None,
    output: Output = None,
    run: Run = "default",
    variant: VariantName = "main",
    store: Store = None,
) -> None:
    """Write the best against the worst alternative of every state.

    A preference data set for TRL's DPO trainer.
    """
    from pipeline.commands.export import preference_pairs, write_lines
    from pipeline.commands.session import open_session

    count = write_lines(preference_pairs(open_session(_options(store, run, round, variant)).resolver, role), output)
    typer.echo(f"{count} pairs", err=True)


@export_app.command("episodes")
def export_episodes(
    round: RoundNumber,
    source: Annotated[Source | None, typer.Option(help="Only these.")] = None,
    output: Output = None,
    run: Run = "default",
    variant: VariantName = "main",
    store: Store = None,
) -> None:
    """Write every terminal evaluation with its messages and its reward.

    As `c3 import` reads them.
    """
    from pipeline.commands.export import episodes, write_lines
    from pipeline.commands.session import open_session

    resolver = open_session(_options(store, run, round, variant)).resolver
    count = write_lines(episodes(resolver, source and source.value), output)
    typer.echo(f"{count} episodes", err=True)


@export_app.command("policy")
def export_policy(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to write: new, or empty.")],
    round: AfterRound,
    merge: Annotated[bool, typer.Option("--merge", help="A plain model, weights merged; else a PEFT adapter.")] = False,
    policy: Annotated[str | None, typer.Option(help="Only this one, where the team has several.")] = None,
    run: Run = "default",
    variant: VariantName = "main",
    store: Store = None,
) -> None:
    """Write what a round learned, for PEFT, vLLM or transformers to load."""
    from pipeline.commands.export_policy import export_policy as write
    from pipeline.commands.session import open_session

    for place in write(open_session(_options(store, run, round, variant)).round, target, policy, merge):
        typer.echo(f"{place} written")


@app.command()
def chat(
    round: AfterRound,
    question: Annotated[
        str | None, typer.Option(help="Ask this and leave; else questions are read line by line.")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw messages as in training; else the likeliest.")] = False,
    run: Run = "default",
    variant: VariantName = "main",
    store: Store = None,
) -> None:
    """Talk to the team and see what each role says. Nothing is stored."""
    from pipeline.commands.chat import Chat, chat_lines, questions
    from pipeline.commands.session import open_session

    team = Chat(open_session(_options(store, run, round, variant)), sample)
    for asked in [question] if question is not None else questions():
        for message in team.ask(asked):
            typer.echo("\n".join(chat_lines(message)))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="JSONL: one episode a line, its messages by role.")],
    round: RoundNumber,
    run: Run = "default",
    config: ConfigSource = None,
    set: Overrides = None,
    store: Store = None,
) -> None:
    """Take another system's transcripts as a round's rollout.

    They are credited from freeze on.
    """
    from pipeline.commands.import_transcripts import import_transcripts

    artifact = import_transcripts(_options(store, run, round, "main", config, set), file)
    rows = artifact.manifest["tables"]["transcripts"]["rows"]
    typer.echo(f"{rows} transcripts taken; go on with `c3 run iteration --run {run} --round {round}`")


@app.command()
def verify(run: Annotated[str | None, typer.Option(help="Only this run.")] = None, store: Store = None) -> None:
    """Check every artifact: bytes, rows, SQL checks, lineage.

    Lineage goes from advantages back to problems and policy.
    """
    from pipeline.commands.verify import verify as verify_store
    from pipeline.views.findings import show_findings
    from store.disk.layout import Layout

    if not show_findings(_console(), list(verify_store(Layout(_store(store)), run))):
        raise typer.Exit(3)


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete it; without this it is only listed.")] = False,
    store: Store = None,
) -> None:
    """List unreferenced artifacts; --yes deletes them."""
    from pipeline.views.findings import show_garbage
    from store.disk.layout import Layout
    from store.runs.garbage import garbage, sweep

    layout = Layout(_store(store))
    found = list(garbage(layout))
    removed = [sweep(layout, entry) for entry in found] if yes else None
    show_garbage(_console(), found, removed)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("c3.toml"),
    preset: Annotated[str, typer.Option(help="The preset to start from.")] = "arithmetic-duo",
) -> None:
    """Write a commented configuration to start from."""
    from configs.template import write_starter

    write_starter(path, preset)
    typer.echo(f"{path} written; `c3 plan` shows what a round of it costs, `c3 run iteration --round 1` runs one")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 4200,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the server that was started.")] = False,
    store: Store = None,
) -> None:
    """Start a lasting Prefect page. Later commands in this store report to it."""
    from pipeline.flows.server import start_lasting, stop_lasting
    from store.disk.layout import Layout

    layout = Layout(_store(store))
    if stop:
        typer.echo("stopped" if stop_lasting(layout) else "no server was running")
        return
    url = start_lasting(layout, port)
    typer.echo(f"Prefect page: {url.removesuffix('/api')}  (stop it with `c3 ui --stop`)")


@app.command()
def serve(
    limit: Annotated[int, typer.Option(min=1, help="Rounds at once.")] = 1,
    store: Store = None,
) -> None:
    """Run rounds that are started from the Prefect page."""
    from pipeline.flows.server import use_lasting
    from store.disk.layout import Layout

    use_lasting(Layout(_store(store)))
    from pipeline.deployments import wait_for_rounds

    wait_for_rounds(_store(store), limit)


def _store(store: Path | None) -> Path:
    from configs.environment import store_root

    return store or store_root()


def _options(
    store: Path | None,
    run: str,
    round: int,
    variant: str = "main",
    config: str | None = None,
    overrides: list[str] | None = None,
    workers: int | None = None,
    max_seconds: float | None = None,
    max_evaluations: int | None = None,
) -> RoundOptions:
    from pipeline.commands.session import RoundOptions

    return RoundOptions(
        _store(store), run, round, variant, config, tuple(overrides or ()), max_seconds, max_evaluations, workers
    )


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def main() -> None:
    """The console script: one line per error, and an exit code that says what kind it was."""
    from configs.errors import C3Error
    from pipeline.execution.process import prepare_process
    from pipeline.execution.signals import INTERRUPTED, exit_now, install_handlers, was_interrupted

    try:
        install_handlers()
        prepare_process()
        app()
    except C3Error as error:
        if "--debug" in sys.argv:
            raise
        if not was_interrupted():
            typer.echo(f"c3: {error}", err=True)
        sys.exit(error.exit_code)
    finally:
        if was_interrupted():  # whatever Typer, or a library in the middle of something, has made of the interrupt
            exit_now(INTERRUPTED)


if __name__ == "__main__":
    main()
