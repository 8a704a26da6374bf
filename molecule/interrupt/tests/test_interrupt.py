# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is cut off, and wherever: what was live serves, and the next run finishes with nothing left over.

One story on one host, in the order of this file. Modules die by the driver (host/driver.py) before each of their
effects in turn; plays die on the control node at the beginning of each task that changes something, and at random
moments; the host loses power.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from typing import Any

import pytest
from control import DRIVER, KILLED, PROJECT, Host, Play, modules_on, plain_answer
from driver import wait_for

#: What a module's arguments were in a real play, by the module's name; filled by the first run that succeeds.
GIVEN: dict[str, dict[str, Any]] = {}
#: A build to copy, as a run made it.
REFERENCE = "/srv/reference"
#: INTERRUPT=all tries each point of each module; by default a sample, which the seed makes the same every time.
ALL = os.environ.get("INTERRUPT") == "all"
SEED = int(os.environ.get("INTERRUPT_SEED", "20261122"))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Host:
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    listed = subprocess.run(
        ["ansible-inventory", "--inventory", inventory, "--list"], capture_output=True, text=True, check=True
    )
    name = json.loads(listed.stdout)["asgi_app_hosts"]["hosts"][0]
    work = tmp_path_factory.mktemp("interrupt")
    source = work / "shop"
    shutil.copytree(PROJECT / "tests/apps/demo", source, ignore=shutil.ignore_patterns("__pycache__"))
    found = Host(name, inventory, work, source)
    found.find()
    found.ship()
    return found


@pytest.fixture(autouse=True)
def nothing_from_before(there: Host) -> None:
    """What a test that failed has left is not held against the others."""
    there.forgiven = set()
    if GIVEN:
        there.forgiven = set(there.survey()["left"])


def version(host: Host, text: str) -> str:
    """Have the application's source be another version."""
    (host.source / "VERSION").write_text(f"{text}\n", encoding="utf-8")
    return text


def release(number: int, app: str = "shop", **more: Any) -> dict[str, Any]:
    """Arguments of the module release for a release of its own."""
    given: dict[str, Any] = json.loads(re.sub(r"\bshop\b", app, json.dumps(GIVEN["release"])))
    given["health"]["successes"] = 1
    given.update(
        # What is secret is masked in what was captured.
        secrets=base64.b64encode(json.dumps({"TOKEN": "not-in-any-log"}).encode()).decode(),
        environment={"NUMBER": str(number)},
        id=f"{number:010x}",
        build=f"{number:016x}",
        pool=0,
    )
    return {**given, **more}


def build_of(number: int, app: str = "shop") -> str:
    """The command that has the complete build of such a release on the host."""
    build = f"/srv/asgi/{app}/builds/{number:016x}"
    return f"{{ mkdir -p {build.rpartition('/')[0]}; test -e {build}/build.json || cp -al {REFERENCE} {build}; }}"


def points(effects: list[str], number: int, must: str = "$^") -> list[tuple[str, int]]:
    """Return where to kill, (effect, occurrence) each, in order.

    Of effects with the same functions behind them, such as the files of one directory, the first, the last, and
    those of the files that say that something is complete. Of all these, those that match *must*, and a sample of the
    others up to *number*.
    """
    numbered = [(effect, effects[:index].count(effect) + 1) for index, effect in enumerate(effects)]
    groups: dict[str, list[tuple[str, int]]] = {}
    for point in numbered:
        groups.setdefault(" ".join(point[0].split()[:2]), []).append(point)
    kept = set()
    for group in groups.values():
        marking = [point for point in group if re.search(r"(release|build|state)\.json$", point[0])]
        kept |= {*group[:1], *group[-1:], *marking} if len(group) > 3 else {*group}
    chosen = {point for point in kept if ALL or re.search(must, point[0])}
    others = sorted(kept - chosen)
    chosen |= {*random.Random(SEED).sample(others, max(0, min(number - len(chosen), len(others))))}
    assert len(chosen) > 2, effects  # else no effect was seen, and nothing is tried
    return [point for point in numbered if point in chosen]


def at_each(found: list[tuple[str, int]], attempt: Callable[[int, dict[str, Any]], None], start: int) -> None:
    """Call *attempt* with a number of its own and the plan of a kill; show everything that is wrong in the end."""
    problems = []
    for number, (effect, occurrence) in enumerate(found, start=start):
        try:
            attempt(number, {"kill": effect, "occurrence": occurrence})
        except AssertionError as error:
            problems.append(f"killed before {effect} ({occurrence}): {str(error)[:400]}")
    assert problems == [], "\n".join([f"{len(problems)} of {len(found)} went wrong", *problems])


