"""A federation in virtual time: the production machines under seeded faults, schedule by schedule.

    python -m hanse.faultsim --schedules 1000

The coordinator's run and driver, a site's memory, gate and training are the ones that are deployed.
Time, network, disks and the end of processes are simulated, each by what it promises: a disk keeps
what was synced, a network keeps nothing. A schedule is drawn from its seed alone, so whatever it
finds is found again.
"""
