"""Privacy across real sites: noise of their own, a ledger at each, a cap that holds, and a copy
put back that is noticed before anything leaves.
"""

import json
import random
import shutil
import signal

import pytest
from tests.e2e.deployed import Deployed, until

from hanse.coordinator.home import SETTINGS
from hanse.core.dp_events import Gaussian
from hanse.core.ledger import OBSERVERS, Debited, Reserved
from hanse.errors import ConfigError
from hanse.failpoints import VARIABLE
from hanse.sim.ledger import read_ledger
from hanse.site.enrol import dial
from hanse.site.ledger import SiteLedger

TWO = ("north", "west")
CENTRAL = """\
[[pipeline]]
step = "weight"
by = "uniform"
denominator = 2.0
[[pipeline]]
step = "clip"
norm = 1.0
[[pipeline]]
step = "gaussian_noise"
noise_multiplier = 2.0
[privacy]
delta = 1e-6
[evaluation]
release = "none"
"""
HIDDEN = """\
task = "app:task"
data = "app:data"
[sources]
table = "{table}"
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
"""
NOISED = """\
data = "plain:sourced"
[sources]
table = "{table}"
[[pipeline]]
step = "weight"
by = "uniform"
denominator = 2.0
[[pipeline]]
step = "clip"
norm = 1.0
[[pipeline]]
step = "local_gaussian_noise"
noise_multiplier = 2.0
[privacy]
delta = 1e-6
unit = "site"
against = "coordinator"
[evaluation]
release = "none"
"""


@pytest.fixture
def capped(tmp_path):
    """Two sites; north's table may spend ε = 6, which is five rounds of multiplier 2."""
    with Deployed(tmp_path, TWO) as found:
        path = found.home("north").policy
        path.write_text(path.read_text() + f'[sources.table]\npath = "{found.table}"\n'
                        "max_epsilon = 6.0\n")  # fmt: skip
        yield found


def noised(deployed: Deployed, rounds: int, **how) -> str:
    table = NOISED.format(table=deployed.table)
    return deployed.submit(table, sites=TWO, rounds=rounds, **how)


def debits(deployed: Deployed, run: str) -> dict[str, str]:
    account = read_ledger(deployed.home("north").ledger).accounts.get(run)
    return {} if account is None else dict(account.debits)


