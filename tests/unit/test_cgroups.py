"""Hierarchies as they are mounted, and limits as they are written: without root."""

from pathlib import Path

import pytest
from attrs import evolve

from jobs_proto.errors import JobsError
from jobs_proto.job import Limits, parse_cpuset
from jobs_supervisor.cgroups import Tree, disk_of, given_places, own_places, survey
from jobs_supervisor.limits import grant, of_disk
from jobs_supervisor.users import find_user

UNIFIED_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
CONTAINERS_MOUNT = UNIFIED_MOUNT.replace(" / ", " /docker/1 ", 1)
HYBRID_MOUNTS = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
ALL = ("cpu", "memory", "pids", "io", "cpuset")
ROOT = find_user("root")
STRANGER = evolve(find_user("nobody"), uid=54321, gid=54321, groups=())
EVERYTHING = Limits(
    cpus=0.5, cpuset="0", memory_bytes=64 << 20, swap_bytes=0, pids=50, io_write_bps=10 << 20
)


def unified(*absent):
    there = {name: (Path("/cg/jobs-x"),) for name in ALL if name not in absent}
    swap = {} if "memory" in absent else {"swap": ()}
    return Tree(
        unified=True,
        track=Path("/cg/jobs-x"),
        controllers=there | swap,
        missing=dict.fromkeys(absent, "it was not handed on; set Delegate=yes"),
    )


def hybrid():
    v1 = {"cpu": ("cpu", "cpuacct"), "io": ("blkio",)}
    paths = {name: tuple(Path(f"/cg/{n}/jobs-x") for n in v1.get(name, (name,))) for name in ALL}
    return Tree(track=Path("/cg/unified/jobs-x"), controllers=paths | {"swap": ()})


@pytest.mark.parametrize(
    ("mounts", "membership", "places"),
    [
        (UNIFIED_MOUNT, "0::/\n", {"": "/sys/fs/cgroup"}),
        (
            UNIFIED_MOUNT,
            "0::/system.slice/jobs.service\n",
            {"": "/sys/fs/cgroup/system.slice/jobs.service"},
        ),
        (
            HYBRID_MOUNTS,
            "5:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/\n",
            {
                "cpu": "/sys/fs/cgroup/cpu,cpuacct",
                "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
                "memory": "/sys/fs/cgroup/memory/a/b",
                "name=systemd": "/sys/fs/cgroup/systemd",
                "": "/sys/fs/cgroup/unified",
            },
        ),
        # A container's view: its own cgroup is the root of what is mounted.
        (
            UNIFIED_MOUNT.replace(" / ", " /docker/1 ", 1),
            "0::/docker/1/x\n",
            {"": "/sys/fs/cgroup/x"},
        ),
        # What is mounted is not above us: nothing of it is ours.
        (CONTAINERS_MOUNT, "0::/docker/2\n", {}),
        ("", "0::/\n", {}),
    ],
)
def test_our_own_place_in_each_hierarchy(mounts, membership, places):
    assert own_places(mounts, membership) == {name: Path(path) for name, path in places.items()}


def mounted(directory, kind, *options):
    return f"31 23 0:28 / {directory} rw - {kind} {kind} {','.join(('rw', *options))}\n"


def test_a_given_cgroup_is_used_wherever_it_is(tmp_path):
    """On a hybrid host under systemd it may be missing in v1 hierarchies."""
    for name in ("unified/a/b", "memory/a/b", "pids/own"):
        (tmp_path / name).mkdir(parents=True)
    mounts = mounted(tmp_path / "unified", "cgroup2")
    mounts += mounted(tmp_path / "memory", "cgroup", "memory")
    mounts += mounted(tmp_path / "pids", "cgroup", "pids")
    membership = "5:memory:/own\n4:pids:/own\n0::/own\n"
    assert given_places(mounts, membership, "/a/b") == {
        "": tmp_path / "unified/a/b",
        "memory": tmp_path / "memory/a/b",
    }


def test_a_given_cgroup_that_is_not_there_is_refused():
    with pytest.raises(JobsError, match=r"no cgroup /no/such .* jobs-shims\.service") as refused:
        survey("jobs-x", "/no/such")
    assert refused.value.code == "failed_precondition"


def test_v2_limits_are_files_of_one_directory():
    plan = unified().plan("id", EVERYTHING, "8:0")
    assert plan["unified"]
    ((hierarchy, path, values),) = plan["directories"]
    assert (hierarchy, path) == ("", "/cg/jobs-x/id")
    assert dict(values) == {
        "cpu.max": "50000 100000",
        "cpuset.cpus": "0",
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "pids.max": "50",
        "io.max": f"8:0 wbps={10 << 20}",
    }


def test_v1_limits_are_files_of_a_directory_each_beside_the_v2_one():
    plan = hybrid().plan("id", EVERYTHING, "8:0")
    assert not plan["unified"]
    (first, *others) = plan["directories"]
    assert first == ["", "/cg/unified/jobs-x/id", []]
    by_name = {name: (path, dict(values)) for name, path, values in others}
    assert set(by_name) == {"cpu", "cpuacct", "memory", "pids", "blkio", "cpuset"}
    assert by_name["cpu"][1] == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}
    assert by_name["memory"][1] == {
        "memory.limit_in_bytes": str(64 << 20),
        "memory.memsw.limit_in_bytes": str(64 << 20),
    }
    assert by_name["blkio"] == (
        "/cg/blkio/jobs-x/id",
        {"blkio.throttle.write_bps_device": f"8:0 {10 << 20}"},
    )


