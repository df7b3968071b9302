"""The machine that figures are of: none means anything on another."""

import os
import platform
from pathlib import Path

from OpenSSL import SSL


def describe(directory: Path) -> dict[str, str]:
    """Describe the host, and the file system that `directory` is on."""
    cpus = len(os.sched_getaffinity(0))
    return {
        "CPU": f"{_cpu_model()}, {cpus} of {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cgroups": cgroup_mode(Path("/proc/self/mountinfo").read_text()),
        "file system": _file_system(directory),
        "Python": platform.python_version(),
        "OpenSSL": SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode().partition(" (")[0],
    }


def load() -> str:
    """Give the load averages of 1, 5 and 15 minutes; and how many processes are runnable now."""
    return " ".join(Path("/proc/loadavg").read_text().split()[:4])


def cgroup_mode(mountinfo: str) -> str:
    """Say which cgroups a table of mounts, proc_pid_mountinfo(5), has: `v2`, `hybrid`, `v1`."""
    types = {
        line.partition(" - ")[2].split()[0] for line in mountinfo.splitlines() if " - " in line
    }
    match "cgroup2" in types, "cgroup" in types:
        case True, True:
            return "hybrid"
        case True, False:
            return "v2"
        case False, True:
            return "v1"
    return "none"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":  # arm64 has none
            return value.strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "unknown"
