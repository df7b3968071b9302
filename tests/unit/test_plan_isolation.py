"""Plans as data, and the filter as the kernel would run it; without root."""

import errno
import random
import re
import struct
from pathlib import Path

import pytest
from attrs import evolve

from jobs_proto.errors import JobsError
from jobs_proto.isolation import CAPABILITIES, Isolation, parse_bind, parse_tmpfs
from jobs_proto.job import Job, Spec
from jobs_proto.methods import Run
from jobs_proto.wire import structure, unstructure
from jobs_shim import mounts
from jobs_supervisor import isolation, seccomp
from jobs_supervisor.cgroups import Tree
from jobs_supervisor.config import JobSettings, ServerSettings, Settings
from jobs_supervisor.host import Host
from jobs_supervisor.isolation import Walls
from jobs_supervisor.plan import describe, explain, make_plan
from jobs_supervisor.users import User, user_of

DOCUMENT = (Path(__file__).parents[2] / "supervisor/ISOLATION.md").read_text()

ALL = (1 << len(CAPABILITIES)) - 1
NOBODY = User("nobody", 65534, 65534, (65534,), "/nonexistent", "/bin/sh")
ROOT = User("root", 0, 0, (0,), "/root", "/bin/sh")
WALLS = Walls(mode="root", hidden=("/var/lib/jobs", "/etc/jobs"), capabilities=ALL)


def plan(user=NOBODY, walls=WALLS, **fields) -> dict[str, list]:
    spec = Spec(argv=("true",), isolation=Isolation(**fields))
    job = Job(id="12345678-rest", owner="alice", spec=spec, created_at="now")
    host = Host(mode=walls.mode, tree=Tree())
    return make_plan(
        job, user, host, walls, JobSettings(), cgroup=None, boot="b", secrets="/s/secrets"
    )


def leader(**options) -> list[list]:
    """Give all that the leader does, ahead of the job and for it."""
    found = plan(**options)
    return found["ahead"] + found["leader"]


def names(steps: list[list]) -> list[str]:
    return [step[0] for step in steps]


def step(steps: list[list], *start: object) -> list:
    (found,) = (each for each in steps if each[: len(start)] == list(start))
    return found


# -- order -----------------------------------------------------------------------------------


def test_what_must_come_before_what():
    steps = leader(binds=("/srv:/srv",), secrets=("a",), read_only=True)
    order = names(steps)
    for first, second in [
        ("secrets", "cover"),  # they lie in the state directory
        ("cover", "take"),  # a bind takes the covers along
        ("take", "read_only"),  # and is not read only itself
        ("read_only", "devices"),
        ("take", "devices"),  # the host's /dev and /tmp
        ("bounding", "user"),  # takes SETPCAP
        ("user", "capabilities"),
        ("capabilities", "no_new_privs"),
        ("user", "chdir"),
        ("no_new_privs", "seccomp"),
        ("chdir", "seccomp"),
        ("seccomp", "exec"),
    ]:
        assert order.index(first) < order.index(second), (first, second)
    assert steps.index(step(steps, "place", "proc")) < order.index("take")
    assert order[-2:] == ["seccomp", "exec"]


@pytest.mark.parametrize("mode", ["root", "userns", "none"])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"network": "none", "hostname": "box"},
        {"cap_add": ("NET_RAW",)},
        {"binds": ("/srv:/srv",)},
        {"rootfs": "/srv/root"},
        {"read_only": True},
        {"tmpfs": ("/data",)},
        {"secrets": ("a",)},
    ],
)
def test_nothing_is_mounted_after_the_filter_which_forbids_it(mode, asked):
    order = names(leader(walls=evolve(WALLS, mode=mode), **asked))
    after = order[order.index("seccomp") :]
    assert after[-1] == "exec"
    assert not {"mount", "unshare", *mounts.STEPS} & set(after)


def test_what_most_jobs_have_alike_is_done_ahead_of_them():
    one = plan()
    other = plan(user=ROOT, hostname="box")
    assert one["ahead"] == other["ahead"]
    assert names(one["ahead"])[-3:] == ["cover", "no_new_privs", "seccomp"]
    assert one["ahead"][-3] == ["cover", ["/var/lib/jobs", "/etc/jobs"]]
    order = ["sethostname", "rlimit", "bounding", "user", "capabilities", "chdir", "exec"]
    assert names(one["leader"]) == names(other["leader"]) == order


