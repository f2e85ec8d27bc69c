"""Simulated = deployed: one run file ends in the same bits in one process and across real ones.

A step that adds a strategy, a step of a pipeline, a sampler or a kind of model adds an entry.
"""

import pytest

TWO = 'sites = ["north", "west"]'
ALL = 'sites = ["north", "south", "west"]'
CASES = {
    "fedavg": f"""\
task = "app:task"
{TWO}
[local]
lr = 0.3
epochs = 2
batch_size = 8
[[pipeline]]
step = "weight"
by = "examples"
cap = 50
[[pipeline]]
step = "clip"
norm = 0.5
""",
    "fedsgd": f"""\
task = "app:task"
{TWO}
[strategy]
name = "fedsgd"
lr = 0.7
[[pipeline]]
step = "weight"
by = "examples"
[evaluation]
release = "sum"
""",
    "fedprox": f"""\
task = "app:kept"
{TWO}
[strategy]
name = "fedprox"
mu = 0.2
[[pipeline]]
step = "weight"
by = "steps"
cap = 6
[[pipeline]]
step = "clip"
norm = 2.0
[evaluation]
every = 2
""",
    "fedavgm": f"""\
task = "app:aggregated"
{TWO}
[strategy]
name = "fedavgm"
momentum = 0.7
[local]
optimizer = "adamw"
lr = 0.01
batch_size = 7
[[pipeline]]
step = "weight"
by = "examples"
""",
    "fedadagrad": f"""\
task = "app:frozen"
{TWO}
[strategy]
name = "fedadagrad"
[[pipeline]]
step = "weight"
by = "steps"
[evaluation]
release = "none"
""",
    "fedadam": f"""\
task = "app:own"
{ALL}
[strategy]
name = "fedadam"
[sampling]
name = "fixed"
size = 2
[[pipeline]]
step = "weight"
by = "uniform"
""",
    "fedyogi": f"""\
task = "app:double"
{ALL}
[strategy]
name = "fedyogi"
beta1 = 0.5
[sampling]
name = "poisson"
rate = 0.6
[local]
optimizer = "adam"
lr = 0.05
steps = 5
[[pipeline]]
step = "weight"
by = "examples"
cap = 30
denominator = 1.5
[[pipeline]]
step = "clip"
norm = 1.0
""",
    "own loop under a correction": f"""\
task = "app:own"
{TWO}
[strategy]
name = "fedprox"
mu = 0.1
server_lr = 0.9
[[pipeline]]
step = "weight"
by = "examples"
denominator = 131
[evaluation]
best = "auc"
""",
    "noise at the sites": f"""\
task = "app:frozen"
{ALL}
[[pipeline]]
step = "weight"
by = "uniform"
denominator = 3.0
[[pipeline]]
step = "clip"
norm = 0.5
[[pipeline]]
step = "local_gaussian_noise"
noise_multiplier = 0.8
[evaluation]
release = "none"
""",
    "rows hidden": f"""\
task = "app:frozen"
{TWO}
[local]
steps = 4
batch_size = 8
[local.privacy]
clip = 1.0
noise_multiplier = 1.1
sampling_rate = 0.2
[[pipeline]]
step = "weight"
by = "uniform"
[evaluation]
release = "none"
""",
    "persons hidden": f"""\
task = "app:frozen"
data = "app:visits"
{TWO}
[local]
steps = 4
batch_size = 8
[local.privacy]
unit = "person"
rows_per_person = 2
clip = 1.0
noise_multiplier = 1.1
sampling_rate = 0.2
[[pipeline]]
step = "weight"
by = "uniform"
[evaluation]
release = "none"
""",
    "noise": f"""\
task = "app:frozen"
{ALL}
[sampling]
name = "poisson"
rate = 0.7
[[pipeline]]
step = "weight"
by = "uniform"
denominator = 2.0
[[pipeline]]
step = "adaptive_clip"
initial = 0.5
cohort = 40
[[pipeline]]
step = "gaussian_noise"
noise_multiplier = 0.8
[evaluation]
release = "none"
""",
    "whole numbers, turned": f"""\
task = "app:own"
{ALL}
[[pipeline]]
step = "weight"
by = "examples"
cap = 40
[[pipeline]]
step = "clip"
norm = 0.5
[[pipeline]]
step = "rotate"
largest = 16
[[pipeline]]
step = "scaled_round"
bits = 8
""",
    "noise in shares": f"""\
task = "app:frozen"
{ALL}
[[pipeline]]
step = "weight"
by = "uniform"
denominator = 3.0
[[pipeline]]
step = "clip"
norm = 0.5
[[pipeline]]
step = "rotate"
[[pipeline]]
step = "scaled_round"
[[pipeline]]
step = "skellam_noise"
noise_multiplier = 0.1
honest = 2
colluding = 1
[evaluation]
release = "none"
""",
}


@pytest.mark.parametrize("case", CASES)
def test_a_deployed_run_ends_in_the_bits_of_its_simulation(deployed, case):
    data = "" if "data =" in CASES[case] else 'data = "app:data"\n'
    file = deployed.run_file(data + CASES[case], rounds=3)
    id = deployed.send(file)
    simulated = deployed.simulated(id)
    told = deployed.end(id, 100)
    assert told["outcome"] == "done", told["why"]
    assert told["spec_hash"] == simulated.spec_hash
    assert deployed.digest(id) == simulated.model_digest
    deployed_rows = [
        {k: v for k, v in row.items() if k != "seconds"} for row in deployed.history(id)
    ]
    keys = ("round", "counted", "refused", "dropped", "train", "aborted")
    for here, there in zip(simulated.history, deployed_rows, strict=True):
        assert {k: here.get(k) for k in keys} == {k: there.get(k) for k in keys}
        assert here["evaluation"] == there.get("evaluation")
