# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check every declared application and find its source, on the control node alone."""

from __future__ import annotations

import time
import typing as t
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.asgi.stack.plugins.module_utils import _model
from ansible_collections.asgi.stack.plugins.plugin_utils import _control, _source, _tls


class ActionModule(ActionBase):
    """Documented in plugins/modules/source.py."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = self._task.args
        apps = _model.with_domains(arguments.get("apps"), str(variables.get("inventory_hostname", "")))
        spec = _control.application_spec()
        problems = _model.validate(apps, spec)
        sources: dict[str, t.Any] = {}
        if not problems:
            base = Path(arguments.get("base") or ".")
            for index, app in enumerate(apps):
                if app.get("state") == "absent":
                    continue
                wrong: list[str] = []
                page = app.get("unavailable_page")
                if page and not (base / str(page)).is_file():
                    wrong.append(f"unavailable_page: found no file {base / str(page)}, expected an HTML file")
                if app.get("cdn_client_ca") and (unfit := _authority(base / app["cdn_client_ca"])):
                    wrong.append(f"cdn_client_ca: {unfit}")
                try:
                    sources[app["name"]] = _source.resolve(app["source"], base, _control.cache(), _control.RUN)
                except _source.SourceError as error:
                    wrong.append(str(error))
                tls = app.get("tls") or {}
                if tls.get("mode") == "provided" and not _model.resolve(app, spec)["tls"]["on_host"]:
                    wrong += _tls.problems(tls, app["domains"], base, self._loader, time.time())
                problems += [f"asgi_apps[{index}] ({app['name']}): {line}" for line in wrong]
        if problems:
            word = "mistake" if len(problems) == 1 else "mistakes"
            raise AnsibleActionFail(
                "\n".join([f"{len(problems)} {word} in asgi_apps, nothing was changed:", *problems]),
                result={"problems": problems},
            )
        result.update(changed=False, sources=sources)
        return result


def _authority(path: Path) -> str:
    """Return what keeps a file from being the certificate of an authority; empty if nothing does."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if "PRIVATE KEY-----" in text:
        return f"{path} has a private key, expected certificates (PEM) alone"
    if "-----BEGIN CERTIFICATE-----" not in text:
        return f"{path} has no certificate, expected one (PEM)"
    return ""
