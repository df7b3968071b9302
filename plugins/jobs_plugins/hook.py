"""One plugin's implementation of one hook, asked so that whatever it does, we go on.

Theory. A hook is somebody else's code, in our process. Three ways of running it:

- Ours (names that start with `jobs.`) only compute: called here and now, with no checkpoint, so
  that a supervisor without other plugins decides as fast as it can look at its rules.
- `async def`: tasks under a deadline. trio's cancellation cuts them at their next checkpoint.
- Any other: in a thread, which nothing can cut. When its deadline is over it is abandoned: nobody
  waits for it any more, and what it says then is not heard. So that such threads do not pile up
  without end, a hook with `MAX_HUNG` of them fails at once until one comes back.

Three things are never answers: what comes after the deadline, even where a plugin has caught the
cancellation and gone on; what is said once the request itself was cancelled; an exception of any
kind. `trio.Cancelled` is caught here like every other, because a plugin could raise one that it has
kept; whether we are cancelled is then asked of trio (`checkpoint_if_cancelled`), not of the plugin.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pluggy
import trio
from attrs import frozen

OURS: Final = "jobs."
"""How the names of the built-in plugins start, and no others."""

MAX_THREADS: Final = 16
"""Of one hook of one plugin at once; more calls wait for one, within their deadline."""

MAX_HUNG: Final = 8
"""Threads beyond their deadline, at which a hook is not called any more."""

MAX_TASKS: Final = 16
"""Of one plugin for one list of questions."""

Question = Mapping[str, object]
"""A hook's arguments, by name; a plugin gets those that it takes."""


class HungError(Exception):
    """A plugin gave no answer in time."""


@frozen(kw_only=True)
class Failure:
    """A plugin's own mistake: for the log, with its traceback, and not for the caller.

    Attributes:
        plugin: whose it is.
        error: what it raised, a `HungError`, or a `TypeError` about what it answered.
    """

    plugin: str
    error: BaseException

    @property
    def words(self) -> str:
        """What the caller is told."""
        what = str(self.error) if isinstance(self.error, HungError) else "failed when it was asked"
        return f"the plugin {self.plugin} {what}"


class Hook:
    """One plugin's implementation of one hook.

    Args:
        implementation: as pluggy keeps it.

    Attributes:
        plugin: the plugin's name.
        ours: it is built in, and asking it has no checkpoint.
    """

    def __init__(self, implementation: pluggy.HookImpl) -> None:
        self.plugin = implementation.plugin_name
        self._function: Callable[..., Any] = implementation.function
        self._parameters = implementation.argnames
        self._is_async = inspect.iscoroutinefunction(implementation.function)
        self.ours = self.plugin.startswith(OURS)
        self._threads = trio.CapacityLimiter(MAX_THREADS)
        self._running: dict[object, float] = {}  # its threads, and until when each has time

    async def ask(self, questions: Sequence[Question], seconds: float) -> list[object]:
        """Ask some questions, which have so many seconds together.

        Returns:
            For each question what the plugin returned, or a `Failure`.
        """
        if self.ours:
            return [self._call(question) for question in questions]
        late = Failure(plugin=self.plugin, error=HungError(f"gave no answer within {seconds:g} s"))
        answers: list[object] = [late] * len(questions)
        with trio.move_on_after(seconds) as scope:
            if self._is_async:
                await self._ask_in_tasks(questions, answers, scope)
            else:
                await self._ask_in_thread(questions, answers, trio.current_time() + seconds)
        await trio.lowlevel.checkpoint_if_cancelled()
        return answers.copy()  # an abandoned thread still has `answers`

    async def _ask_in_tasks(
        self, questions: Sequence[Question], answers: list[object], scope: trio.CancelScope
    ) -> None:
        unasked = iter(enumerate(questions))

        async def ask_some() -> None:
            for number, question in unasked:
                answer = await self._await(question)
                if not scope.cancel_called:
                    answers[number] = answer

        async with trio.open_nursery() as nursery:
            for _ in range(min(len(questions), MAX_TASKS)):
                nursery.start_soon(ask_some)

    async def _ask_in_thread(
        self, questions: Sequence[Question], answers: list[object], deadline: float
    ) -> None:
        hung = sum(until < trio.current_time() for until in list(self._running.values()))
        if hung >= MAX_HUNG:
            error = HungError(f"is not asked: {hung} earlier calls have never ended")
            answers[:] = [Failure(plugin=self.plugin, error=error)] * len(questions)
            return
        trip = object()

        def ask_all() -> None:
            self._running[trip] = deadline
            try:
                for number, question in enumerate(questions):
                    answers[number] = self._call(question)
            finally:
                del self._running[trip]

        await trio.to_thread.run_sync(ask_all, abandon_on_cancel=True, limiter=self._threads)

    async def _await(self, question: Question) -> object:
        try:
            return await self._function(*(question[name] for name in self._parameters))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - see the head of this file
            await trio.lowlevel.checkpoint_if_cancelled()
            return Failure(plugin=self.plugin, error=error)

    def _call(self, question: Question) -> object:
        try:
            return self._function(*(question[name] for name in self._parameters))
        # Also what sys.exit() raises: a plugin must not end the supervisor.
        except BaseException as error:  # noqa: BLE001 - kept, for the log
            return Failure(plugin=self.plugin, error=error)


def no_answer(plugin: str, answer: object) -> Failure:
    """Give the failure of a plugin that answered with something else than it may."""
    # Its class only: its repr is the plugin's code too, and could raise or say secrets.
    error = TypeError(f"the plugin {plugin} answered with a {type(answer).__name__}")
    return Failure(plugin=plugin, error=error)
