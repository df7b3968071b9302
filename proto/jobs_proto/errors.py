"""The one error that crosses the wire, and its codes.

`JobsError` is somebody's fault and says whose: every code but `internal` and `unavailable` is the
caller's. The message is a whole sentence for a person: what was asked, what is wrong, what to do.
"""

CODES = frozenset(
    {
        "invalid_argument",
        "not_found",
        "permission_denied",
        "failed_precondition",
        "already_exists",
        "resource_exhausted",
        "unavailable",
        "unimplemented",
        "internal",
    }
)


class JobsError(Exception):
    """An answer that is a refusal.

    Args:
        code: one of `CODES`.
        message: one sentence a person can act on.
        detail: machine-readable particulars; MessagePack types only.
    """

    def __init__(self, code: str, message: str, detail: dict[str, object] | None = None) -> None:
        if code not in CODES:
            raise ValueError(f"{code!r} is not an error code; the codes are {sorted(CODES)}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail or {}

    def to_wire(self) -> dict[str, object]:
        """Give the error as the map that goes into a response."""
        return {"code": self.code, "message": self.message, "detail": self.detail}

    @classmethod
    def from_wire(cls, raw: object) -> "JobsError":
        """Read a response's error; whatever it is, the result is a `JobsError`."""
        if isinstance(raw, dict):
            code, message, detail = raw.get("code"), raw.get("message"), raw.get("detail")
            if code in CODES and isinstance(message, str):
                return cls(str(code), message, detail if isinstance(detail, dict) else None)
        return cls("internal", f"the peer answered with an error in no known form: {raw!r:.200}")


class ProtocolError(Exception):
    """The peer's bytes are no MessagePack-RPC of ours; the connection cannot go on."""
