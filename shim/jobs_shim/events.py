"""What a shim waits for: each descriptor has one handler."""

import select


class Events:
    """Descriptors, and who is called when one can be read or has ended."""

    __slots__ = ("_handlers", "_poll")

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, object] = {}

    def __contains__(self, fd: int) -> bool:
        """Say whether a descriptor has a handler."""
        return fd in self._handlers

    def on(self, fd: int, handler: object) -> None:
        """Call `handler(fd, events)` when `fd` can be read or has ended."""
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def off(self, fd: int) -> None:
        """Forget a descriptor."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def wait(self, timeout_ms: float | None) -> None:
        """Wait for an event, and call who is to be called for each that there is."""
        for fd, events in self._poll.poll(timeout_ms):
            handler = self._handlers.get(fd)
            if handler is not None:  # closed by a handler before it in this round
                handler(fd, events)  # type: ignore[operator]
