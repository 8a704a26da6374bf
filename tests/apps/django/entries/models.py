# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept in the database."""

from __future__ import annotations

from django.db import models


class Entry(models.Model):
    """A line in a guest book."""

    text = models.CharField(max_length=200)
    written = models.DateTimeField(auto_now_add=True)