def test_what_is_the_jobs_own_is_not_covered():
    hidden = ("/dev/shm/x", "/proc/sys", "/srv/keys", "/sys", "/tmp", "/tmp/y", "/var/tmp")
    walls = evolve(WALLS, hidden=hidden)
    (covered,) = (
        each[1]
        for each in plan(walls=walls)["ahead"]
        if each[0] == "cover" and "/srv/keys" in each[1]
    )
    assert covered == ["/srv/keys", "/tmp/y"]


def test_mounts_within_mounts_come_later():
    steps = leader(tmpfs=("/data/deep/er", "/data"), binds=("/srv:/data/deep",))
    targets = [each[2] for each in steps if each[0] in ("bind", "place")]
    assert targets[-3:] == ["/data", "/data/deep", "/data/deep/er"]


def test_a_root_directory_is_prepared_outside_and_entered_last():
    steps = leader(rootfs="/srv/root", secrets=("a",))
    order = names(steps)
    assert order.index("take") < order.index("root") < order.index("devices") < order.index("pivot")
    assert step(steps, "take", "root") == ["take", "root", "/srv/root", [65534, 65534, [65534]]]
    assert "make_directory" not in order  # its /run is the job's own
    assert order.index("pivot") < order.index("user")


# -- what was asked for ----------------------------------------------------------------------


def test_defaults():
    steps = leader()
    assert names(steps)[:3] == ["umask", "unshare", "mount"]
    assert step(steps, "sethostname")[1] == "job-12345678-res"
    assert step(steps, "cover", ["/var/lib/jobs", "/etc/jobs"])
    assert step(steps, "seal", list(isolation.SEALED))
    assert step(steps, "place", "sysfs")[3] & isolation.MS_RDONLY
    assert step(steps, "bounding") == ["bounding", 0]
    assert step(steps, "capabilities") == ["capabilities", 0, True]


def test_network_and_hostname():
    steps = leader(network="none", hostname="box")
    assert step(steps, "unshare")[1] & 0x40000000
    assert ["loopback"] in steps
    assert ["sethostname", "box"] in steps


def test_privileged():
    steps = leader(user=ROOT, privileged=True)
    assert not {"seal", "seccomp", "no_new_privs"} & set(names(steps))
    assert names(steps).count("cover") == 1  # the supervisor's own stays hidden
    assert step(steps, "capabilities") == ["capabilities", ALL, False]


@pytest.mark.parametrize(
    ("user", "asked", "kept"),
    [
        (NOBODY, {}, set()),
        (ROOT, {}, set(isolation.ROOT_CAPABILITIES)),
        (NOBODY, {"cap_add": ("NET_RAW",)}, {"NET_RAW"}),
        (ROOT, {"cap_drop": ("ALL",)}, set()),
        (ROOT, {"cap_drop": ("ALL",), "cap_add": ("kill",)}, {"KILL"}),
        (
            NOBODY,
            {"cap_add": ("ALL",), "cap_drop": ("CAP_SYS_ADMIN",)},
            {*CAPABILITIES} - {"SYS_ADMIN"},
        ),
        (ROOT, {"privileged": True, "cap_drop": ("KILL",)}, {*CAPABILITIES} - {"KILL"}),
    ],
)
def test_capabilities(user, asked, kept):
    assert isolation.kept_capabilities(Isolation(**asked), user, WALLS) == kept


def test_nobody_is_given_what_the_supervisor_does_not_have():
    walls = evolve(WALLS, capabilities=ALL & ~(1 << CAPABILITIES["KILL"]))
    assert "KILL" not in isolation.kept_capabilities(Isolation(cap_add=("ALL",)), ROOT, walls)
    with pytest.raises(JobsError, match="does not have CAP_KILL"):
        isolation.check(Isolation(cap_add=("KILL",)), walls)


