"""``hanse audit``: attack a run, by planted clients or shadow runs, and print what that says beside
its claim.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hanse.cli.explain import Assignments, RunFilePath
from hanse.cli.screen import Debug, err, out
from hanse.config.parse import parse
from hanse.errors import ConfigError
from hanse.privacy.membership import most_told
from hanse.report.folder import AUDITS, open_folder, table
from hanse.report.html import write_report
from hanse.report.privacy import figure
from hanse.report.spent import attack_on_rows
from hanse.sim.audit import Audited, audit_run
from hanse.sim.membership import audit_membership
from hanse.sim.run import Run


def audit_command(
    run_file: RunFilePath,
    attack: Annotated[
        str,
        typer.Option("--attack", help="By planted clients (canaries), or of rows (membership)."),
    ] = "canaries",
    shadows: Annotated[
        int, typer.Option("--shadows", metavar="N", help="Runs to train, for membership.")
    ] = 16,
    canaries: Annotated[
        int, typer.Option("--canaries", metavar="N", help="Clients to plant, half of them.")
    ] = 400,
    rounds: Annotated[int | None, typer.Option("--rounds", help="Override the rounds.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws which canaries are in.")] = 0,
    confidence: Annotated[
        float, typer.Option("--confidence", metavar="P", help="Of bound and interval.")
    ] = 0.95,
    assignments: Assignments = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="RUN", help="A run's folder, whose report shows it too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object only.")] = False,
    debug: Debug = False,
) -> None:
    """Simulate RUN.toml and attack its model: by canaries among its clients, who are in it or not;
    or by shadow runs on half of the rows each, for which rows it was trained on.
    """
    if attack not in ("canaries", "membership"):
        raise ConfigError(f"--attack {attack} is none", hint="use canaries or membership")
    run = parse(run_file, assignments or ()).load()
    if keep is not None:
        open_folder(keep)  # which says what is wrong before a long audit
    if attack == "membership":
        told, words = _by_shadows(run, shadows, seed, rounds)
    else:
        audited = audit_run(run, canaries=canaries, seed=seed, confidence=confidence, rounds=rounds)
        told, words = json_of(audited), said(audited)
    if keep is not None:
        with (keep / AUDITS).open("a") as file:
            file.write(json.dumps(told) + "\n")
        write_report(keep)
    if as_json:
        print(json.dumps(told))
    else:
        out().print(words, soft_wrap=True, highlight=False)


def _by_shadows(
    run: Run, shadows: int, seed: int, rounds: int | None
) -> tuple[dict[str, object], str]:
    """Return what shadow runs told, as JSON and in words."""

    def progress(done: int) -> None:
        err().print(f"shadow run {done} of {shadows}", highlight=False)

    attacked = audit_membership(run, shadows=shadows, seed=seed, rounds=rounds, progress=progress)
    epsilon, found = attacked.claim, attacked.found
    told: dict[str, object] = {
        "attack": "membership",
        "claimed": epsilon and epsilon.epsilon,
        "delta": epsilon and epsilon.delta,
        "rounds": attacked.spec.rounds,
        **asdict(found),
        "rates": [asdict(rate) for rate in found.rates],
        "bounds": [
            None if epsilon is None else most_told(epsilon.epsilon, epsilon.delta, rate.false)
            for rate in found.rates
        ],
    }
    return told, in_words(told)


def in_words(told: dict[str, object]) -> str:
    """Return what an attack on rows found, in words."""
    section = attack_on_rows(table(told))
    width = max(len(name) for name, _ in section.rows)
    rows = [f"  {name:<{width}}  {value}" for name, value in section.rows]
    return "\n".join([f"{section.title}:", *rows, *section.notes])


def json_of(audited: Audited) -> dict[str, object]:
    """Return an audit as JSON."""
    claimed = audited.claim and audited.claim.epsilon and audited.claim.epsilon.epsilon
    about = {"claimed": claimed, "delta": audited.delta, "rounds": audited.spec.rounds}
    return {"attack": "canaries", **about, **asdict(audited.found)}


def said(audited: Audited) -> str:
    """Return what an audit found, in words."""
    found, claim = audited.found, audited.claim
    epsilon = None if claim is None or claim.epsilon is None else claim.epsilon.epsilon
    claimed = "nothing: there is no noise" if epsilon is None else f"ε ≤ {figure(epsilon)}"
    sure = f"{found.confidence:.0%}"
    verdict = (
        "\nThe bound is ABOVE the claim: the claim, or the code, is wrong."
        if epsilon is not None and found.lower > epsilon
        else ""
    )
    return (
        f"Toward whoever gets the final model, for a client, at δ = {audited.delta:g}, after "
        f"{audited.spec.rounds} rounds:\n"
        f"  claimed          {claimed}\n"
        f"  lower bound      ε ≥ {found.lower:.2f} with {sure} confidence: {found.right} of "
        f"{found.guesses} guesses about {found.canaries} canaries were right\n"
        f"  its power        {found.power:.2f} at most, had every guess been right; a claim above "
        "that cannot be refuted here\n"
        f"  an estimate      ε ≈ {found.estimate:.2f} ({found.low:.2f} to {found.high:.2f}), if "
        "scores are Gaussian: it bounds nothing\n"
        f"One run, one attack: a stronger one may find more.{verdict}"
    )
