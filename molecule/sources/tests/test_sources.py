# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Applications of every kind on one host, served; then what is wrong with them, and that it harms nothing that is live.

The tests run in order: the host is bare at the first of them. What a mistake leads to is tried on applications that are
served already.
"""

from __future__ import annotations

import base64
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import driver
import pytest
import workshop
from driver import ask

#: Where a run writes whatever becomes of it: Ansible's own files, logs, uv's cache, times of the day.
RESTLESS = ("/root", "/var/log", "/var/lib/systemd", "/var/cache/asgi-build", "/var/lib/asgi", "/var/tmp")

VALUES = {
    "TEST_PLAIN": "plain",
    "TEST_EMPTY": "",
    "TEST_SPACES": "  around  ",
    "TEST_QUOTES": """'single' "double" `tick` '""",
    "TEST_SHELL": "$HOME ${HOME} $(id) $$ %i %% %n ; & | # * ~ !",
    "TEST_BACKSLASH": "\\ \\n \\x41 \\\\ end\\",
    "TEST_LINES": "one\ntwo\n\nfour\n",
    "TEST_TAB": "a\tb",
    "TEST_UNICODE": "grüezi ☃ 𝄞 \u00a0",
    "TEST_COMMENT": "# no comment",
    "TEST_LOOKS_LIKE_YAML": "yes: [no]",
}
SECRETS = {name.replace("TEST_", "TEST_SECRET_"): value for name, value in VALUES.items()}

USERNAME = "builder"
# Its parts are none that the random letters which Ansible has sudo log could form.
PARTS = ("Nadel-4F1d", "Heu-0c7E")
PASSWORD = f"{PARTS[0]}@im/{PARTS[1]}: %41$\"'?#x"
#: However it is quoted, its parts stay as they are; they do not in what HTTP sends.
FORMS = (*PARTS, base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode())


@dataclass
class World:
    """What is declared, and where its sources are on the control node."""

    stack: driver.Stack
    place: Path
    repository: workshop.Repository
    commits: dict[str, str] = field(default_factory=dict)
    apps: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def host(self) -> driver.Host:
        return self.stack.host

    def declare(self, name: str, source: Mapping[str, Any], **keys: Any) -> None:
        """Declare an application."""
        self.apps[name] = {
            "name": name,
            "app": "main:app",
            "source": source,
            "domains": [f"{name}.test"],
            "tls": {"mode": "none"},
            "workers": 1,
            "health": {"successes": 1},
            **keys,
        }

    def but(self, name: str, **keys: Any) -> dict[str, Any]:
        """Return a declared application with other keys."""
        return {**self.apps[name], **keys}

    def about(self, name: str) -> Any:
        """Return what the application that is served says of itself."""
        answer = ask(self.host, f"{name}.test", "/", tls=False)
        assert answer.status == 200, answer
        return answer.json()

    def pointers(self) -> dict[str, tuple[str, int]]:
        """Return of each application its live release, and the process that runs it."""
        script = """
            for link in /srv/asgi/*/live; do
                app=$(basename "$(dirname "$link")")
                release=$(basename "$(readlink "$link")")
                echo "$app $release $(systemctl show --property MainPID --value "asgi-$app@$release.service")"
            done
        """
        lines = [line.split() for line in self.host.sh(script).splitlines()]
        return {name: (release, int(pid)) for name, release, pid in lines}

    def files(self) -> set[str]:
        """Return a line for each file that is on the host, with its mode, and its size and time."""
        prune = " -o ".join(f"-path {path}" for path in RESTLESS)
        # What Python compiled, and the times of directories that it did so in, say nothing.
        script = (
            rf"find / -xdev \( {prune} -o -name __pycache__ \) -prune"
            r" -o -type d -printf '%p %m %u\n' -o -printf '%p %m %u %s %T@ %l\n'"
        )
        found = set(self.host.sh(script, seconds=120).splitlines())
        assert len(found) > 1000
        return found

    def site(self, *apps: Mapping[str, Any], **more: Any) -> driver.Play:
        """Run the whole stack with these applications."""
        return self.stack.start("site", *apps, **more).play(900)