def test_what_a_host_without_root_refuses():
    userns = Walls(mode="userns", root=False)
    none = Walls(mode="none", root=False)
    with pytest.raises(JobsError, match="does not run as root"):
        isolation.check(Isolation(privileged=True), userns)
    isolation.check(Isolation(network="none", rootfs="/x", secrets=("a",)), userns)
    for fields in (
        {"network": "none"},
        {"rootfs": "/x"},
        {"binds": ("/a:/b",)},
        {"tmpfs": ("/a",)},
        {"read_only": True},
        {"hostname": "x"},
        {"secrets": ("a",)},
    ):
        with pytest.raises(JobsError, match="gives no namespaces"):
            isolation.check(Isolation(**fields), none)
    isolation.check(Isolation(), none)
    steps = leader(walls=none)
    assert names(steps) == [
        "umask",
        "no_new_privs",
        "seccomp",
        "rlimit",
        "capabilities",
        "chdir",
        "exec",
    ]


def test_without_root_sysfs_is_the_networks_owners():
    walls = Walls(mode="userns", root=False)
    assert ["read_only", "/sys", []] in leader(walls=walls)
    assert step(leader(walls=walls, network="none"), "place", "sysfs")
    assert "user" not in names(leader(walls=walls))
    assert "gid" not in step(leader(walls=walls), "place", "devpts")[4]


def test_a_dry_run_shows_each_step_in_a_line():
    shown = describe(plan(user=ROOT, secrets=("a",), network="none"))
    assert {each["by"] for each in shown} == {"shim", "leader"}
    lines = [each["text"] for each in shown]
    assert "unshare mount,cgroup,uts,ipc,network" in lines
    assert "umask 0o22" in lines
    assert "place sysfs /sys ro,nosuid,nodev,noexec" in lines
    assert any(re.fullmatch(r"seccomp <\d+ bytes>", line) for line in lines)
    assert all(not isinstance(value, bytes) for each in shown for value in each["step"])


def test_every_step_can_be_explained():
    for walls in (WALLS, Walls(mode="userns", root=False)):
        for fields in (
            {},
            {"rootfs": "/r", "secrets": ("a",)},
            {"read_only": True, "secrets": ("a",)},
        ):
            for part in ("shim", "ahead", "leader"):
                for each in plan(walls=walls, network="none", binds=("/a:/b",), **fields)[part]:
                    sentence = explain(each[0], errno.EPERM, "/x")
                    if each[0] not in ("umask", "unshare", "no_new_privs"):  # which do not fail so
                        assert "do the step" not in sentence, sentence


# -- hidden paths ----------------------------------------------------------------------------


def hidden(mounts="", **fields) -> tuple[str, ...]:
    settings = Settings(state_dir=Path("/var/lib/jobs"), **fields)
    return isolation.hidden_paths(settings, Path("/etc/jobs/supervisor.toml"), mounts)


def test_hidden_paths():
    assert hidden() == ("/etc/jobs", "/var/lib/jobs")
    key = ServerSettings(key=Path("/etc/ssl/private/server.key"))
    assert hidden(server=key) == ("/etc/jobs", "/etc/ssl/private", "/var/lib/jobs")
    key = ServerSettings(key=Path("/etc/ssl/server.key"))
    assert hidden(server=key) == ("/etc/jobs", "/etc/ssl/server.key", "/var/lib/jobs")
    jobs = JobSettings(hidden=(Path("/var/lib"), Path("/mnt/x")))
    assert hidden(jobs=jobs) == ("/etc/jobs", "/mnt/x", "/var/lib")
    mounts = (
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        "23 27 0:21 / /srv/root/proc rw,relatime shared:1 - proc proc rw\n"
    )
    assert hidden(mounts) == ("/etc/jobs", "/srv/root/proc", "/var/lib/jobs")


# -- texts -----------------------------------------------------------------------------------


def test_binds_and_tmpfs():
    assert parse_bind("/a//b:/c/./d/:ro") == ("/a/b", "/c/d", True)
    assert parse_bind("/a:/b:rw") == ("/a", "/b", False)
    assert parse_tmpfs("/x") == ("/x", None)
    assert parse_tmpfs("/x:64M") == ("/x", 64 << 20)