# --- the first run ---------------------------------------------------------------------------------------------------


def test_power_fails_while_packages_are_unpacked(there: Host) -> None:
    play = there.play()
    wait_for(
        "packages are unpacked",
        lambda: there.run("ls /var/lib/dpkg/updates | grep -q . && pidof dpkg").returncode == 0,
        seconds=120,
        longest=0.02,
    )
    there.reboot()
    play.kill()
    code, said = there.play(at="asgi.stack.build").wait()
    assert code == KILLED, said
    assert there.output("dpkg --audit") == ""


def test_first_run_killed_at_each_task_is_finished_by_the_next(there: Host) -> None:
    for action in ("release", "nginx_config"):
        code, said = there.play(at=f"asgi.stack.{action}").wait()
        assert code == KILLED, said
    capture = there.work / "capture"
    code, said = there.play(capture=capture).wait()
    assert code == 0, said
    for line in capture.read_text().splitlines():
        entry = json.loads(line)
        GIVEN[entry["action"].rpartition(".")[2]] = entry["args"]
    began = time.monotonic()
    there.unchanged()
    there.usual = time.monotonic() - began
    there.output(f"cp -a /srv/asgi/shop/builds/{GIVEN['release']['build']} {REFERENCE}")


# --- a release -------------------------------------------------------------------------------------------------------


def still_serves(there: Host) -> dict[str, Any]:
    """See that what is live is whole and serves, right after a kill. Return what is there."""
    there.serves()
    found = there.survey()
    assert found["connects"], f"nothing takes a new connection to {found['live']}"
    assert found["half"] == [], found["half"]
    return found


def recorded(there: Host, name: str, arguments: dict[str, Any], before: str = "true") -> list[str]:
    """Return the effects of a whole run of a module."""
    done = there.module(name, arguments, before=before, record=True)
    assert "result" in done, done
    there.survey(drained=True)
    effects: list[str] = done["effects"]
    return effects


def test_release_killed_anywhere_and_wanted_again(there: Host) -> None:
    for number in (1, 2, 3):  # so that there is something to prune
        effects = recorded(there, "release", release(number), build_of(number))
    whole = there.survey()["builds"][f"{3:016x}"]

    def attempt(number: int, plan: dict[str, Any]) -> None:
        wanted = release(number)
        done = there.module("release", wanted, before=build_of(number), **plan)
        assert "killed" in done or "delay" in plan, "not reached"
        found = still_serves(there)
        assert set(found["builds"].values()) == {whole}, f"a build is not whole: {found['builds']}"
        there.finishes("release", wanted, wanted=wanted["id"])

    must = r"_switch/point|_switch\S*/mark\S* rename|_retire/run|/_write_release rename|_prune.*json$"
    chosen = points(effects, 10, must)
    with there.asked_all_the_time():
        at_each(chosen, attempt, start=16)
        # In between: while the release starts.
        start = next(effect for effect in effects if re.search("Popen systemctl .*start --no-block", effect))
        for number, delay in enumerate((0.1, 0.5), start=512):
            attempt(number, {"kill": start, "delay": delay})


def test_release_killed_before_the_switch_and_not_wanted_any_more(there: Host) -> None:
    """What is wanted by the next run is what was live."""
    effects = recorded(there, "release", release(1024), build_of(1024))
    switch = next(index for index, effect in enumerate(effects) if effect.endswith("rename live"))

    def attempt(number: int, plan: dict[str, Any]) -> None:
        assert "killed" in there.module("release", release(number), before=build_of(number), **plan), "not reached"
        still_serves(there)
        there.finishes("release", release(1024), wanted=release(1024)["id"])

    with there.asked_all_the_time():
        at_each(points(effects[: switch + 1], 5, must="rename live|write rename release.json"), attempt, start=1025)


def test_release_that_was_left_staged_does_not_hide_what_was_live(there: Host) -> None:
    """It is made live later, after another one: a rollback goes to that one."""
    there.output(build_of(2001))
    there.finishes("release", release(2001), wanted=release(2001)["id"])
    assert "killed" in there.module(
        "release", release(2002), before=build_of(2002), kill="deploy/_switch/point rename live"
    )
    for number in (2003, 2002):
        there.output(build_of(number))
        there.finishes("release", release(number), wanted=release(number)["id"])
    back = there.module("release", release(0, state="rolled_back"))
    assert back["result"]["release"].endswith(release(2003)["id"]), back["result"]
    there.settled(wanted=release(2003)["id"])


