"""What a supervisor, its fork server and a shim say to each other. Shim-safe: msgpack only.

One MessagePack array `[kind, body]` in each packet of a SOCK_SEQPACKET unix socket, body a map.
Whoever meets an unknown kind, or an unknown key, passes over it: a supervisor works with shims of
its own protocol version and the previous one, because after an upgrade they are still running.

    supervisor → fork server   fork     {enter}          with two descriptors: the shim's end of a
                                                          socket pair, where it waits for its job;
                                                          the directory of the v2 cgroup that its
                                                          launcher is born in, or of anything else;
                                                          enter: steps before init is forked
    supervisor → shim          prepare  {soon}           the first word, with descriptors: a memfd
                                                          with the steps ahead of the job, and the
                                                          directories of the job's cgroups, if it
                                                          has some, the v2 one first;
                                                          soon: the job follows at once
                               launch   {dir}            the second, with two: a memfd with the
                                                          plan, and the job's directory; both words
                                                          are read by its launcher
    fork server → supervisor   hello    {protocol, pid, mode, why}
    shim → supervisor          hello    {protocol, job, pid, leader, started_ns, frozen,
                                total}
                               refused  {why}            it did not launch: somebody else has
                               started  {pid, time_ns}
                               grew     {total}          once, after a `watch` below that; of
                                                          what can be read, or told as a gap
                               usage    {usage, output}
                               frozen   {frozen}
                               exited   {…}              the exit record, which is on disk by now
    supervisor → shim          watch    {offset}         tell me when there are bytes after this
                               kill     {signal, grace_s, by}
                               signal   {signal}
                               freeze   {frozen}
                               usage    {}
                               update   {output_max_bytes, timeout_s}   these hold from now on;
                                                          nil, or not there: no such limit
"""

from jobs_proto.files import decode, encode

PROTOCOL = 1
SPOKEN = (PROTOCOL, PROTOCOL - 1)
"""What a supervisor understands of a shim that is older, and has not ended since an upgrade."""
MAX_PACKET = 64 * 1024

FORK = "fork"
PREPARE = "prepare"
LAUNCH = "launch"
HELLO = "hello"
REFUSED = "refused"
STARTED = "started"
WATCH = "watch"
GREW = "grew"
KILL = "kill"
SIGNAL = "signal"
USAGE = "usage"
FREEZE = "freeze"
UPDATE = "update"
FROZEN = "frozen"
EXITED = "exited"

Body = dict[str, object]


def pack(kind: str, body: Body) -> bytes:
    """Make one packet."""
    return encode([kind, body])


def unpack(packet: bytes) -> tuple[str, Body]:
    """Read one packet.

    Raises:
        ValueError: it is none of this protocol.
    """
    message = decode(packet)
    if isinstance(message, list) and len(message) == 2:
        kind, body = message
        if isinstance(kind, str) and isinstance(body, dict):
            return kind, body
    raise ValueError(f"not a packet of the shim protocol: {packet[:40]!r}")