@pytest.mark.parametrize(
    "fields",
    [
        {"network": "bridge"},
        {"rootfs": "relative"},
        {"rootfs": "/a/../b"},
        {"binds": ("/a",)},
        {"binds": ("/a:b",)},
        {"binds": ("/a:/",)},
        {"binds": ("/a:/../b",)},
        {"binds": ("/a:/proc/x",)},
        {"binds": ("/a:/dev",)},
        {"binds": ("/a:/b:rx",)},
        {"binds": ("/a:/b", "/c:/b")},
        {"binds": ("/a\0:/b",)},
        {"tmpfs": ("/b",), "binds": ("/c:/b/",)},
        {"tmpfs": ("/a:0",)},
        {"tmpfs": ("/a:lots",)},
        {"tmpfs": tuple(f"/{n}" for n in range(65))},
        {"hostname": "-x"},
        {"hostname": "x" * 65},
        {"cap_add": ("FLY",)},
        {"cap_drop": ("",)},
        {"secrets": ("..",)},
        {"secrets": ("a/b",)},
        {"secrets": ("a", "a")},
    ],
)
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(ValueError):
        Isolation(**fields)


def test_secrets_on_the_wire():
    spec = Spec(argv=("true",), isolation=Isolation(secrets=("a",)))
    run = Run(spec=spec, secrets={"a": b"\xff\x00"})
    assert structure(unstructure(run), Run, "params") == run
    assert "\\xff" not in repr(run)
    with pytest.raises(ValueError, match="must name what"):
        Run(spec=spec)
    with pytest.raises(ValueError, match="at most 65536"):
        Run(spec=spec, secrets={"a": bytes(65537)})
    raw = unstructure(run) | {"secrets": {"a": "text, and secret"}}
    with pytest.raises(JobsError) as caught:
        structure(raw, Run, "params")
    assert "secret" not in str(caught.value.detail).replace("secrets", "")


# -- users -----------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("worker:x:41:42::/w:/bin/w\nbad:x:-1:0::/:/\ncut:x:1\n")
    (tmp_path / "etc/group").write_text("g:x:43:other,worker\n")
    return tmp_path


def find(root, name):
    spec = Spec(argv=("x",), user=name, isolation=Isolation(rootfs=str(root)))
    return user_of(spec, "nobody", root=True)


def test_users_of_a_root_directory(root):
    assert find(root, "worker") == User("worker", 41, 42, (42, 43), "/w", "/bin/w")
    assert find(root, "41").name == "worker"
    assert find(root, "99") == User("99", 99, 99, (99,), "/", "/bin/sh")
    for name in ("bad", "cut", "nowhere", "4294967295"):
        with pytest.raises(JobsError):
            find(root, name)


def test_a_root_directory_cannot_say_who_the_hosts_users_are(root):
    (root / "etc/passwd").write_text("nobody:x:0:0::/:/bin/sh\nroot:x:7:7::/:/bin/sh\n")
    assert find(root, "nobody").uid == find(root, None).uid != 0
    with pytest.raises(JobsError, match="by its number"):
        find(root, "root")