def test_release_killed_after_the_switch_can_be_rolled_back_to(there: Host) -> None:
    effects = recorded(there, "release", release(2501), build_of(2501))
    after = next(index for index, effect in enumerate(effects) if effect.endswith("rename live")) + 1
    assert "killed" in there.module("release", release(2502), before=build_of(2502), kill=effects[after])
    for number in (2502, 2503):
        there.output(build_of(number))
        there.finishes("release", release(number), wanted=release(number)["id"])
    back = there.module("release", release(0, state="rolled_back"))
    assert back["result"]["release"].endswith(release(2502)["id"]), back["result"]
    there.settled(wanted=release(2502)["id"])


@pytest.mark.parametrize("state", ["restarted", "rolled_back"])
def test_restart_and_rollback_killed_anywhere(there: Host, state: str) -> None:
    """The next run of the site makes live what the inventory says."""
    stays = release(3001, keep=20)
    there.module("release", release(3000, keep=20), before=build_of(3000))
    there.output(build_of(3001))
    there.finishes("release", stays, wanted=stays["id"])
    effects = recorded(there, "release", release(0, state=state))
    there.output(build_of(3001))
    there.finishes("release", stays, wanted=stays["id"])

    def attempt(_number: int, plan: dict[str, Any]) -> None:
        there.output(build_of(3001))
        assert "killed" in there.module("release", release(0, state=state), **plan), "not reached"
        still_serves(there)
        there.output(build_of(3001))
        there.finishes("release", stays, wanted=stays["id"])

    with there.asked_all_the_time():
        at_each(points(effects, 4, must=r"_switch/(point|mark\S*) rename"), attempt, start=0)


def test_migration_killed_anywhere(there: Host) -> None:
    def steps(number: int) -> list[dict[str, Any]]:
        hook = "touch $STATE_DIRECTORY/begun-$ASGI_RELEASE; sleep 1; touch $STATE_DIRECTORY/ended-$ASGI_RELEASE"
        return [release(number, migrate=[hook], state=state) for state in ("prepared", "migrated", "present")]

    there.output(build_of(4000))
    prepared, migrated, present = steps(4000)
    assert "result" in there.module("release", prepared)
    effects = recorded(there, "release", migrated)
    there.finishes("release", present, wanted=present["id"])

    def attempt(number: int, plan: dict[str, Any], wanted_again: bool = True) -> None:
        prepared, migrated, present = steps(number)
        assert "result" in there.module("release", prepared, before=build_of(number))
        live = there.serves().release
        done = there.module("release", migrated, **plan)
        assert "killed" in done, "not reached"
        assert there.serves().release == live, "a release got traffic before it had migrated"
        if not wanted_again:
            number += 1000
            prepared, migrated, present = steps(number)
            there.output(build_of(number))
        for step in (prepared, migrated):
            done = there.module("release", step)
            assert "result" in done, done
        there.finishes("release", present, wanted=present["id"])
        assert there.run(f"ls /var/lib/asgi/shop/ended-*{present['id']}").returncode == 0, "it has not migrated"

    with there.asked_all_the_time():
        at_each(points(effects, 4, must=r"mark\S* rename|Popen systemctl .*start$"), attempt, start=4001)
        running = next(effect for effect in effects if re.search("_run_migrate.*Popen systemctl .*start", effect))
        attempt(4100, {"kill": running, "delay": 0.5})
        attempt(4200, {"kill": running, "delay": 0.5}, wanted_again=False)


@pytest.mark.parametrize("moment", ["starting", "switched", "draining"])
def test_power_fails_during_a_release(there: Host, moment: str) -> None:
    pattern = {"starting": "point rename live", "switched": "point rename live", "draining": "/_prune"}[moment]
    number = 5000 + len(moment)
    effects = recorded(there, "release", release(number), build_of(number))
    index = next(index for index, effect in enumerate(effects) if re.search(pattern, effect))
    index += moment == "switched"
    wanted = release(number + 10, pool=60)
    assert "killed" in there.module("release", wanted, before=build_of(number + 10), kill=effects[index])
    live = there.survey()["live"]
    assert live.endswith((release(number) if moment == "starting" else wanted)["id"])
    there.reboot()
    wait_for("what was live serves", lambda: there.answers() == live, seconds=60)
    there.finishes("release", {**wanted, "pool": 0}, wanted=wanted["id"])


