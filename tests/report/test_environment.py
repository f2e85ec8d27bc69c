import getpass
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

from hanse.report.environment import environment


def test_the_environment_names_what_bits_depend_on():
    found = environment()
    assert found["cores"] == os.cpu_count()
    assert {"hanse", "numpy"} <= found["versions"].keys()
    assert found["processor"]
    assert platform.python_version() in found["python"]


def test_the_environment_names_no_host_no_user_and_no_path():
    text = json.dumps(environment())
    for secret in (socket.gethostname(), getpass.getuser(), str(Path.home()), os.getcwd()):
        if len(secret) > 4:  # a host called "vm" proves nothing
            assert secret not in text


def test_the_environment_imports_no_torch():
    script = (
        "import sys; from hanse.report.environment import environment; environment(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
