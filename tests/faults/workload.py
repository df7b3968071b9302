"""The jobs of a schedule: what each runs, and everything that it must then have done.

Each job first leaves evidence that it was run, in a file that nobody but the jobs writes to: the
checker's own knowledge of who ran how often, which no record of ours can embellish.
"""

import hashlib
import random
import shlex
from pathlib import Path

from attrs import field, frozen

from jobs_proto.files import BLOCK, KEEP_HEAD, KEEP_TAIL

EVIDENCE = "evidence"
GATE = "gate"

LINE = "{key} {stream} {number:06d} " + "x" * 40 + "\n"
"""A line of output: each differs from every other, so that what is lost or doubled shows."""


@frozen(kw_only=True)
class Work:
    """One job's command, and what it does if nobody interferes.

    Attributes:
        kind: of `KINDS`.
        key: unique in the schedule, in all that the job writes.
        argv: the command.
        timeout_s: of its spec.
        code: the exit code at its own end; None: it has no end of its own.
        stdout, stderr: all that it writes by its own end.
        starts: whether its command exists.
        cap: bytes of its output that are kept; it writes to stdout only. None: all.
        raised: the cap that it is given by an update.
        policy: what happens at the cap.
        secrets: contents of its files in /run/secrets, by name.
    """

    kind: str
    key: str
    argv: tuple[str, ...]
    timeout_s: float | None = None
    code: int | None = 0
    stdout: bytes = b""
    stderr: bytes = b""
    starts: bool = True
    secrets: dict[str, bytes] = field(factory=dict)
    cap: int | None = None
    raised: int | None = None
    policy: str = KEEP_TAIL


MORE_THAN_A_PIPE = 25_000
"""Lines: what is less than a pipe holds (1 MiB) can be written though nobody reads it."""


def lines(key: str, stream: str, first: int, last: int) -> bytes:
    """Give lines `first` to `last` of a job's stream."""
    return "".join(
        LINE.format(key=key, stream=stream, number=number) for number in range(first, last + 1)
    ).encode()


def _print(key: str, stream: str, first: int, last: int) -> str:
    """Give the command that prints them; seq(1) writes in blocks, as programs do."""
    pattern = LINE.format(key=key, stream=stream, number=0).replace("000000", "%06.0f")
    redirect = " >&2" if stream == "err" else ""
    return f"seq -f {shlex.quote(pattern.rstrip())} {first} {last}{redirect}"


def _brief(key: str, _gate: Path, rng: random.Random) -> dict:
    code = rng.choice((0, 0, 1, 7, 41))
    return {"script": f"exit {code}", "code": code}


def _talks(key: str, gate: Path, rng: random.Random, *, gated: bool = False) -> dict:
    """Write to both streams by turns, in portions, with pauses in which somebody may die."""
    script, out, err, number = [], b"", b"", 1
    for _ in range(rng.randint(2, 6)):
        last = number + rng.choice((1, 40, 400, 3000))
        stream = rng.choice(("out", "out", "err"))
        script.append(_print(key, stream, number, last))
        part = lines(key, stream, number, last)
        out, err = (out + part, err) if stream == "out" else (out, err + part)
        number = last + 1
        script.append(f"sleep {rng.choice((0, 0.05, 0.2, 0.4))}")
    if gated:
        script.insert(rng.randrange(len(script)), f"read -r go < {gate}")
    code = rng.choice((0, 3))
    return {"script": "; ".join([*script, f"exit {code}"]), "code": code, "out": out, "err": err}


def _gated(key: str, gate: Path, rng: random.Random) -> dict:
    return _talks(key, gate, rng, gated=True)


def _family(key: str, _gate: Path, _rng: random.Random) -> dict:
    """Leave children behind, in sessions of their own too, one of them stopped."""
    script = "sleep 1000 & setsid sh -c 'sleep 1000; true' & setsid sh -c 'kill -STOP $$' &"
    out = lines(key, "out", 1, 1)
    return {
        "script": f"{script} {_print(key, 'out', 1, 1)}; sleep 0.3; exit 5",
        "code": 5,
        "out": out,
    }


