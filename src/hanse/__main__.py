"""``python -m hanse``: the command line."""

from hanse.cli.app import run

if __name__ == "__main__":
    run()