def test_power_fails_right_after_the_first_switch(there: Host) -> None:
    """There was nothing live before, so what was enabled for a boot was not enabled by an earlier release."""
    effects = recorded(there, "release", release(6000, "first"), build_of(6000, "first"))
    gone = release(0, "first", state="absent")
    assert there.module("release", gone)["result"]["changed"]
    after = next(index for index, effect in enumerate(effects) if effect.endswith("rename live")) + 1
    assert "killed" in there.module(
        "release", release(6000, "first"), before=build_of(6000, "first"), kill=effects[after]
    )
    there.reboot()
    live = there.survey("first")["live"]
    there.output(f"systemctl is-active asgi-first@{live}.service")
    assert "result" in there.module("release", release(6000, "first"))
    assert there.module("release", gone)["result"]["changed"]
    assert there.survey("first")["live"] is None
    wait_for("what was live serves", there.answers, seconds=60)


# --- a build ---------------------------------------------------------------------------------------------------------


def tiny(there: Host, number: int, *hooks: str) -> dict[str, Any]:
    """Arguments of the module build for a small application."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in {"main.py": "app = None\n", "requirements.txt": "idna\n"}.items():
            data = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    content = base64.b64encode(packed.getvalue()).decode()
    there.output(f"echo {content} | base64 -d >{DRIVER}/tiny.tar.gz")
    return {
        **GIVEN["build"],
        "name": "tiny",
        "root": "/srv/asgi/tiny",
        "archive": f"{DRIVER}/tiny.tar.gz",
        "source": {"kind": "tree", "digest": f"{number}", "revision": "a revision"},
        "server_requirements": [],
        "hooks": ["echo built >made", *hooks],
    }


def built(there: Host) -> tuple[list[str], list[str]]:
    """Return the builds that claim to be complete, and what else lies beside them."""
    lines = there.output(
        "cd /srv/asgi/tiny && ls -A . | grep -vx builds; cd builds;"
        " for b in $(ls -A); do if [ -e $b/build.json ]; then echo whole $b; else echo $b; fi; done"
    ).splitlines()
    return [line[6:] for line in lines if line.startswith("whole ")], [line for line in lines if line[:6] != "whole "]


CONTENT = "cd /srv/asgi/tiny/builds/{} && find . ! -name '*.pyc' -printf '%P %y %u %m\\n' | sort"


def test_build_killed_anywhere(there: Host) -> None:
    there.module("build", tiny(there, -1))  # directories that stay
    done = there.module("build", tiny(there, 0), record=True)
    assert "result" in done, done
    content = there.output(CONTENT.format(done["result"]["address"]))

    def attempt(number: int, plan: dict[str, Any]) -> None:
        wanted = tiny(there, number)
        there.output("rm -rf /srv/asgi/tiny/builds/*")
        assert "killed" in there.module("build", wanted, **plan), "not reached"
        assert built(there)[0] == [], "an unfinished build claims to be complete"
        done = there.module("build", wanted)
        assert "result" in done, done
        address = done["result"]["address"]
        assert built(there) == ([address], [])
        assert there.output(CONTENT.format(address)) == content
        assert not there.module("build", wanted)["result"]["changed"], "a further run built again"
        assert there.survey("tiny")["left"] == [f"/srv/asgi/tiny/builds/{address}, of no release"]

    chosen = points(done["effects"], 6, must=r"build\.json$|uv.* pip install| sh$")
    at_each(chosen, attempt, start=1)


def test_what_a_killed_build_started_does_not_write_into_the_next(there: Host) -> None:
    """A hook (or uv) of the killed run is still at it while the next run builds at the same place."""
    wanted = tiny(there, 100, 'd="$PWD"; sleep 2; mkdir -p "$d"; echo $$ >"$d/late-$$"')
    done = there.module("build", tiny(there, 99, "true"), record=True)
    hook = next(effect for effect in done["effects"] if effect.endswith("Popen sh"))
    assert "killed" in there.module("build", wanted, kill=hook, occurrence=2, delay=0.3)
    done = there.module("build", wanted)
    assert "result" in done, done
    time.sleep(3)  # more than the hook sleeps: it would have written
    late = there.output(f"ls /srv/asgi/tiny/builds/{done['result']['address']}/src | grep late-").splitlines()
    assert len(late) == 1, f"two runs wrote into one build: {late}"
    there.output("rm -rf /srv/asgi/tiny")


# --- Nginx -----------------------------------------------------------------------------------------------------------


def configuration(number: int) -> dict[str, Any]:
    """Arguments of the module nginx_config, with a server that answers the number."""
    given = GIVEN["nginx_config"]
    server = f'server {{ listen 8099; return 200 "{number}"; }}\n'
    return {**given, "files": {**given["files"], "sites/number.conf": server}}


def nginx_is(there: Host, numbers: tuple[int, ...]) -> None:
    """See that Nginx serves the application and one of *numbers*, and would start again as it is on disk."""
    there.output("nginx -t -q")
    answer = plain_answer(there.address, 8099)
    assert answer in [str(number) for number in numbers], (
        f"Nginx runs configuration {answer}, expected one of {numbers}"
    )
    there.serves(times=1)


def nginx_finishes(there: Host, number: int) -> None:
    first, second = (there.module("nginx_config", configuration(number)) for __ in range(2))
    assert "result" in first, first
    # A worker process that was told to end may take a last connection.
    wait_for(f"{number} is answered", lambda: plain_answer(there.address, 8099) == f"{number}", seconds=10)
    assert not second["result"]["changed"], second
    nginx_is(there, (number,))
    assert there.survey()["left"] == [], "left over"


def restart_nginx(there: Host) -> None:
    there.output("systemctl reset-failed nginx; systemctl restart nginx")  # so often is not allowed otherwise
    wait_for("Nginx listens", lambda: plain_answer(there.address, 8099) is not None, seconds=60)


@pytest.mark.parametrize("start", ["", "restarted"], ids=["running", "restarted"])
def test_nginx_configuration_killed_anywhere(there: Host, start: str) -> None:
    for number in (1, 2):
        nginx_finishes(there, number)
    effects = recorded(there, "nginx_config", configuration(3))

    def attempt(number: int, plan: dict[str, Any]) -> None:
        for before in (number + 1000, number + 2000):  # so that there is something to prune
            nginx_finishes(there, before)
        assert "killed" in there.module("nginx_config", configuration(number), **plan), "not reached"
        nginx_is(there, (before, number))
        if start:
            restart_nginx(there)
            nginx_is(there, (before, number))
        nginx_finishes(there, number)

    at_each(points(effects, 5, must=r"point rename|Popen systemctl .*reload|_mark\S* rename"), attempt, start=10)


def test_nginx_configuration_killed_between_swap_and_reload_and_not_wanted_any_more(there: Host) -> None:
    nginx_finishes(there, 100)
    effects = recorded(there, "nginx_config", configuration(101))
    reload = next(effect for effect in effects if re.search("Popen systemctl .*reload", effect))
    assert "killed" in there.module("nginx_config", configuration(102), kill=reload)
    nginx_finishes(there, 101)
    assert "killed" in there.module("nginx_config", configuration(103), kill=reload, delay=0.01)
    nginx_finishes(there, 101)


def test_first_nginx_configuration_killed_anywhere(there: Host) -> None:
    """The first one takes the place of the distribution's, and disables its default site."""
    there.output("cp --no-clobber /etc/nginx/asgi/replaced-nginx.conf /srv/nginx.conf")
    distributions = (
        "systemctl stop nginx; cd /etc/nginx && cp --remove-destination /srv/nginx.conf nginx.conf"
        " && rm -rf asgi/live asgi/config-* asgi/replaced-nginx.conf /run/asgi/nginx.json"
        " && rm -f /etc/systemd/system/nginx.service.d/asgi-stack.conf && systemctl daemon-reload"
        " && ln -sfn /etc/nginx/sites-available/default sites-enabled/default"
        " && systemctl reset-failed nginx && systemctl start nginx"
    )
    there.output(distributions)
    effects = recorded(there, "nginx_config", configuration(1))

    def attempt(number: int, plan: dict[str, Any]) -> None:
        there.output(distributions)
        assert "killed" in there.module("nginx_config", configuration(number), **plan), "not reached"
        there.output("nginx -t -q && systemctl restart nginx")
        nginx_finishes(there, number)

    at_each(points(effects, 4, must="point rename"), attempt, start=10)


