"""What lies in deploy/: units that systemd can read, and command lines that Hanse has."""

import json
import re
import shlex
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest
from typer import TyperException
from typer.main import get_command

from hanse.cli.app import COMMANDS, app, load

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
CONTAINERS = sorted(DEPLOY.glob("Containerfile.*"))
PROGRAM = "/opt/hanse/bin/hanse"


def check_words(words: list[str]) -> None:
    """Parse a command line of ``hanse`` down to its command, and run nothing; raises if it cannot
    be meant."""
    load(*COMMANDS)
    command, name = get_command(app), "hanse"
    while True:
        context = command.make_context(name, list(words))
        if not hasattr(command, "resolve_command"):
            return
        words = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, words)


class Unit(RawConfigParser):
    """A unit's sections; a key may come once."""

    def __init__(self, path: Path) -> None:
        super().__init__(delimiters=("=",), comment_prefixes=("#",), strict=True)
        self.optionxform = str  # type: ignore[assignment] -- keys keep their case
        self.read(path)


def instructions(path: Path) -> list[tuple[str, str]]:
    """The (instruction, arguments) of a Containerfile."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def last(path: Path, name: str) -> str:
    return [rest for found, rest in instructions(path) if found == name][-1]


def test_there_is_a_unit_and_a_container_for_each_of_both():
    assert [path.stem for path in UNITS] == ["hanse-coordinator", "hanse-site"]
    assert [path.suffix for path in CONTAINERS] == [".coordinator", ".site"]


def test_a_command_line_that_does_not_exist_is_noticed():
    for line in ("coordinator begin", "site start --ap x", "site start", "coordinator start now"):
        with pytest.raises(TyperException):
            check_words(line.split())


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists(path):
    words = shlex.split(Unit(path)["Service"]["ExecStart"])
    assert words[0] == PROGRAM
    check_words(words[1:])


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_has_nothing_to_say_against_a_unit(path, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace(PROGRAM, "/bin/true"))  # it looks for the program
    words = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_started_again_and_may_write_to_its_own_folder_only(path):
    service = Unit(path)["Service"]
    assert (service["Restart"], service["RestartSec"]) == ("always", "1")
    assert Unit(path)["Unit"]["StartLimitIntervalSec"] == "0"
    words = shlex.split(service["ExecStart"])
    home = words[words.index("--home") + 1]
    assert service["ReadWritePaths"] == home == f"/var/lib/{service['StateDirectory']}"
    for key, value in {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "PrivateTmp": "yes",
        "LimitCORE": "0",
        "StateDirectoryMode": "0700",
        "UMask": "0077",
        "CapabilityBoundingSet": "",
    }.items():
        assert service[key] == value, key
    assert "MemoryDenyWriteExecute" not in service  # torch and numba make machine code


def test_a_sites_app_and_data_are_read_only():
    service = Unit(DEPLOY / "hanse-site.service")["Service"]
    words = shlex.split(service["ExecStart"])
    source = words[words.index("--source") + 1].partition("=")[2]
    places = [Path(words[words.index("--app") + 1]), Path(source).parent]
    assert [Path(place) for place in service["ReadOnlyPaths"].split()] == places


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.name)
def test_a_container_runs_commands_that_exist(path):
    entry, usual = json.loads(last(path, "ENTRYPOINT")), json.loads(last(path, "CMD"))
    assert entry == ["hanse"]
    check_words(usual)
    health = json.loads(last(path, "HEALTHCHECK").partition("CMD ")[2])
    assert health[0] == "hanse"
    check_words(health[1:])


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.name)
def test_a_container_is_not_roots_and_installs_what_is_pinned(path):
    assert last(path, "USER") == "10001"
    assert last(path, "STOPSIGNAL") == "SIGTERM"
    assert last(path, "FROM").endswith("-slim")
    installs = [rest for _, rest in instructions(path) if "pip install" in rest]
    assert len(installs) == 1
    assert "--constraint constraints.txt" in installs[0]
    copied = [rest.split()[:-1] for name, rest in instructions(path) if name == "COPY"]
    for source in [name for names in copied for name in names if not name.startswith(("--", "/"))]:
        assert (ROOT / source).exists(), source


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.name)
def test_a_container_asks_for_extras_that_there_are(path):
    project = (ROOT / "pyproject.toml").read_text()
    (extras,) = re.findall(r'"\.\[(.*?)\]"', path.read_text())
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
