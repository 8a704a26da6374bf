# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Capacity, read from small trees of files as kernels of each kind show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.asgi.stack.plugins.module_utils import _capacity

GIB = 1024**3
UNLIMITED_V1 = "9223372036854771712\n"
MEMINFO = (
    "MemTotal:        4194304 kB\nMemFree:          524288 kB\nMemAvailable:    3145728 kB\nHugePages_Total:       0\n"
)
V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "30 23 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "31 30 0:28 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:29 {root} /sys/fs/cgroup/memory rw shared:6 - cgroup cgroup rw,memory\n"
    "33 30 0:30 {root} /sys/fs/cgroup/cpuset rw shared:7 - cgroup cgroup rw,cpuset\n"
    "34 30 0:31 {root} /sys/fs/cgroup/systemd rw shared:8 - cgroup cgroup rw,name=systemd\n"
)
UNIFIED = "35 30 0:32 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write *files* below *root*, with a meminfo and four CPUs unless they say otherwise."""
    defaults = {"proc/meminfo": MEMINFO, "sys/devices/system/cpu/online": "0-3\n"}
    for name, text in {**defaults, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def read(root: Path, files: dict[str, str], cpus: int = 4) -> dict[str, object]:
    return _capacity.capacity(set(range(cpus)), tree(root, files))


def below(directory: str, files: dict[str, str]) -> dict[str, str]:
    return {f"sys/fs/cgroup/{directory}/{name}": text for name, text in files.items()}


def test_a_bare_vm_has_what_the_hardware_has(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": "0::/init.scope\n",
            "proc/self/cgroup": "0::/user.slice/user-0.slice/session-3.scope\n",
            "proc/self/mountinfo": V2,
            # The top of the real hierarchy has no limit files.
            **below(".", {"cpuset.cpus.effective": "0-3\n", "memory.stat": "anon 100\n"}),
            **below("init.scope", {"memory.max": "67108864\n", "cpu.max": "10000 100000\n"}),
            **below("system.slice", {"cpu.max": "max 100000\n", "memory.max": "max\n", "memory.high": "max\n"}),
        },
    )
    assert found == {
        "cpus": 4.0,
        "cpus_from": "all CPUs of the host",
        "cpus_total": 4,
        "cpus_affinity": 4,
        "cpus_cpuset": 4,
        "cpus_quota": None,
        "memory": 4 * GIB,
        "memory_from": "MemTotal of the host",
        "memory_total": 4 * GIB,
        "memory_limit": None,
        "memory_available": 3 * GIB,
    }


def test_the_session_s_own_limits_do_not_count(tmp_path: Path) -> None:
    limits = {"cpu.max": "50000 100000\n", "memory.max": "268435456\n", "memory.current": "1048576\n"}
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": "0::/init.scope\n",
            "proc/self/cgroup": "0::/user.slice/user-0.slice/session-3.scope\n",
            "proc/self/mountinfo": V2,
            **below("user.slice", limits),
            **below("user.slice/user-0.slice", limits),
            **below("user.slice/user-0.slice/session-3.scope", limits),
            **below("system.slice", {"cpu.max": "max 100000\n", "memory.max": "max\n"}),
        },
    )
    assert (found["cpus"], found["memory"], found["memory_available"]) == (4.0, 4 * GIB, 3 * GIB)