def left(deployed: Deployed, run: str) -> dict[str, str]:
    """Return what the release log says of a run: name → digest."""
    lines = (deployed.home("north").folder / "releases.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    return {f"{t['round']}/{t['kind']}": t["digest"] for t in told if t["run"] == run}


def test_a_run_within_the_cap_ends_as_simulated_and_one_beyond_it_is_refused(capped):
    first = noised(capped, 3)
    assert capped.end(first)["outcome"] == "done"
    assert capped.digest(first) == capped.simulated(first).model_digest
    assert debits(capped, first) == left(capped, first)
    assert [*debits(capped, first)] == ["1/update", "2/update", "3/update"]
    second = noised(capped, 3)
    capped.says(
        second,
        "north refuses: table may spend ε = 6 at δ = 1e-06 toward the coordinator, for a client; "
        "ε = 4.152 is spent or reserved",
        "asks for ε = 4.152, and both come to ε = 6.165",
    )
    assert debits(capped, second) == {}
    assert left(capped, second) == {}
    ran = capped.hanse("site", "ledger", "--home", capped.home("north").folder)
    assert ran.status == 0, ran.err
    assert "ε = 4.152" in ran.out
    assert "ε = 6" in ran.out
    for rounds, status in ((3, 5), (2, 0)):
        file = capped.run_file(NOISED.format(table=capped.table), sites=TWO, rounds=rounds)
        ran = capped.hanse("site", "check", file, "--home", capped.home("north").folder)
        assert ran.status == status, ran.out
        assert ("and both come to" in " ".join(ran.out.split())) == (status == 5), ran.out
    third = noised(capped, 2)  # what fits still fits
    assert capped.end(third)["outcome"] == "done"
    exact = capped.submit("[evaluation]\nevery = 0\n" + sourced(capped), sites=TWO)
    capped.says(exact, "north refuses: table may spend ε = 6", "no noise of the run bounds")


def sourced(deployed: Deployed) -> str:
    return f'[sources]\ntable = "{deployed.table}"\n'


@pytest.mark.parametrize(
    "point", ["site-ledger-durable", "site-release-durable", "site-share-sent"]
)
def test_a_gate_that_is_killed_lets_the_same_bytes_out_again(lonely, monkeypatch, point):
    lonely.federation.end("north", signal.SIGKILL)
    monkeypatch.setenv(VARIABLE, f"{point}:2:kill")
    lonely.federation.start_site("north")
    monkeypatch.delenv(VARIABLE)
    id = noised(lonely, 3)
    until(lambda: lonely.federation.processes["north"].poll() is not None)
    before = debits(lonely, id)
    lonely.federation.start_site("north")
    assert lonely.end(id)["outcome"] == "done"
    after = debits(lonely, id)
    assert before.items() <= after.items()
    assert after == left(lonely, id)
    assert len(after) == 3
    assert lonely.digest(id) == lonely.simulated(id).model_digest


def test_an_older_copy_of_the_ledger_is_noticed_before_the_first_upload(lonely):
    home = lonely.home("north")
    copy, folder = lonely.folder / "copy", home.folder
    first = noised(lonely, 2)
    assert lonely.end(first)["outcome"] == "done"
    lonely.federation.end("north")
    shutil.copytree(folder, copy)
    lonely.federation.start_site("north")
    assert lonely.end(noised(lonely, 2))["outcome"] == "done"
    lonely.federation.end("north")
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    lonely.federation.start_site("north")
    lonely.shows("north", "the privacy ledger is not the newest")
    third = noised(lonely, 2)
    lonely.says(third, "north refuses: the privacy ledger is not the newest")
    assert debits(lonely, third) == {}
    lonely.federation.end("north")
    ran = lonely.hanse("site", "ledger", "--home", folder, "--accept-loss", "--yes")
    assert ran.status == 0, ran.err
    lonely.federation.start_site("north")
    assert lonely.end(third)["outcome"] == "done"
    assert read_ledger(home.ledger).is_incomplete
    ran = lonely.hanse("site", "ledger", "--home", folder, "--accept-loss", "--yes")
    assert ran.status == 2
    assert "in use" in ran.err


def test_each_of_five_hundred_copies_put_back_is_noticed(lonely):
    """And two copies on line at once stop each other."""
    lonely.federation.end("north")
    home, chance = lonely.home("north"), random.Random(7)
    line, path = dial(home), lonely.folder / "ledger.jsonl"
    ledger = SiteLedger(path)
    ledger.look(line)
    tells = {key: {"client": Gaussian(2.0)} for key in OBSERVERS}
    ledger.reserve(Reserved("heart-1", ("heart",), 600, tells), {})
    for round in range(600):
        ledger.note(Debited("heart-1", f"{round}/update", "ab" * 32))
        ledger.show(line)
        ledger.show(line)
    ledger.close()
    lines = path.read_bytes().splitlines(keepends=True)
    noticed, copies = 0, chance.sample(range(len(lines)), 500)
    for kept in copies:
        path.write_bytes(b"".join(lines[:kept]))
        old = SiteLedger(path)
        old.look(line)
        noticed += bool(old.rolled_back)
        old.close()
    assert noticed == 500
    path.write_bytes(b"".join(lines))
    twin = lonely.folder / "twin.jsonl"
    shutil.copyfile(path, twin)
    one, two = SiteLedger(path), SiteLedger(twin)
    for found in (one, two):
        found.look(line)
        assert not found.rolled_back
        found.reserve(Reserved("heart-2", ("heart",), 9, tells), {})
    one.note(Debited("heart-2", "1/update", "ab" * 32))
    one.show(line)
    two.note(Debited("heart-2", "1/update", "cd" * 32))
    with pytest.raises(ConfigError, match="is not the newest"):
        two.show(line)
    assert two.rolled_back
    one.close()
    two.close()


def unsimulated(lonely: Deployed) -> Deployed:
    """Make the federation's runs real ones: their noise is the operating system's."""
    settings = lonely.federation.home.folder / SETTINGS
    port = json.loads((lonely.federation.home.folder / "address.json").read_text())["port"]
    lonely.federation.end("coordinator")
    told = json.loads(settings.read_text())
    settings.write_text(json.dumps({**told, "simulated": False}))
    lonely.federation.start_coordinator(port)
    lonely.federation.account.save(lonely.folder / "login.json")
    return lonely


def test_real_noise_is_drawn_anew_for_each_release_and_leaves_again_as_it_was(lonely, monkeypatch):
    real = unsimulated(lonely)
    real.federation.end("north")
    monkeypatch.setenv(VARIABLE, "site-share-sent:1:kill")
    real.federation.start_site("north")
    monkeypatch.delenv(VARIABLE)
    first = noised(real, 2)
    until(lambda: real.federation.processes["north"].poll() is not None)
    before = debits(real, first)
    assert [*before] == ["1/update"]
    real.federation.start_site("north")
    assert real.end(first)["outcome"] == "done"
    assert before.items() <= debits(real, first).items()
    assert debits(real, first) == left(real, first)
    second = noised(real, 2, name="run-1")
    assert real.end(second)["outcome"] == "done"
    digests = {real.digest(first), real.digest(second), real.simulated(first).model_digest}
    assert len(digests) == 3
    assert not {*debits(real, first).values()} & {*debits(real, second).values()}
    folder = real.folder / "home"
    ran = real.hanse("download", first, "--out", folder)
    assert ran.status == 0, ran.err
    assert json.loads((folder / "result.json").read_text())["simulated"] is False
    ran = real.hanse("replay", folder, "--run-file", real.app / "run-1.toml")
    assert ran.status == 2
    assert "came from its sites' operating systems" in ran.err


def test_real_noise_at_the_coordinator_needs_an_owner_who_trusts_it(lonely):
    real = unsimulated(lonely)
    path = real.home("north").policy
    text = path.read_text()
    cap = f'[sources.table]\npath = "{real.table}"\nmax_epsilon = 6.0\n'
    path.write_text(text + cap)
    central = f'data = "plain:sourced"\n[sources]\ntable = "{real.table}"\n' + CENTRAL
    first = real.submit(central, sites=TWO)
    real.says(first, "north refuses: table may spend ε = 6", "no noise of the run bounds")
    path.write_text(text + cap + 'against = "recipients"\n')
    assert real.end(first)["outcome"] == "done"
    second = real.submit(central, sites=TWO, name="run-1")
    assert real.end(second)["outcome"] == "done"
    digests = {real.digest(first), real.digest(second), real.simulated(first).model_digest}
    assert len(digests) == 3, "the seed says nothing of the noise"
    third = real.submit(central, sites=TWO)
    real.says(third, "toward who gets the model, for a client; ε = 4.887 is spent")


def test_rows_hidden_at_the_site_are_capped_as_rows(capped):
    """Against everybody, and never for less than the unit that the cap is for."""
    hidden = HIDDEN.format(table=capped.table)
    path = capped.home("north").policy
    text = path.read_text()
    first = capped.submit(hidden, sites=TWO)
    capped.says(first, "north refuses: table may spend ε = 6", "hides one example only")
    path.write_text(text + 'unit = "example"\n')
    assert capped.end(first)["outcome"] == "done"
    assert capped.digest(first) == capped.simulated(first).model_digest
    assert [*debits(capped, first)] == ["1/update", "2/update"]
    second = capped.submit(hidden, sites=TWO, rounds=60)
    capped.says(second, "for an example; ε = ", "is spent or reserved", "asks for ε = ")
    assert debits(capped, second) == {}


def test_an_app_whose_training_is_its_own_hides_no_rows(lonely):
    hidden = HIDDEN.format(table=lonely.table).replace("app:", "plain:")
    with pytest.raises(ConfigError, match="asks for clipped and noised steps"):
        lonely.submit(hidden, sites=TWO)


def test_real_noise_in_training_is_not_that_of_the_seed(lonely):
    real = unsimulated(lonely)
    hidden = HIDDEN.format(table=real.table)
    first = real.submit(hidden, sites=TWO)
    assert real.end(first)["outcome"] == "done"
    second = real.submit(hidden, sites=TWO, name="run-1")
    assert real.end(second)["outcome"] == "done"
    digests = {real.digest(first), real.digest(second), real.simulated(first).model_digest}
    assert len(digests) == 3
    assert debits(real, first) == left(real, first)
