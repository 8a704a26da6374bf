"""Make the checkout importable as the collection: ansible_collections.asgi.stack."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "collections"))