@pytest.fixture(scope="module")
def world(stack: driver.Stack, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The sources, and what is declared. No pin is the newest version, so that it shows whether it was honoured."""
    place = tmp_path_factory.mktemp("sources")
    world = World(stack, place, workshop.Repository(place / "git"))

    commits, repository = world.commits, world.repository
    commits["first"] = repository.commit("first", tag="v1")
    commits["second"] = repository.commit("second", tag="v2", annotated=True)
    commits["third"] = repository.commit("third", submodule=True)
    address = str(repository.path)
    world.declare("git-tag", {"git": address, "version": "v1"})
    world.declare("git-annotated", {"git": address, "version": "v2"})
    world.declare("git-branch", {"git": address, "version": "main"})
    world.declare("git-commit", {"git": address, "version": commits["first"]})

    world.declare("index", {"package": "fastapi==0.115.14"}, app="fastapi:FastAPI", factory=True)

    thing = workshop.project(place / "wheelthing", "wheelthing", "1.2.3", "itsdangerous==2.1.2")
    (wheel,) = workshop.built(thing, "wheel")
    world.declare("wheel", {"path": str(wheel)}, app="wheelthing.main:app")
    thing = workshop.project(place / "sdistthing", "sdistthing", "4.5.6", "itsdangerous==2.1.2")
    (sdist,) = workshop.built(thing, "sdist")
    world.declare("sdist", {"path": str(sdist)}, app="sdistthing.main:app")

    # Relative to the inventory, whatever directory the play is started in.
    listed = {"requirements.txt": "uvicorn==0.30.6\nsix==1.16.0\n", "data/größe.txt": "ü\n", "secret/key.pem": "no\n"}
    plain = workshop.tree(stack.directory / "plain", {**listed, "bin/tool": "#!/bin/sh\n", ".venv/lib/x.py": "no\n"})
    (plain / "bin/tool").chmod(0o755)
    (plain / "latest").symlink_to("data/größe.txt")
    world.declare("plain", {"path": "plain", "exclude": ["secret"]})

    text = '[project]\nname = "dependencies"\nversion = "0"\ndependencies = ["itsdangerous==2.1.2"]\n'
    path = workshop.tree(place / "dependencies", {"pyproject.toml": text})
    hook = "python -c 'import sys; print(sys.prefix)' > made.txt"
    world.declare("dependencies", {"path": str(path)}, hooks={"build": [hook, ["cp", "made.txt", "a copy.txt"]]})

    path = workshop.project(place / "project", "shopthing", "7.8.9", "itsdangerous==2.1.2")
    world.declare("project", {"path": str(path)}, app="shopthing.main:app")

    # The lock says what is installed, not what could be by now.
    text = '[project]\nname = "locked"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["six{bound}"]\n'
    path = workshop.tree(place / "uvlock", {"pyproject.toml": text.format(bound="==1.16.0")})
    workshop.run("uv", "lock", "--quiet", "--no-config", cwd=path)
    workshop.write(path, {"pyproject.toml": text.format(bound=">=1.16.0"), "requirements.txt": "six==1.15.0\n"})
    world.declare("uvlock", {"path": str(path)})

    path = workshop.tree(place / "pylock", {"in.txt": "six==1.16.0\n"})
    lock = ["uv", "pip", "compile", "--quiet", "--no-config", "--format", "pylock.toml", "in.txt"]
    workshop.run(*lock, "--output-file", "pylock.toml", cwd=path)
    workshop.write(path, {"requirements.txt": "six==1.15.0\n"})
    world.declare("pylock", {"path": str(path)})

    files = {"deploy/prod.txt": "-r base.txt\nsix==1.16.0\n", "deploy/base.txt": "itsdangerous==2.1.2\n"}
    path = workshop.tree(place / "named", {**files, "requirements.txt": "six==1.15.0\n"})
    keys = {"app": "main:create", "factory": True, "environment": VALUES, "secrets": SECRETS}
    world.declare("named", {"path": str(path)}, requirements="deploy/prod.txt", **keys)
    return world


@pytest.fixture(scope="module")
def served(world: World) -> World:
    """All of it on the host."""
    world.site(*world.apps.values()).must()
    return world


def told(play: driver.Play, *beginnings: str) -> list[str]:
    """Return what a red run says from each of *beginnings* to the end of its line."""
    play.must_fail()
    assert "MODULE FAILURE" not in play.output, play.output
    # As a list or a text, quoted or not: what it says is the same.
    lines = [line.strip().lstrip("- ").strip("'\"") for line in play.output.splitlines()]
    found = []
    for beginning in beginnings:
        matching = [line for line in lines if beginning in line]
        assert matching, f"nothing said {beginning!r}:\n{play.output}"
        found.append(matching[0][matching[0].index(beginning) :])
    return found


# --- a host that is not supported ------------------------------------------------------------------------------------


def test_unsupported_distribution_is_said_before_anything_is_changed(world: World) -> None:
    fake = 'PRETTY_NAME="Slackware 15.0"\nNAME=Slackware\nID=slackware\nVERSION_ID=15.0\n'
    world.host.write("/run/os-release", fake)
    world.host.out("mount", "--bind", "/run/os-release", "/etc/os-release")
    try:
        before = world.files()
        play = world.site(world.apps["plain"])
        after = world.files()
    finally:
        world.host.out("umount", "/etc/os-release")
    told(play, f"{world.host.name}: found Slackware 15.0, expected Debian 12 or 13")
    assert after == before
    assert play.changed == 0


# --- what is served --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mark", "versions"),
    [
        ("git-tag", "first", {"six": "1.16.0"}),
        ("git-annotated", "second", {"six": "1.16.0"}),
        ("git-branch", "third", {"six": "1.16.0"}),
        ("git-commit", "first", {"six": "1.16.0"}),
        ("wheel", "wheelthing 1.2.3", {"wheelthing": "1.2.3", "itsdangerous": "2.1.2"}),
        ("sdist", "sdistthing 4.5.6", {"sdistthing": "4.5.6", "itsdangerous": "2.1.2"}),
        ("plain", "plain", {"six": "1.16.0"}),
        ("dependencies", "dependencies", {"itsdangerous": "2.1.2"}),
        ("project", "shopthing 7.8.9", {"shopthing": "7.8.9", "itsdangerous": "2.1.2"}),
        ("uvlock", "uvlock", {"six": "1.16.0"}),
        ("pylock", "pylock", {"six": "1.16.0"}),
        ("named", "named", {"six": "1.16.0", "itsdangerous": "2.1.2"}),
    ],
)
def test_source_is_served_with_its_requirements(served: World, name: str, mark: str, versions: dict[str, str]) -> None:
    about = served.about(name)
    assert about["mark"] == mark
    assert {package: about["versions"].get(package) for package in versions} == versions
    # And what the server consists of, with those that make it fast.
    for package in ("gunicorn", "uvicorn", "uvicorn-worker", "uvloop", "httptools"):
        assert package in about["versions"]
    # A project without a build system is no package.
    assert not {"dependencies", "locked"} & set(about["versions"])


def test_package_from_the_index_is_served(served: World) -> None:
    answer = ask(served.host, "index.test", "/openapi.json", tls=False)
    assert answer.status == 200
    assert answer.json()["info"]["title"] == "FastAPI"
    python = "/srv/asgi/index/live/build/venv/bin/python"
    code = "from importlib.metadata import version; print(version('fastapi'))"
    assert served.host.out(python, "-c", code) == "0.115.14"


def test_code_of_a_package_is_that_which_was_installed(served: World) -> None:
    for name in ("wheel", "sdist", "project"):
        assert "/venv/lib/" in served.about(name)["file"]
        assert "site-packages" in served.about(name)["file"]
    assert served.about("plain")["file"].endswith("/src/main.py")


def test_submodule_comes_along(served: World) -> None:
    assert "parts/part.txt" in served.about("git-branch")["files"]
    assert "parts/part.txt" not in served.about("git-tag")["files"]
    assert served.host.read("/srv/asgi/git-branch/live/build/src/parts/part.txt") == "one\n"
    assert served.host.sh("find /srv/asgi/git-*/builds/*/src -name '.git*' ! -name .gitmodules") == ""


def test_directory_comes_whole_without_what_is_excluded(served: World) -> None:
    files = served.about("plain")["files"]
    assert files == ["bin", "bin/tool", "data", "data/größe.txt", "latest", "main.py", "requirements.txt"]
    source = "/srv/asgi/plain/live/build/src"
    assert served.host.out("readlink", f"{source}/latest") == "data/größe.txt"
    assert served.host.out("stat", "--format", "%a %U", f"{source}/bin/tool") == "755 root"
    assert served.host.out("stat", "--format", "%a %U", f"{source}/main.py") == "644 root"


def test_pins_of_the_application_win(served: World) -> None:
    """The server's own requirements want a newer uvicorn, which the others get."""
    assert served.about("plain")["versions"]["uvicorn"] == "0.30.6"
    assert served.about("named")["versions"]["uvicorn"] != "0.30.6"


def test_environment_arrives_unchanged(served: World) -> None:
    assert served.about("named")["environment"] == {**VALUES, **SECRETS}


def test_build_hooks_ran_in_the_source_with_the_environment_first(served: World) -> None:
    build = served.host.out("readlink", "--canonicalize", "/srv/asgi/dependencies/live/build")
    assert served.host.read(f"{build}/src/made.txt") == f"{build}/venv\n"
    assert served.host.read(f"{build}/src/a copy.txt") == f"{build}/venv\n"


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.fixture
def unharmed(served: World) -> Iterator[World]:
    """See that what was live before a test is live after it, in the same processes, and answers as it did."""
    names = [name for name in served.apps if name != "index"]
    before = served.pointers(), {name: served.about(name) for name in names}
    yield served
    assert (served.pointers(), {name: served.about(name) for name in names}) == before


@pytest.fixture
def untouched(unharmed: World) -> Iterator[World]:
    """See that a test changed no file of the host."""
    before = unharmed.files()
    yield unharmed
    assert unharmed.files() ^ before == set()


def test_all_mistakes_are_said_at_once(untouched: World) -> None:
    play = untouched.site(
        untouched.but("plain", wrokers=2, workload="heavy", health={"path": "/", "timeout": "soon"}),
        untouched.but("named", app="main.app", source={"path": ".", "git": "x"}, secrets={"TEST-1": "hush-hush"}),
        {"name": "none"},
    )
    told(
        play,
        "9 mistakes in asgi_apps, nothing was changed",
        "asgi_apps[0] (plain): wrokers: unknown key, did you mean workers?",
        "asgi_apps[0] (plain): workload: found 'heavy', expected one of io, mixed, cpu",
        "asgi_apps[0] (plain): health.timeout: found 'soon', expected a whole number",
        "asgi_apps[1] (named): app: found 'main.app', expected an import string",
        "asgi_apps[1] (named): source: found path and git, expected exactly one",
        "asgi_apps[1] (named): source.version: missing",
        "asgi_apps[1] (named): secrets: found the name 'TEST-1'",
        "asgi_apps[2] (none): app: missing",
        "asgi_apps[2] (none): source: missing",
    )
    assert "hush-hush" not in play.output


def test_sources_that_are_not_there(untouched: World) -> None:
    address = str(untouched.repository.path)
    nothing = str(untouched.place / "nothing")
    escaping = workshop.tree(untouched.place / "escaping", {})
    (escaping / "passwords").symlink_to("/etc/passwd")
    apps = [
        untouched.but("plain", source={"path": nothing}),
        untouched.but("named", source={"path": str(untouched.place / "named" / "main.py")}),
        untouched.but("dependencies", source={"path": str(escaping)}),
        untouched.but("git-tag", source={"git": address, "version": "v999"}),
        untouched.but("git-branch", source={"git": address, "version": "no/such"}),
        untouched.but("git-commit", source={"git": address, "version": "0123456789" * 4}),
        untouched.but("git-annotated", source={"git": nothing, "version": "v1"}),
        untouched.apps["uvlock"],
    ]
    play = untouched.site(*apps)
    told(
        play,
        "7 mistakes in asgi_apps, nothing was changed",
        f"asgi_apps[0] (plain): source.path: found nothing at {nothing}",
        "asgi_apps[1] (named): source.path: found the file",
        f"asgi_apps[2] (dependencies): source.path: the link {escaping}/passwords points out of the source",
        "asgi_apps[3] (git-tag): source.version: found 'v999', which is no tag, branch or commit",
        "asgi_apps[4] (git-branch): source.version: found 'no/such', which is no tag, branch or commit",
        f"asgi_apps[5] (git-commit): source.version: found '{'0123456789' * 4}', which is no",
        "asgi_apps[6] (git-annotated): source.git: git: ",
    )
    assert play.changed == 0


def test_builds_that_fail(untouched: World) -> None:
    place = untouched.place
    wrong = {}
    for name in ("uvlock", "pylock"):
        file = "uv.lock" if name == "uvlock" else "pylock.toml"
        text = (place / name / file).read_text(encoding="utf-8")
        files = {file: workshop.with_wrong_hashes(text)}
        if name == "uvlock":
            files["pyproject.toml"] = (place / name / "pyproject.toml").read_text(encoding="utf-8")
        wrong[name] = {"path": str(workshop.tree(place / f"wrong-{name}", files))}
    hashed = f"six==1.16.0 --hash=sha256:{'0123456789abcdef' * 4}\n"
    broken = workshop.project(place / "broken", "broken", "1")
    backend = [
        "[build-system]",
        "requires = []",
        'build-backend = "no.such"',
        "[project]",
        'name = "broken"',
        'version = "1"',
    ]
    workshop.write(broken, {"pyproject.toml": "\n".join(backend)})
    unsolvable = {"requirements.txt": "itsdangerous==2.1.2\nitsdangerous==2.2.0\n"}
    apps = [
        untouched.but("uvlock", source=wrong["uvlock"]),
        untouched.but("pylock", source=wrong["pylock"]),
        untouched.but("plain", source={"path": str(workshop.tree(place / "hashed", {"requirements.txt": hashed}))}),
        untouched.but("named", requirements="deploy/none.txt"),
        untouched.but("dependencies", source={"path": str(workshop.tree(place / "unsolvable", unsolvable))}),
        untouched.but("index", source={"package": "fastapi==0.0.99999"}),
        untouched.but("wheel", source={"package": "no-such-package-4f1d0c7e52a9==1"}),
        untouched.but("project", source={"path": str(broken)}),
        untouched.but("git-commit", hooks={"build": ["echo out; echo err >&2", "echo the shelf is empty >&2; exit 7"]}),
    ]
    play = untouched.site(*apps)
    *_others, hook = told(
        play,
        "uvlock: requirements: uv: ",
        "pylock: requirements: uv: ",
        "plain: requirements: uv: ",
        "named: requirements: found no file deploy/none.txt in the source",
        "dependencies: requirements: uv: ",
        "index: source.package: uv: ",
        "wheel: source.package: uv: ",
        "project: source: uv: ",
        "git-commit: hooks.build: ",
    )
    assert "ended with status 7" in hook
    said = play.output
    assert len(re.findall(r"Hash mismatch", said)) >= 3, said
    assert "because you require itsdangerous==2.1.2 and itsdangerous==2.2.0" in " ".join(said.split()).lower(), said
    assert "fastapi==0.0.99999" in said
    assert "no-such-package-4f1d0c7e52a9 was not found" in " ".join(said.split()), said
    assert "the shelf is empty" in said.replace("echo the shelf is empty", "")
    # The errors, and neither uv's progress nor the whole plan beside each.
    assert "Using Python" not in said
    assert "source_dir" not in said
    # Each of them is red.
    assert len(re.findall(r"^failed: ", said, re.M)) == len(apps), said
    assert play.changed == 0


def test_releases_that_fail(unharmed: World) -> None:
    """What comes with a build, but does not serve; also where nothing was live before."""
    raising = workshop.tree(unharmed.place / "raising", {"requirements.txt": ""})
    text = workshop.application("raising") + '\nraise ValueError("the shelf is empty")\n'
    workshop.write(raising, {"main.py": text})
    unharmed.declare("broken", unharmed.apps["plain"]["source"], app="none:app")
    apps = [
        unharmed.but("plain", app="shop.main:app"),
        unharmed.but("git-tag", app="main:application"),
        unharmed.but("git-annotated", source={"path": str(raising)}),
        unharmed.but("dependencies", app="main:MARK"),
        unharmed.apps.pop("broken"),
    ]
    play = unharmed.site(*apps)
    told(
        play,
        "plain: app: 'shop.main:app' cannot be imported: ModuleNotFoundError: No module named 'shop'",
        "git-tag: app: 'main:application' cannot be imported: ",
        "git-annotated: app: 'main:app' cannot be imported: ValueError: the shelf is empty",
        "dependencies: app: 'main:MARK' ",
        "broken: app: 'none:app' cannot be imported: ModuleNotFoundError: No module named 'none'",
    )
    # Each of them was tried.
    assert len(re.findall(r"^failed: ", play.output, re.M)) == len(apps), play.output
    live = {name: release for name, (release, _pid) in unharmed.pointers().items()}
    for app in apps:
        name = str(app["name"])
        last = unharmed.stack.about(name, unharmed.stack.releases(name)[-1])
        assert last["state"] == "failed"
        assert "live_at" not in last
        # What failed is stopped.
        assert unharmed.stack.running(name) == ({live[name]} if name in live else set())
    # Nothing was ever live of this one: it has no site.
    with pytest.raises(ConnectionError):
        ask(unharmed.host, "broken.test", "/", tls=False)


def remains(world: World, name: str) -> str:
    """Return what is on the host of an application: files, units and its user."""
    script = f"""
        find / -xdev -path /proc -prune -o -path /sys -prune -o -name 'asgi-{name}*' -print
        find /run -name 'asgi-{name}*' -o -path '/run/asgi/{name}*'
        ls -d /srv/asgi/{name} /var/lib/asgi/{name} /var/cache/asgi/{name} /var/log/asgi/{name} 2>/dev/null || true
        ls /etc/nginx/asgi/live/sites | grep -x '{name}.conf' || true
        systemctl list-units --all --plain --no-legend 'asgi-{name}*' '*-{name}-*'
        getent passwd asgi-{name} || true
    """
    return world.host.sh(script)


def test_absent_removes_what_never_became_live(unharmed: World) -> None:
    assert "/srv/asgi/broken" in remains(unharmed, "broken")
    assert unharmed.site({"name": "broken", "state": "absent"}).must().changed
    assert remains(unharmed, "broken") == ""


# --- the next run ----------------------------------------------------------------------------------------------------


def test_moved_branch_is_deployed_and_nothing_else(served: World) -> None:
    """What failed before is declared right again, which is nothing to do."""
    before = served.pointers()
    served.repository.commit("fourth")
    names = ["git-tag", "git-annotated", "git-branch", "git-commit", "plain", "dependencies", "named"]
    # One that never was is absent already.
    play = served.site(*(served.apps[name] for name in names), {"name": "never", "state": "absent"}).must()
    after = served.pointers()
    assert served.about("git-branch")["mark"] == "fourth"
    assert {name for name in after if after[name] != before.get(name)} == {"git-branch"}
    # Its build and its release.
    assert play.changed == 2


def test_installed_collection_finds_nothing_to_change(served: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the checkout deployed is what the installed collection would, down to the ids: so it does nothing."""
    before = served.pointers()
    names = ["git-branch", "index", "wheel", "sdist", "plain", "project", "uvlock", "pylock"]
    # This writes the inventory.
    served.site(*(served.apps[name] for name in names), options=("--list-hosts",)).must()
    inventory = served.stack.directory / f"inventory-{served.stack.count}.json"
    place = tmp_path_factory.mktemp("elsewhere")
    environment = driver.environment(ANSIBLE_COLLECTIONS_PATH=str(place / "collections"))

    def run(*command: str) -> str:
        done = subprocess.run(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=driver.PLAY_BOUND,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    run("ansible-galaxy", "collection", "build", "--output-path", str(place), str(driver.PROJECT))
    (artifact,) = place.glob("asgi-stack-*.tar.gz")
    with tarfile.open(artifact) as packed:
        packs = {name.split("/")[0] for name in packed.getnames()}
    assert not {name for name in packs if name.startswith(".")} | packs & {"molecule", "tests", "dev", "ansible.cfg"}
    run("ansible-galaxy", "collection", "install", "--offline", "-p", str(place / "collections"), str(artifact))
    output = run("ansible-playbook", "asgi.stack.site", "--inventory", str(inventory))
    assert str(driver.PROJECT) not in output
    assert " changed=0 " in output, output
    assert served.pointers() == before


# --- an index of one's own -------------------------------------------------------------------------------------------


@dataclass
class Index:
    """A package index on the host."""

    process: subprocess.Popen[str]
    port: int

    def variables(self, password: str = PASSWORD, **more: Any) -> dict[str, Any]:
        """Return the variables that have it used."""
        address = {"python_index_url": f"http://127.0.0.1:{self.port}/simple/"}
        return {**address, "python_index_username": USERNAME, "python_index_password": password, **more}

    def end(self) -> list[str]:
        """Stop it and return what it noticed."""
        output, _none = self.process.communicate(timeout=30)
        return output.splitlines()


@pytest.fixture(scope="module")
def index(served: World) -> Iterator[Index]:
    """An index that has what the server consists of, uv, and a package that no other index has."""
    host, place = served.host, "/var/lib/test-index"
    host.sh(f"rm -rf {place} && mkdir -p {place}/wheels && python3 -m venv {place}/venv")
    frozen = host.read("/srv/asgi/dependencies/live/build/packages.txt") or ""
    wanted = [line for line in frozen.splitlines() if "==" in line and not line.startswith("itsdangerous")]
    uv = host.sh("ls /opt/asgi/bin").split("-")[-1]
    download = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", f"{place}/wheels"]
    environment = ["env", "PIP_CERT=/etc/ssl/certs/ca-certificates.crt"]
    host.out(*environment, f"{place}/venv/bin/python", *download, f"uv=={uv}", *wanted, seconds=300)
    (wheel,) = workshop.built(workshop.project(served.place / "private", "privatething", "1.0"), "wheel")
    subprocess.run(["docker", "cp", "--quiet", str(wheel), f"{host.name}:{place}/wheels/"], check=True)
    host.write(f"{place}/index.py", (Path(__file__).parents[1] / "host/index.py").read_text(encoding="utf-8"))
    process = subprocess.Popen(
        ["docker", "exec", "--interactive", host.name, "python3", f"{place}/index.py", f"{place}/wheels"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{PASSWORD}\n")
    process.stdin.flush()
    yield Index(process, int(process.stdout.readline()))
    if process.poll() is None:
        process.communicate(timeout=30)


def private(served: World, version: str) -> dict[str, Any]:
    """Declare the application that only that index has."""
    served.declare("private", {"package": f"privatething=={version}"}, app="privatething.main:app")
    return served.apps.pop("private")


def leaks(text: str) -> list[str]:
    """Return the forms of the password that are in *text*, each with what stands around it."""
    places = [(form, text.find(form)) for form in FORMS]
    return [f"{form}: {text[max(0, at - 300) : at + 300]}" for form, at in places if at >= 0]


def test_private_index_serves_with_the_password_which_is_nowhere(unharmed: World, index: Index) -> None:
    host = unharmed.host
    # With a place of its own, uv too comes from that index.
    elsewhere = {"python_uv_directory": "/opt/asgi/private"}

    wrong = unharmed.site(private(unharmed, "1.0"), variables=index.variables("wrong-4f1d0c7e", **elsewhere))
    told(wrong, "uv ")
    assert host.run("ls", "/opt/asgi/private").stdout == ""
    denied = unharmed.site(private(unharmed, "1.0"), variables=index.variables("wrong-4f1d0c7e"), options=("-vvv",))
    told(denied, "private: source.package: uv: ")
    assert "401" in denied.output
    for play in (wrong, denied):
        assert "wrong-4f1d0c7e" not in play.output

    variables = index.variables(**elsewhere)
    play = unharmed.site(private(unharmed, "1.0"), variables=variables, options=("-vvv", "--diff")).must()
    assert unharmed.about("private")["mark"] == "privatething 1.0"
    live = unharmed.stack.live("private")["release"]
    failing = unharmed.site(private(unharmed, "9.9"), variables=variables, options=("-vvv", "--diff"))
    told(failing, "private: source.package: uv: ")
    assert "privatething==9.9" in failing.output
    assert unharmed.stack.live("private")["release"] == live

    for run in (play, failing):
        assert leaks(run.output) == []
    assert leaks(host.out("journalctl", "--boot", "--all", "--output", "verbose", seconds=120)) == []
    noticed = index.end()
    assert [line for line in noticed if "command line" in line] == []
    assert [line for line in noticed if "found a wrong one" in line]
    # No file holds it, on any file system that lasts or not.
    forms = "\n".join((*FORMS, "wrong-4f1d0c7e"))
    search = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "--devices=skip", "--no-messages"]
    places = ["/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var"]
    host.write("/dev/shm/hay", PASSWORD)
    try:
        found = host.run(*search, "--file", "-", *places, "/dev/shm", text=forms, seconds=120)
    finally:
        host.run("rm", "/dev/shm/hay")
    # The one that was put there shows that the search finds it.
    assert found.stdout.split() == ["/dev/shm/hay"]

    absent = unharmed.site({"name": "private", "state": "absent"}).must()
    assert absent.changed