def test_links_in_a_root_directory_are_not_read(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "passwd"
    outside.write_text("worker:x:0:0::/:/bin/sh\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(outside)
    with pytest.raises(JobsError, match="there is no user"):
        find(root, "worker")


# -- the filter ------------------------------------------------------------------------------

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}


def verdict(program: bytes, arch: str, number: int, *arguments: int) -> int:
    """Run a filter as the kernel does: the classic BPF that libseccomp makes."""
    data = struct.pack("<iIQ6Q", number, ARCH[arch], 0, *arguments, *[0] * (6 - len(arguments)))
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        op, if_true, if_false, k = code[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif op == 0x54:
            accumulator &= k
        elif op == 0x05:
            at += k
        elif op in (0x15, 0x25, 0x35):
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[op]
            at += if_true if holds else if_false
        elif op == 0x06:
            return k
        else:
            raise AssertionError(f"unknown instruction {op:#x}")


@pytest.fixture(scope="module")
def x86():
    return seccomp.compiled("x86_64", frozenset())


def number_of(arch: str, name: str) -> int:
    pyseccomp = pytest.importorskip("pyseccomp")
    return pyseccomp.resolve_syscall(getattr(pyseccomp.Arch, arch), name)


@pytest.mark.parametrize(
    ("machine", "arch", "library"),
    [
        ("x86_64", "x86_64", "X86_64"),
        ("x86_64", "i386", "X86"),
        ("aarch64", "aarch64", "AARCH64"),
        ("aarch64", "arm", "ARM"),
    ],
)
def test_each_denied_call_is_denied_on_each_architecture(machine, arch, library):
    program = seccomp.compiled(machine, frozenset())
    denied = 0
    for listed in seccomp.DENIED.values():
        for name in listed.split():
            number = number_of(library, name)
            if number >= 0:  # else there is no such call on this architecture
                assert verdict(program, arch, number) == EPERM, name
                denied += 1
    assert denied > 40
    assert verdict(program, arch, number_of(library, "clone3")) == ENOSYS
    for name in ("read", "execve", "ptrace", "socket", "clone"):
        number = number_of(library, name)
        if number >= 0:
            assert verdict(program, arch, number) == ALLOW, name
    for flag in seccomp.NAMESPACES.values():
        assert verdict(program, arch, number_of(library, "clone"), flag | 17) == EPERM


def test_other_architectures_have_no_system_calls(x86):
    assert verdict(x86, "aarch64", 0) == ENOSYS
    assert verdict(x86, "x86_64", 0x4000_0000 | 1) == ENOSYS  # x32


def test_bits_that_the_kernel_does_not_read_do_not_help(x86):
    ioctl, personality = number_of("X86_64", "ioctl"), number_of("X86_64", "personality")
    for request in seccomp.TERMINAL_IOCTLS.values():
        for high in (0, 1 << 32, 1 << 63):
            assert verdict(x86, "x86_64", ioctl, 0, request | high) == EPERM
    assert verdict(x86, "x86_64", ioctl, 0, 0x5401) == ALLOW
    assert verdict(x86, "x86_64", personality, 1 << 32 | 0x0400000) == EPERM


def test_personalities(x86):
    number = number_of("X86_64", "personality")
    bits = [0, 8, 0x20000, 0x40000, 0x20008, 0x60008]
    harmless = [*bits, 0xFFFFFFFF]
    assert {verdict(x86, "x86_64", number, value) for value in harmless} == {ALLOW}
    source = random.Random(7)
    others = [1 << n for n in range(32)] + [0xFFFFFFFF ^ (1 << n) for n in range(32)]
    others += [source.getrandbits(32) for _ in range(2000)]
    others = [value for value in others if value & ~seccomp.PERSONALITIES]
    assert {verdict(x86, "x86_64", number, value) for value in others} == {EPERM}


def test_a_capability_that_was_added_lifts_its_calls(x86):
    lifted = seccomp.compiled("x86_64", frozenset({"SYS_TIME", "KILL"}))
    number = number_of("X86_64", "settimeofday")
    assert (verdict(x86, "x86_64", number), verdict(lifted, "x86_64", number)) == (EPERM, ALLOW)
    assert verdict(lifted, "x86_64", number_of("X86_64", "mount")) == EPERM
    added = seccomp.of_this_machine(frozenset({"SYS_TIME"}))
    assert step(leader(cap_add=("SYS_TIME",)), "seccomp")[1] == added
    default = seccomp.of_this_machine()
    assert step(leader(cap_add=("SYS_TIME",), cap_drop=("SYS_TIME",)), "seccomp")[1] == default


# -- the document ----------------------------------------------------------------------------


def table(section: str) -> list[list[str]]:
    """Give the cells of a section's table, head excluded."""
    text = DOCUMENT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_document_tells_the_capabilities():
    assert [words(row[0])[0] for row in table("Capabilities")] == list(isolation.ROOT_CAPABILITIES)


def test_the_document_tells_the_system_calls():
    told = {"".join(words(row[0])): words(row[1]) for row in table("System calls")}
    assert told == {capability: calls.split() for capability, calls in seccomp.DENIED.items()}


def test_the_document_tells_the_paths():
    told = {row[0]: tuple(words(row[1])) for row in table("Paths and devices")}
    assert told == {
        "sealed": isolation.SEALED,
        "covered": isolation.COVERED,
        "devices": isolation.DEVICES,
    }


def test_the_document_tells_the_flags():
    told = {words(row[0])[0] for row in table("Flags")}
    fields = {f.replace("_", "-") for f in Isolation.__annotations__} - {"binds", "secrets"}
    assert told == {f"--{name}" for name in fields} | {"--bind", "--secret", "--user"}
