"""What may become of a call besides the supervisor's answer. All are `JobsError`, for a user."""

from jobs_proto.errors import JobsError, ProtocolError


class LostError(JobsError):
    """The supervisor cannot be reached, or was lost in mid-call. It may be there again soon."""


class UntrustedError(JobsError):
    """One of the two sides does not accept the other. Trying again changes nothing."""


class PeerError(JobsError, ProtocolError):
    """The supervisor answered what it must not. It is then another program, or has a bug."""


def may_pass(error: JobsError) -> bool:
    """Whether the same request may succeed a little later."""
    return error.code == "unavailable" and not isinstance(error, UntrustedError)


def same_again(error: JobsError) -> JobsError:
    """Copy an error, for another of the tasks that it concerns: a traceback is one task's."""
    return type(error)(error.code, error.message, error.detail)