def test_certificate_killed_anywhere(there: Host) -> None:
    def wanted(number: int) -> dict[str, Any]:
        domains = ["shop.test", f"n{number}.test"]
        return {**GIVEN["certificate"], "certificates": [{"name": "shop", "domains": domains, "mode": "self_signed"}]}

    effects = recorded(there, "certificate", wanted(0))

    def attempt(number: int, plan: dict[str, Any]) -> None:
        assert "killed" in there.module("certificate", wanted(number), **plan), "not reached"
        there.output("nginx -t -q")
        certificate = there.output("openssl x509 -in /etc/nginx/asgi/tls/shop/fullchain.pem -noout -pubkey")
        assert certificate == there.output("openssl pkey -in /etc/nginx/asgi/tls/shop/privkey.pem -pubout")
        done = there.module("certificate", wanted(number))
        assert "result" in done, done
        assert not there.module("certificate", wanted(number))["result"]["changed"], "a further run made another"
        assert there.survey()["left"] == [], "left over"
        assert len(there.output("cd /etc/nginx/asgi/tls && ls -d shop*").split()) == 2

    at_each(points(effects, 10), attempt, start=1)
    assert "result" in there.module("certificate", GIVEN["certificate"])


# --- whole plays -----------------------------------------------------------------------------------------------------


