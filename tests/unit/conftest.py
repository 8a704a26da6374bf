"""Make the checkout importable as the collection: ansible_collections.asgi.stack."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

# A busy machine is slow; that is no failure.
settings.register_profile("asgi", deadline=None)
settings.load_profile("asgi")

sys.path.insert(0, str(Path(__file__).parents[2] / "collections"))