def _endless(key: str, _gate: Path, _rng: random.Random) -> dict:
    out = lines(key, "out", 1, 20)
    script = f"{_print(key, 'out', 1, 20)}; setsid sleep 1000 & sleep 1000; wait"
    return {"script": script, "code": None, "out": out}


def _deaf(key: str, _gate: Path, _rng: random.Random) -> dict:
    """Heed no request to end."""
    return {"script": "trap '' TERM HUP INT; while :; do sleep 1000; done", "code": None}


def _late(key: str, _gate: Path, rng: random.Random) -> dict:
    """Run into its deadline."""
    found = _endless(key, _gate, rng)
    return {**found, "timeout_s": rng.choice((0.2, 0.6, 1.2))}


def _absent(key: str, _gate: Path, _rng: random.Random) -> dict:
    return {"argv": (f"/no/such/{key}",), "code": None, "starts": False}


def _secret(key: str, _gate: Path, rng: random.Random) -> dict:
    """Tell what its secret's hash is; nobody but the job may be able to tell more."""
    secret = b"secret of " + key.encode() + b" " + rng.randbytes(16).hex().encode()
    out = f"{hashlib.sha256(secret).hexdigest()}  -\n".encode()
    script = "sleep 0.1; sha256sum < /run/secrets/token; exit 4"
    return {"script": script, "code": 4, "out": out, "secrets": {"token": secret}}


def _capped(key: str, rng: random.Random, policy: str) -> dict:
    """Write more than may be kept, in portions, to one stream: so each byte's place is known."""
    script, number = [], 1
    portions = [rng.choice((40, 400, 3000)) for _ in range(rng.randint(2, 5))]
    if policy == BLOCK:
        portions.append(MORE_THAN_A_PIPE)
    for portion in portions:
        last = number + portion
        script += [_print(key, "out", number, last), f"sleep {rng.choice((0, 0.1, 0.3))}"]
        number = last + 1
    out = lines(key, "out", 1, number - 1)
    return {
        "script": "; ".join([*script, "exit 6"]),
        "code": 6,
        "out": out,
        "cap": rng.choice((4096, 10_000, 1 << 16, 1 << 17)),
        "raised": len(out) + 1 if policy == BLOCK else rng.choice((None, 1 << 18)),
        "policy": policy,
    }


def _tail(key: str, _gate: Path, rng: random.Random) -> dict:
    return _capped(key, rng, KEEP_TAIL)


def _head(key: str, _gate: Path, rng: random.Random) -> dict:
    return _capped(key, rng, KEEP_HEAD)


def _blocks(key: str, _gate: Path, rng: random.Random) -> dict:
    """Wait at its cap until that is raised to more than it writes."""
    return _capped(key, rng, BLOCK)


KINDS = {
    "brief": _brief,
    "talks": _talks,
    "gated": _gated,
    "family": _family,
    "endless": _endless,
    "deaf": _deaf,
    "late": _late,
    "absent": _absent,
    "secret": _secret,
    "tail": _tail,
    "head": _head,
    "blocks": _blocks,
}

WEIGHTS = {"talks": 4, "gated": 3, "brief": 3, "family": 2, "endless": 2, "late": 2}


def any_kind(rng: random.Random) -> str:
    """Choose one."""
    kinds = list(KINDS)
    return rng.choices(kinds, [WEIGHTS.get(kind, 1) for kind in kinds])[0]


def make(kind: str, key: str, scratch: Path, rng: random.Random) -> Work:
    """Make up a job.

    Args:
        kind: of `KINDS`.
        key: of the job.
        scratch: a folder that every job can write to.
        rng: decides.
    """
    made = KINDS[kind](key, scratch / GATE, rng)
    script = f'echo "{key} $JOBS_JOB_ID $$" >> {scratch / EVIDENCE}; {made.get("script")}'
    return Work(
        kind=kind,
        key=key,
        argv=made.get("argv", ("sh", "-c", script)),
        timeout_s=made.get("timeout_s"),
        code=made["code"],
        stdout=made.get("out", b""),
        stderr=made.get("err", b""),
        starts=made.get("starts", True),
        secrets=made.get("secrets", {}),
        cap=made.get("cap"),
        raised=made.get("raised"),
        policy=made.get("policy", KEEP_TAIL),
    )