def kill_a_module(there: Host, play: Play) -> None:
    """Kill what Ansible runs on the host, as soon as it runs something or has ended."""
    found = wait_for(
        "a module runs", lambda: modules_on(there) or play.process.poll() is not None, seconds=60, longest=0.2
    )
    if not isinstance(found, bool):
        there.run(f"kill -KILL {' '.join(found)}")
    play.wait()


def test_play_killed_at_random_moments(there: Host) -> None:
    moments = random.Random(SEED)
    with there.asked_all_the_time():
        for number, what in enumerate(["play", "module"] * (6 if ALL else 1)):
            wanted = version(there, f"3.0.{number}")
            play = there.play()
            time.sleep(there.usual * moments.uniform(0.5, 1.5))
            if what == "play":
                play.kill()
            else:
                kill_a_module(there, play)
            there.serves()
            there.converge()
            assert there.ask().version == wanted
        there.unchanged()


def test_connection_cut_in_the_middle(there: Host) -> None:
    """What runs on the host goes on for a while: the next run waits for it."""
    wanted = version(there, "4.0.0")
    more = {"hooks": {"build": ["sleep 3", "echo built >made"]}}
    play = there.play(variables={"test_more": more})
    comms = "cat /proc/[0-9]*/comm"
    wait_for("the build is at its hook", lambda: "sleep" in there.run(comms).stdout, seconds=120, longest=0.2)
    play.kill()
    with there.asked_all_the_time():
        there.converge(test_more=more)
    there.settled()
    assert there.ask().version == wanted
    assert there.output("cat /srv/asgi/shop/live/build/src/made") == "built"


