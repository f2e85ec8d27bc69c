"""The app of the crash tests: the task that shows which update was counted how often."""

from hanse.faultsim.unit import MOST, Unit, data

SITES = ("north", "west")
task = Unit(SITES)
__all__ = ["MOST", "SITES", "data", "task"]
