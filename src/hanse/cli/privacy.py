"""``hanse privacy``: what noise comes to, and what noise an ε takes, without a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hanse.cli.screen import Debug, out
from hanse.core.dp_events import Gaussian, PoissonSampled, Repeated
from hanse.errors import ConfigError
from hanse.privacy.accounting import Accountant, calibrate, spent
from hanse.report.privacy import BY, figure

app = typer.Typer(no_args_is_help=True, help="Compute ε from noise, and noise from ε.")

Rate = Annotated[
    float,
    typer.Option("--sampling-rate", metavar="Q", help="Probability of a record in a step."),
]
Steps = Annotated[int, typer.Option("--steps", metavar="T", help="How many releases.")]
Delta = Annotated[float, typer.Option("--delta", metavar="D", help="Far below one a record.")]
By = Annotated[
    Accountant, typer.Option("--accountant", help="A grid of losses, or Rényi divergences.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object only.")]


@app.command("ledger")
def ledger_command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The ledger of hanse run --ledger.")],
    void: Annotated[
        str | None,
        typer.Option(
            "--void", metavar="RUN", help="Give back what RUN, which will not go on, has not used."
        ),
    ] = None,
    delta: Annotated[float, typer.Option("--delta", metavar="D", help="δ of the ε shown.")] = 1e-6,
    debug: Debug = False,
) -> None:
    """Print what simulated runs have spent toward whoever gets their models."""
    from hanse.cli.ledger import give_back, show
    from hanse.privacy.budget import Cap
    from hanse.sim.ledger import read_ledger

    if not path.exists():
        raise ConfigError(f"there is no ledger at {path}", hint="hanse run --ledger FILE makes one")
    if void is not None:
        give_back(path, void)
    else:
        show(read_ledger(path), {}, Cap(0.0, delta, against="recipients"), out())


@app.command("epsilon")
def epsilon_command(
    noise_multiplier: Annotated[
        float, typer.Option("--noise-multiplier", metavar="Z", help="Noise over the L2 bound.")
    ],
    delta: Delta,
    sampling_rate: Rate = 1.0,
    steps: Steps = 1,
    accountant: By = "pld",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print the ε of T Gaussian releases, each of a Poisson sample of rate Q."""
    _print(noise_multiplier, delta, sampling_rate, steps, accountant, as_json=as_json)


@app.command("calibrate")
def calibrate_command(
    epsilon: Annotated[float, typer.Option("--epsilon", metavar="E", help="What to keep to.")],
    delta: Delta,
    sampling_rate: Rate = 1.0,
    steps: Steps = 1,
    accountant: By = "pld",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print the least noise multiplier that keeps T releases to an ε, within half a percent."""
    found = calibrate(
        epsilon=epsilon,
        delta=delta,
        sampling_rate=sampling_rate,
        steps=steps,
        accountant=accountant,
    )
    _print(found, delta, sampling_rate, steps, accountant, as_json=as_json)


def _print(
    multiplier: float, delta: float, rate: float, steps: int, by: Accountant, *, as_json: bool
) -> None:
    if not 0 <= rate <= 1:
        raise ConfigError(f"sampling rate {rate:g} is no probability", hint="give 0 to 1")
    noise = Gaussian(multiplier)
    event = Repeated(noise if rate == 1 else PoissonSampled(rate, noise), steps)
    found = spent(event, delta, by)
    if as_json:
        told = {
            "noise_multiplier": multiplier,
            "sampling_rate": rate,
            "steps": steps,
            "epsilon": found.epsilon,
            "delta": delta,
            "accountant": found.accountant,
            "relation": found.relation,
        }
        print(json.dumps(told))
        return
    why = f" ({found.why})" if found.why else ""
    console = out()
    console.print(f"ε = {figure(found.epsilon)} at δ = {delta:g}", highlight=False)
    console.print(
        f"noise multiplier {multiplier:.6g}, sampling rate {rate:g}, {steps:,} steps; "
        f"neighbours {found.relation} record; {BY[found.accountant]}{why}",
        highlight=False,
        soft_wrap=True,
    )
