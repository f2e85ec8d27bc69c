"""What failed for a passing reason is told from what is wrong: try again is status 75."""

FALLS = """

def falls(site):
    import multiprocessing, os, signal
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return data(site)
"""


def test_a_worker_that_is_killed_is_status_75_of_the_command(small, tmp_path):
    app, run = tmp_path / "app.py", tmp_path / "run.toml"
    app.write_text(app.read_text() + FALLS)
    run.write_text(run.read_text().replace('"app:data"', '"app:falls"'))
    ran = small("run", "run.toml", "--out", "done", "--workers", 2, "--quiet")
    assert ran.status == 75
    assert "[transport]" in ran.err
    assert "ended with status -9" in ran.err
    assert not (tmp_path / "done").exists()
