"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The hub library asks once, when it is imported, whether it is offline. Tests speak to a hub of their own on this
# machine, and some set HF_HUB_OFFLINE for a while: whichever came first would decide for all that follow.
os.environ["HF_HUB_OFFLINE"] = "0"
import huggingface_hub.constants

# A busy machine is no reason to fail.
settings.register_profile("recipec", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("recipec")

assert not huggingface_hub.constants.HF_HUB_OFFLINE