@pytest.mark.parametrize(
    ("above", "slice_", "cpus", "cpus_from", "memory", "memory_from"),
    [
        (("300000 100000", "2147483648"), ("150000 100000", "1073741824"), 1.5, "system.slice", GIB, "system.slice"),
        (("150000 100000", "1073741824"), ("300000 100000", "2147483648"), 1.5, "machine.slice", GIB, "machine.slice"),
        (("max 100000", "1073741824"), ("25000 100000", "max"), 0.25, "system.slice", GIB, "machine.slice"),
    ],
    ids=["the slice is tighter", "an ancestor is tighter", "one each"],
)
def test_the_tightest_limit_of_all_levels_holds(
    tmp_path: Path,
    above: tuple[str, str],
    slice_: tuple[str, str],
    cpus: float,
    cpus_from: str,
    memory: int,
    memory_from: str,
) -> None:
    """Systemd in a container that sees the whole hierarchy: its cgroup is one level down."""
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": "0::/machine.slice/box.scope/init.scope\n",
            "proc/self/mountinfo": V2,
            **below("machine.slice", {"cpu.max": above[0], "memory.max": above[1]}),
            **below("machine.slice/box.scope", {"cpu.max": "max 100000", "memory.max": "max"}),
            **below("machine.slice/box.scope/system.slice", {"cpu.max": slice_[0], "memory.max": slice_[1]}),
            **below("system.slice", {"cpu.max": "1000 100000", "memory.max": "1048576"}),
        },
    )
    assert (found["cpus"], found["memory"]) == (cpus, memory)
    assert str(found["cpus_from"]).startswith("cpu.max of /machine.slice")
    assert str(found["cpus_from"]).endswith(cpus_from)
    assert str(found["memory_from"]).endswith(memory_from)


def test_memory_high_is_a_limit(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": "0::/init.scope\n",
            "proc/self/mountinfo": V2,
            **below("system.slice", {"memory.max": "2147483648\n", "memory.high": "1073741824\n"}),
        },
    )
    assert (found["memory"], found["memory_from"]) == (GIB, "memory.high of /system.slice")


def test_available_memory_is_within_the_limit(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": "0::/init.scope\n",
            "proc/self/mountinfo": V2,
            **below(
                "system.slice",
                {
                    "memory.max": f"{GIB}\n",
                    "memory.current": f"{GIB * 3 // 4}\n",
                    "memory.stat": f"anon 1\ninactive_file {GIB // 4}\n",
                },
            ),
        },
    )
    assert (found["memory"], found["memory_available"]) == (GIB, GIB // 2)


def v1(limits: dict[str, str] | None = None) -> dict[str, str]:
    """Return the files of one cgroup on version 1, by controller."""
    files = {
        "cpu,cpuacct/{}/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/{}/cpu.cfs_period_us": "100000\n",
        "memory/{}/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/{}/memory.usage_in_bytes": "1048576\n",
        "memory/{}/memory.stat": f"cache 0\nhierarchical_memory_limit {UNLIMITED_V1}total_inactive_file 0\n",
        "cpuset/{}/cpuset.cpus": "0-3\n",
        "cpuset/{}/cpuset.effective_cpus": "0-3\n",
    }
    return {**files, **(limits or {})}


def at(path: str, files: dict[str, str]) -> dict[str, str]:
    return {f"sys/fs/cgroup/{name.format(path)}": text for name, text in files.items()}


PID1_V1 = "5:cpuset:/\n4:memory:{0}\n3:cpu,cpuacct:{0}\n1:name=systemd:/init.scope\n"


def test_version_1_without_limits(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {"proc/1/cgroup": PID1_V1.format("/"), "proc/self/mountinfo": V1.format(root="/"), **at(".", v1())},
    )
    assert (found["cpus"], found["cpus_quota"]) == (4.0, None)
    assert (found["memory"], found["memory_limit"]) == (4 * GIB, None)


def test_version_1_with_limits_of_system_slice(tmp_path: Path) -> None:
    limits = {"cpu,cpuacct/{}/cpu.cfs_quota_us": "150000\n", "memory/{}/memory.limit_in_bytes": f"{GIB}\n"}
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": PID1_V1.format("/"),
            "proc/self/mountinfo": V1.format(root="/"),
            **at(".", v1()),
            **at("system.slice", v1(limits)),
        },
    )
    assert (found["cpus"], found["cpus_from"]) == (1.5, "cpu.cfs_quota_us of /system.slice")
    assert (found["memory"], found["memory_from"]) == (GIB, "memory.limit_in_bytes of /system.slice")
    assert found["memory_available"] == GIB - 1048576


