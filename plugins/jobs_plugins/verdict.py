"""What a plugin answers when it is asked whether somebody may do something.

Two classes and not a flag: an answer that is neither (True, "no", a coroutine) is a plugin's
mistake, and is told apart from a verdict without looking at what is true-ish in Python.
"""

from attrs import field, frozen
from attrs.validators import instance_of


@frozen
class Allow:
    """They may, unless another plugin denies it.

    Attributes:
        why: for the audit log, a few words: `operator: kill own`.
    """

    why: str = field(validator=instance_of(str))


@frozen
class Deny:
    """They may not, whatever other plugins say.

    Attributes:
        why: for the audit log and for the caller: a sentence that says what to do.
    """

    why: str = field(validator=instance_of(str))


Verdict = Allow | Deny
