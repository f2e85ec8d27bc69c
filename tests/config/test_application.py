"""Applications: which code a run is, and that what runs is what was checked."""

import hashlib
import os

import pytest

from hanse.config.application import (
    MOST_BYTES,
    Application,
    difference,
    digest,
    freeze,
    manifest,
    read_manifest,
    thaw,
)
from hanse.errors import ConfigError, ProtocolError


@pytest.fixture
def app(tmp_path):
    folder = tmp_path / "heart"
    (folder / "parts").mkdir(parents=True)
    (folder / "app.py").write_text("import parts.net\n")
    (folder / "parts" / "net.py").write_text("layers = 2\n")
    (folder / "vocab.txt").write_text("a b c\n")
    return folder


def test_every_python_file_counts_and_nothing_else(app):
    for place in ("__pycache__", "runs/1", ".git", ".venv", "env/lib", "data"):
        (app / place).mkdir(parents=True)
        (app / place / "x.py").write_text("pass")
    (app / "env" / "pyvenv.cfg").touch()
    (app / ".hidden.py").touch()
    (app / "data" / "heart.csv").write_text("age\n50\n")
    assert list(manifest(app)) == ["app.py", "data/x.py", "parts/net.py"]
    assert manifest(app)["app.py"] == hashlib.sha256(b"import parts.net\n").hexdigest()


def test_listed_files_count_too(app):
    found = manifest(app, ["vocab.txt", "./vocab.txt"])
    assert list(found) == ["app.py", "parts/net.py", "vocab.txt"]
    assert digest(found) != digest(manifest(app))


def test_the_digest_is_that_of_the_content_and_not_of_times_or_places(app, tmp_path):
    before = Application.at(app).digest
    os.utime(app / "app.py", (0, 0))
    moved = app.rename(tmp_path / "elsewhere")
    assert Application.at(moved).digest == before
    (moved / "app.py").write_text("import parts.net\n\n")
    assert Application.at(moved).digest != before


def test_the_digest_is_the_canonical_json_of_the_manifest():
    empty = hashlib.sha256(b"").hexdigest()
    told = f'{{"a.py":"{empty}","b.py":"{empty}"}}'
    assert digest({"b.py": empty, "a.py": empty}) == hashlib.sha256(told.encode()).hexdigest()


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "parts/../../secret", "no/such"])
def test_a_listed_file_outside_or_missing_is_an_error(app, path):
    (app.parent / "secret").write_text("s")
    with pytest.raises(ConfigError, match=r"leads out of|cannot be read"):
        manifest(app, [path])


def test_a_link_out_of_the_folder_is_an_error_and_one_inside_is_its_content(app):
    (app / "alias.py").symlink_to("app.py")
    assert manifest(app)["alias.py"] == manifest(app)["app.py"]
    (app.parent / "outside.py").touch()
    (app / "out.py").symlink_to(app.parent / "outside.py")
    with pytest.raises(ConfigError, match=r"out\.py' leads out of"):
        manifest(app)


def test_a_link_to_a_folder_is_an_error(app):
    (app / "more").symlink_to(app.parent)
    with pytest.raises(ConfigError, match="more is a link to a folder"):
        manifest(app)


def test_what_is_too_large_or_no_file_is_an_error(app):
    os.mkfifo(app / "pipe.txt")
    with pytest.raises(ConfigError, match=r"pipe\.txt is not a file"):
        manifest(app, ["pipe.txt"])
    with open(app / "vocab.txt", "wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ConfigError, match="above 16 MiB"):
        manifest(app, ["vocab.txt"])


def test_more_files_than_an_app_has_are_an_error(app):
    for number in range(4095):
        (app / f"m{number}.py").touch()
    with pytest.raises(ConfigError, match="4097 files of code"):
        manifest(app)


def test_a_folder_without_code_is_no_app(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no \*\.py file"):
        manifest(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        manifest(tmp_path / "none")


def test_the_difference_names_the_first_file(app):
    spec = manifest(app)
    assert difference(spec, manifest(app)) is None
    (app / "parts" / "net.py").write_text("layers = 3\n")
    assert (difference(spec, manifest(app)) or "").startswith("parts/net.py is not the run's: ")
    (app / "extra.py").touch()
    assert (
        difference(spec, manifest(app)) == "extra.py is here and does not belong to the run's app"
    )
    (app / "app.py").unlink()
    assert difference(spec, manifest(app)) == "app.py belongs to the run's app and is missing here"


def test_a_frozen_app_is_exactly_the_listed_files_and_read_only(app, tmp_path):
    into = freeze(app, manifest(app, ["vocab.txt"]), tmp_path / "frozen")
    (app / "app.py").write_text("raise SystemExit('changed after the check')\n")
    files = sorted(p.relative_to(into).as_posix() for p in into.rglob("*") if p.is_file())
    assert files == ["app.py", "parts/net.py", "vocab.txt"]
    assert (into / "app.py").read_text() == "import parts.net\n"
    assert {p.stat().st_mode & 0o777 for p in into.rglob("*")} == {0o400, 0o500}
    thaw(into)
    assert not into.exists()


def test_a_file_that_changed_since_the_check_is_not_frozen_and_nothing_is_left(app, tmp_path):
    checked = manifest(app)
    (app / "parts" / "net.py").write_text("layers = 3\n")
    with pytest.raises(ConfigError, match="has changed since it was checked"):
        freeze(app, checked, tmp_path / "frozen")
    assert not (tmp_path / "frozen").exists()


def test_freezing_takes_a_new_folder_and_no_path_out_of_it(app, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="cannot be made"):
        freeze(app, manifest(app), tmp_path / "there")
    with pytest.raises(ConfigError, match="leads out of"):
        freeze(app, {"../evil.py": "0" * 64}, tmp_path / "frozen")
    assert not (tmp_path / "frozen").exists()


@pytest.mark.parametrize(
    "told",
    [None, [], {}, {"a.py": 1}, {"a.py": "0" * 63}, {"../a.py": "0" * 64}, {"/a.py": "0" * 64},
     {"a//b.py": "0" * 64}, {"a/./b.py": "0" * 64}, {"": "0" * 64}, {"a\n.py": "0" * 64},
     {"\ud800.py": "0" * 64}, {"a" * 1025: "0" * 64}, {str(n): "0" * 64 for n in range(4097)}],
)  # fmt: skip
def test_a_manifest_from_a_peer_is_plain_or_refused(told):
    with pytest.raises(ProtocolError, match="the manifest of an app"):
        read_manifest(told)


def test_a_manifest_survives_the_way_through_a_spec(app):
    assert read_manifest(dict(manifest(app))) == manifest(app)