def test_version_1_container_where_the_mount_begins_at_the_container(tmp_path: Path) -> None:
    """Without a cgroup namespace the path is the host's, and the mount shows only what is below it."""
    limits = {"cpu,cpuacct/{}/cpu.cfs_quota_us": "200000\n", "memory/{}/memory.limit_in_bytes": f"{2 * GIB}\n"}
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": PID1_V1.format("/docker/0123abc"),
            "proc/self/mountinfo": V1.format(root="/docker/0123abc"),
            **at(".", v1(limits)),
            **at("system.slice", v1({"memory/{}/memory.limit_in_bytes": f"{GIB}\n"})),
        },
    )
    assert (found["cpus"], found["cpus_from"]) == (2.0, "cpu.cfs_quota_us of /")
    assert (found["memory"], found["memory_from"]) == (GIB, "memory.limit_in_bytes of /system.slice")


def test_version_1_container_that_sees_the_whole_hierarchy(tmp_path: Path) -> None:
    limits = {"cpu,cpuacct/{}/cpu.cfs_quota_us": "50000\n", "memory/{}/memory.limit_in_bytes": f"{GIB}\n"}
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": PID1_V1.format("/docker/0123abc/init.scope"),
            "proc/self/mountinfo": V1.format(root="/"),
            **at(".", v1()),
            **at("docker/0123abc", v1(limits)),
            **at("docker/other", v1({"memory/{}/memory.limit_in_bytes": "1048576\n"})),
        },
    )
    assert (found["cpus"], found["memory"]) == (0.5, GIB)
    assert found["memory_from"] == "memory.limit_in_bytes of /docker/0123abc"


def test_version_1_limit_of_an_ancestor_that_is_not_mounted(tmp_path: Path) -> None:
    stat = f"cache 0\nhierarchical_memory_limit {GIB}\n"
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": PID1_V1.format("/"),
            "proc/self/mountinfo": V1.format(root="/pod/box"),
            **at(".", v1({"memory/{}/memory.stat": stat})),
        },
    )
    assert (found["memory"], found["memory_from"]) == (GIB, "hierarchical_memory_limit of /")


def test_hybrid_reads_each_controller_where_it_is(tmp_path: Path) -> None:
    limits = {"cpu,cpuacct/{}/cpu.cfs_quota_us": "250000\n", "memory/{}/memory.limit_in_bytes": f"{GIB}\n"}
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": PID1_V1.format("/") + "0::/init.scope\n",
            "proc/self/mountinfo": V1.format(root="/") + UNIFIED,
            **at(".", v1()),
            **at("system.slice", v1(limits)),
            # Controllers are on version 1, so this would be a lie.
            **below("unified/system.slice", {"cpu.max": "1000 100000\n", "memory.max": "4096\n"}),
        },
    )
    assert (found["cpus"], found["memory"]) == (2.5, GIB)


def test_a_controller_that_only_version_2_has_is_read_there(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": "4:memory:/\n0::/init.scope\n",
            "proc/self/mountinfo": "32 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" + UNIFIED,
            **below("unified/system.slice", {"cpu.max": "100000 100000\n", "memory.max": "4096\n"}),
            **at(".", {"memory/{}/memory.limit_in_bytes": f"{GIB}\n"}),
        },
    )
    assert (found["cpus"], found["memory"]) == (1.0, GIB)


@pytest.mark.parametrize("path", ["/", "/init.scope"])
def test_a_container_with_a_cgroup_namespace_is_limited_at_its_top(tmp_path: Path, path: str) -> None:
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": f"0::{path}\n",
            "proc/self/mountinfo": V2,
            **below(".", {"cpu.max": "150000 100000\n", "memory.max": f"{GIB}\n", "cpuset.cpus.effective": "0-3\n"}),
        },
    )
    assert (found["cpus"], found["cpus_from"]) == (1.5, "cpu.max of /")
    assert (found["memory"], found["memory_from"]) == (GIB, "memory.max of /")


def test_a_cpuset_counts_with_affinity(tmp_path: Path) -> None:
    files = {
        "proc/1/cgroup": "0::/init.scope\n",
        "proc/self/mountinfo": V2,
        **below(".", {"cpuset.cpus.effective": "0-3\n"}),
        **below("system.slice", {"cpuset.cpus.effective": "1-2\n"}),
    }
    found = read(tmp_path, files)
    assert (found["cpus"], found["cpus_cpuset"]) == (2.0, 2)
    assert found["cpus_from"] == "cpuset.cpus.effective of /system.slice"

    overlapping = _capacity.capacity({2, 3}, tmp_path)
    assert (overlapping["cpus"], overlapping["cpus_affinity"]) == (1.0, 2)
    assert overlapping["cpus_from"] == "affinity of process 1 and cpuset.cpus.effective of /system.slice"


