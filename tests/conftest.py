"""Settings of the property tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail.
settings.register_profile("recipec", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("recipec")