def test_a_v1_job_without_limits_is_only_where_its_use_is_counted():
    names = [name for name, _, _ in hybrid().plan("id", Limits(), None)["directories"]]
    assert names == ["", "cpu", "cpuacct", "memory", "pids"]


def test_a_host_without_cgroups_gives_no_plan():
    assert Tree().plan("id", Limits(), None) is None


@pytest.mark.parametrize(
    ("limits", "controller"),
    [
        (Limits(memory_bytes=64 << 20), "memory"),
        (Limits(cpus=0.5), "cpu"),
        (Limits(pids=50), "pids"),
        (Limits(cpuset="0"), "cpuset"),
        (Limits(io_read_iops=100), "io"),
    ],
)
def test_a_missing_controller_is_named_with_what_to_do(limits, controller):
    with pytest.raises(JobsError) as refused:
        grant(limits, Limits(), Limits(), unified(controller))
    assert refused.value.code == "failed_precondition"
    assert f"needs the {controller} controller" in refused.value.message
    assert "Delegate=yes" in refused.value.message
    assert "--limits best-effort" in refused.value.message


def test_best_effort_leaves_out_what_cannot_be_and_notes_it():
    asked = Limits(memory_bytes=64 << 20, pids=50, enforcement="best-effort")
    granted = grant(asked, Limits(), Limits(), unified("memory"))
    assert granted.limits.memory_bytes is None
    assert granted.limits.pids == 50
    assert len(granted.notes) == 1
    assert "memory" in granted.notes[0]


def test_defaults_fill_in_and_are_dropped_where_they_cannot_be():
    default = Limits(pids=100, memory_bytes=1 << 30)
    granted = grant(Limits(pids=7), default, Limits(), unified()).limits
    assert not of_disk(granted)
    assert (granted.pids, granted.memory_bytes, granted.swap_bytes) == (7, 1 << 30, 0)
    assert grant(Limits(), default, Limits(), Tree()).limits == Limits()


def test_a_maximum_is_a_default_that_nobody_exceeds():
    maximum = Limits(memory_bytes=1 << 30)
    assert grant(Limits(), Limits(), maximum, unified()).limits.memory_bytes == 1 << 30
    with pytest.raises(JobsError, match="more than this supervisor allows"):
        grant(Limits(memory_bytes=2 << 30), Limits(), maximum, unified())


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(cpus=100_000), "more than this host has"),
        (Limits(memory_bytes=1 << 60), "more than this host has"),
        (Limits(pids=1 << 40), "more than this host has"),
        (Limits(cpuset="8000"), "has no CPU 8000"),
        (Limits(nofile=1 << 40), "more than the supervisor's own"),
    ],
)
def test_limits_that_this_host_cannot_have(limits, why):
    with pytest.raises(JobsError) as refused:
        grant(limits, Limits(), Limits(), hybrid())
    assert refused.value.code == "invalid_argument"
    assert why in refused.value.message


@pytest.mark.parametrize(
    ("path", "why"), [("/nowhere", "no device for /nowhere"), ("/proc", "no disk behind /proc")]
)
def test_a_path_that_has_no_disk(path, why):
    with pytest.raises(JobsError) as refused:
        disk_of(path, ROOT)
    assert refused.value.code == "invalid_argument"
    assert why in refused.value.message


@pytest.mark.parametrize(
    "fault",
    [
        {"cpus": 0}, {"cpus": -1}, {"cpus": float("nan")}, {"memory_bytes": 0},
        {"memory_bytes": -5},
        {"swap_bytes": -1}, {"pids": 0}, {"pids": -3}, {"io_read_bps": 0}, {"io_write_iops": -1},
        {"nofile": 0}, {"cpuset": ""}, {"cpuset": "2-1"}, {"cpuset": "a"}, {"cpuset": "1,,2"},
        {"cpuset": "²"}, {"cpuset": "0-8191," * 1_000_000}, {"enforcement": "sometimes"},
    ],
)  # fmt: skip
def test_limits_that_make_no_sense_anywhere(fault):
    with pytest.raises(ValueError):
        Limits(**fault)


def test_a_list_of_cpus():
    assert parse_cpuset("0-2,4") == {0, 1, 2, 4}


def test_a_path_stands_for_the_whole_disk():
    name = disk_of("/etc/passwd", ROOT) if _has_disk("/etc") else None
    if name is None:
        pytest.skip("the root file system is on no disk of this host (a container, perhaps)")
    assert not Path("/sys/dev/block", name, "partition").exists()


def _has_disk(path):
    try:
        disk_of(path, ROOT)
    except JobsError:
        return False
    return True


def test_what_a_user_cannot_reach_is_not_told_from_what_is_not_there(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").touch()
    (closed / "link").symlink_to("/etc/passwd")
    said = set()
    for name in ("file", "link", "absent"):
        with pytest.raises(JobsError) as refused:
            disk_of(str(closed / name), STRANGER)
        said.add(refused.value.message.replace(name, "NAME"))
    assert len(said) == 1