def test_a_version_1_cpuset_counts(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": "5:cpuset:/docker/0123abc\n",
            "proc/self/mountinfo": V1.format(root="/docker/0123abc"),
            **at(".", v1({"cpuset/{}/cpuset.effective_cpus": "3\n"})),
        },
    )
    assert (found["cpus"], found["cpus_from"]) == (1.0, "cpuset.effective_cpus of /")


def test_affinity_alone_counts(tmp_path: Path) -> None:
    found = read(tmp_path, {"proc/1/cgroup": "0::/\n", "proc/self/mountinfo": V2}, cpus=2)
    assert (found["cpus"], found["cpus_from"]) == (2.0, "affinity of process 1")


def test_a_quota_above_the_cpus_changes_nothing(tmp_path: Path) -> None:
    files = {
        "proc/1/cgroup": "0::/\n",
        "proc/self/mountinfo": V2,
        **below("system.slice", {"cpu.max": "800000 100000\n", "memory.max": f"{64 * GIB}\n"}),
    }
    found = read(tmp_path, files)
    assert (found["cpus"], found["cpus_quota"]) == (4.0, 8.0)
    assert (found["memory"], found["memory_from"]) == (4 * GIB, "MemTotal of the host")


def test_an_unreadable_process_1_means_the_tops_of_the_mounts(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice\n",
            "proc/self/mountinfo": V2,
            **below(".", {"memory.max": f"{3 * GIB}\n"}),
            **below("user.slice", {"memory.max": "1048576\n"}),
            **below("system.slice", {"cpu.max": "100000 100000\n"}),
        },
    )
    assert (found["cpus"], found["memory"]) == (1.0, 3 * GIB)


def test_an_unreadable_process_1_means_the_tops_of_the_mounts_on_version_1_too(tmp_path: Path) -> None:
    limits = {"memory/{}/memory.limit_in_bytes": f"{3 * GIB}\n"}
    found = read(tmp_path, {"proc/self/mountinfo": V1.format(root="/docker/0123abc"), **at(".", v1(limits))})
    assert (found["memory"], found["memory_from"]) == (3 * GIB, "memory.limit_in_bytes of /")


def test_of_several_mounts_the_one_with_the_most_ancestors_is_read(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "proc/1/cgroup": "0::/pod/box/init.scope\n",
            "proc/self/mountinfo": "28 23 0:26 /pod/box /mnt/own rw - cgroup2 cgroup2 rw\n" + V2,
            "mnt/own/memory.max": f"{2 * GIB}\n",
            **below("pod/box", {"memory.max": f"{2 * GIB}\n"}),
            **below("pod", {"memory.max": f"{GIB}\n"}),
        },
    )
    assert (found["memory"], found["memory_from"]) == (GIB, "memory.max of /pod")


def test_a_host_without_cgroups_has_no_limits(tmp_path: Path) -> None:
    found = read(tmp_path, {})
    assert (found["cpus"], found["memory"]) == (4.0, 4 * GIB)


def test_a_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    files = {"proc/1/cgroup": "0::/\n", "proc/self/mountinfo": V2.replace("/sys/fs/cgroup", r"/mnt/c\040g")}
    found = read(tmp_path, {**files, "mnt/c g/cpu.max": "100000 100000\n"})
    assert found["cpus"] == 1.0


@pytest.mark.parametrize("meminfo", ["", "MemFree: 1 kB\n", "MemTotal: many kB\n"])
def test_a_host_that_does_not_tell_its_memory_is_an_error(tmp_path: Path, meminfo: str) -> None:
    with pytest.raises(ValueError, match="MemTotal"):
        read(tmp_path, {"proc/meminfo": meminfo})


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3\n", {0, 1, 2, 3}), ("0,2-3,8", {0, 2, 3, 8}), ("5", {5}), ("\n", set())]
)
def test_cpu_lists(text: str, cpus: set[int]) -> None:
    assert _capacity.parse_cpus(text) == cpus
