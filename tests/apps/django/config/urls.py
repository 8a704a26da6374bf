# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The paths."""

from __future__ import annotations

from django.urls import path
from entries import views

urlpatterns = [
    path("", views.index),
    path("api/info", views.info),
    path("events", views.events),
    path("entries", views.entries),
]