def test_second_run_waits_fails_clearly_and_goes_on_when_the_first_is_dead(there: Host) -> None:
    live = there.survey()["live"]
    there.output(build_of(7000))
    effects = recorded(there, "release", release(7000))
    switch = next(effect for effect in effects if effect.endswith("rename live"))
    plan = json.dumps({"args": release(7001), "pause": switch})
    holder = subprocess.Popen(
        ["docker", "exec", "--interactive", there.name, "sh", "-c"]
        + [f"{build_of(7001)} && echo $$ >/run/holder && exec python3 {DRIVER}/driver.py release"],
        stdin=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    holder.stdin.write(plan)
    holder.stdin.close()
    paused = "grep -q '^State:.T' /proc/$(cat /run/holder)/status"
    wait_for("it is paused", lambda: there.run(paused).returncode == 0, seconds=60)
    live = there.serves().release
    there.output(build_of(7002))
    second = there.module("release", release(7002, lock_timeout=1))
    assert "another run is working on shop" in second.get("failed", ""), second
    assert there.serves().release == live
    there.output("kill -KILL $(cat /run/holder); rm /run/holder")
    holder.wait(30)
    there.finishes("release", release(7002), wanted=release(7002)["id"])


def test_two_plays_at_once(there: Host) -> None:
    other = there.work / "other"
    shutil.copytree(there.source, other)
    version(there, "5.0.0")
    (other / "VERSION").write_text("5.0.1\n")
    with there.asked_all_the_time():
        plays = [there.play(), there.play(variables={"test_source": str(other)})]
        ended = [play.wait() for play in plays]
        assert 0 in [code for code, __ in ended], ended
        for code, said in ended:
            assert code == 0 or re.search(r"another run is working on|there is no build", said), said
        found = there.survey(drained=True)
        assert found["half"] == []
        assert there.ask().version in ("5.0.0", "5.0.1")
        there.converge()
        there.settled()
    assert there.ask().version == "5.0.0"


# --- what the host or the network refuses ----------------------------------------------------------------------------


def test_disk_full_at_any_write_of_a_release(there: Host) -> None:
    effects = recorded(there, "release", release(8000), build_of(8000))
    switch = next(index for index, effect in enumerate(effects) if effect.endswith("rename live"))
    writing = [effect for effect in effects if re.search(r" (open|mkdir|symlink) ", effect) and ".lock" not in effect]

    def attempt(number: int, plan: dict[str, Any]) -> None:
        wanted = release(number)
        full = {"full": plan["kill"], "occurrence": plan["occurrence"]}
        done = there.module("release", wanted, before=build_of(number), **full)
        if effects.index(plan["kill"]) < switch:
            assert re.search(r"^shop: .*the disk is full", done.get("failed", "")), done
            found = there.survey()
            assert found["running"] == [found["live"]], f"{found['running']} run, {found['live']} is live"
            assert not found["live"].endswith(wanted["id"]), "it was switched"
            there.output(build_of(number))
        there.serves()
        there.finishes("release", wanted, wanted=wanted["id"])

    with there.asked_all_the_time():
        at_each(points(writing, 4, must="point|release.json"), attempt, start=8001)


def test_index_unreachable(there: Host) -> None:
    live = there.serves().release
    builds = there.survey()["builds"]
    requirements = there.source / "requirements.txt"
    before = requirements.read_text()
    requirements.write_text(f"{before}six\n")
    code, said = there.play(variables={"python_index_url": "http://127.0.0.1:9/simple"}).wait()
    assert code != 0, said
    assert re.search(r"shop: requirements: uv: ", said), said
    assert there.serves().release == live
    assert there.survey()["builds"] == builds
    there.settled()
    there.converge()
    there.settled()
    assert there.serves().release != live


def test_disk_full_for_real(there: Host) -> None:
    """Another application has a small file system of its own."""
    full = {
        "name": "full",
        "app": "main:app",
        "source": {"path": str(there.work / "full")},
        "domains": ["full.test"],
        "workers": 1,
        "health": {"path": "/healthz"},
        "drain": 1,
        "keep_releases": 2,
    }
    filling = "dd if=/dev/zero of=/srv/asgi/full/filling bs=1M status=none; true"
    empty = "rm /srv/asgi/full/filling"
    shutil.copytree(there.source, there.work / "full")
    there.output("mkdir -p /srv/asgi/full && mount -t tmpfs -o size=500m,mode=755 asgi-full /srv/asgi/full")
    try:
        there.converge(test_others=[full])
        live = there.serves("full").release
        # No block is left, but for a few megabytes in which a build begins.
        there.output(f"{filling}; truncate -s -6M /srv/asgi/full/filling")
        (there.work / "full/VERSION").write_text("6.0.0\n")
        code, said = there.play(variables={"test_others": [full]}).wait()
        assert code != 0, said
        assert re.search(r"full: .*the disk is full", said), said
        assert there.serves("full").release == live
        there.settled("full")
        there.output(empty)
        capture = there.work / "capture-full"
        code, said = there.play(variables={"test_others": [full]}, capture=capture).wait()
        assert code == 0, said
        assert there.serves("full").version == "6.0.0"
        there.settled("full")
        # The same build, other settings: only the release has to be written.
        entries = [json.loads(line) for line in capture.read_text().splitlines()]
        given = [entry["args"] for entry in entries if entry["action"].endswith(".release")][-1]
        other = {**given, "secrets": "", "environment": {"A": "B"}, "id": "abcdef", "pool": 0}
        live = there.serves("full").release
        there.output(filling)
        done = there.module("release", other)
        assert re.search("^full: .*the disk is full", done.get("failed", "")), done
        assert there.serves("full").release == live
        there.output(empty)
        there.finishes("release", other, app="full", wanted="abcdef")
    finally:
        there.run("systemctl stop asgi-full.service; umount --lazy /srv/asgi/full")
