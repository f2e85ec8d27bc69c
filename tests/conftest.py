"""How tests run: quiet hypothesis deadlines (a busy machine is no bug), and a thorough profile."""

from hypothesis import HealthCheck, settings

# Under CI hypothesis picks its own "ci" profile: the same examples each time.
settings.register_profile("hanse", deadline=None)
settings.register_profile(
    "torture", deadline=None, max_examples=2_000, suppress_health_check=[HealthCheck.too_slow]
)
if settings.get_current_profile_name() == "default":
    settings.load_profile("hanse")
