"""The clients of a schedule: they ask, and write down what they were answered."""

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from history import Call, Followed, Told
from occasion import Act
from schedule import Part

from jobs_proto.errors import JobsError
from jobs_proto.job import Job, Limits
from jobs_rpc import Client, End

OWNERS = {"dev": "admin", "dev-alice": "alice"}


class Asking:
    """One job's clients.

    Args:
        client: of its owner.
        part: what to do, and when.

    Attributes:
        told: what came of it.
        acted: nothing more is asked, but for those who wait for the end.
    """

    def __init__(self, client: Client, part: Part) -> None:
        self._client = client
        self._part = part
        self.told = Told(
            part.work, OWNERS[part.context], request_id=str(uuid.uuid4()), priority=part.priority
        )
        self.acted = trio.Event()

    async def run(self) -> None:
        """Play the part to its end."""
        await trio.sleep(self._part.at)
        await self._ask_for_it()
        if self.told.job is None:
            self.acted.set()
            return
        async with trio.open_nursery() as nursery, self._acting() as acting:
            for act in self._part.acts:
                until_the_end = act.what in ("follow", "wait")
                (nursery if until_the_end else acting).start_soon(self._act, act)

    @asynccontextmanager
    async def _acting(self) -> AsyncIterator[trio.Nursery]:
        """Give a nursery for what is asked and soon answered; say when all that is over."""
        async with trio.open_nursery() as nursery:
            yield nursery
        self.acted.set()

    async def _ask_for_it(self) -> None:
        self.told.asked_at = time.time()
        async with trio.open_nursery() as nursery:
            if self._part.twice:
                nursery.start_soon(self.again)
            try:
                self.told.job = await self._request()
            except JobsError as error:
                self.told.refused = error
            self.told.answered_at = time.time()
        for call in self.told.calls:
            if isinstance(call.answer, Job):  # of the two only one may have been lucky
                self.told.job, self.told.refused = self.told.job or call.answer, None

    async def _request(self) -> Job:
        work = self._part.work
        return await self._client.run(
            work.argv,
            timeout_s=work.timeout_s,
            limits=Limits(output_max_bytes=work.cap),
            output_policy=work.policy,
            name=work.key,
            priority=self.told.priority,
            secrets=work.secrets,
            request_id=self.told.request_id,
        )

    async def _act(self, act: Act) -> None:
        await trio.sleep(act.after)
        await getattr(self, act.what)(**act.options)

    async def _call(self, what: str, ask: Callable[[], Awaitable[Job]]) -> Job | JobsError:
        """Ask, and write it down; that it was asked is written down even if nothing comes of it."""
        place = len(self.told.calls)
        self.told.calls.append(Call(what, None))
        answer: Job | JobsError
        try:
            answer = await ask()
        except JobsError as error:
            answer = error
        self.told.calls[place] = Call(what, answer)
        return answer

    @property
    def id(self) -> str:
        assert self.told.job is not None
        return self.told.job.id

    async def again(self) -> None:
        """Make the same request again, as one does whose answer was lost."""
        await self._call("again", self._request)

    async def wait(self) -> None:
        await self._call("wait", lambda: self._client.wait(self.id))

    async def pause(self) -> None:
        await self._call("pause", lambda: self._client.pause(self.id))

    async def resume(self) -> None:
        await self._call("resume", lambda: self._client.resume(self.id))

    async def kill(self, signal: str, grace_s: float) -> None:
        """Ask once: whether that was heard is part of what is tried."""
        await self._call("kill", lambda: self._client.kill(self.id, signal, grace_s))

    async def update(self) -> None:
        await self._call("update", self._update)

    async def _update(self) -> Job:
        return await self._client.update(self.id, output_max_bytes=self.told.work.raised)

    async def kill_surely(self) -> None:
        await self._surely("kill", lambda: self._client.kill(self.id, "TERM", 0.2))

    async def update_surely(self) -> None:
        await self._surely("update", self._update)

    async def _surely(self, what: str, ask: Callable[[], Awaitable[Job]]) -> None:
        """Ask until it is answered."""
        while True:
            answer = await self._call(what, ask)
            if isinstance(answer, Job) or answer.code not in ("unavailable", "resource_exhausted"):
                return
            await trio.sleep(0.1)

    async def find(self) -> None:
        """Find the job of a request that got no answer: it may have been heard all the same."""
        jobs = None
        while jobs is None:
            try:
                jobs = await self._client.list(all=True)
            except JobsError:
                await trio.sleep(0.1)
        for job in jobs:
            if job.name == self.told.work.key:
                self.told.job, self.told.refused = job, None

    async def follow(self, start: int = 0) -> None:
        """Follow to the end, across everything."""
        followed = Followed(start)
        self.told.follows.append(followed)
        try:
            async for item in self._client.follow(self.id, start=start):
                if isinstance(item, End):
                    followed.end = item
                else:
                    followed.items.append(item)
        except JobsError as error:
            followed.error = error

    async def remove(self) -> None:
        """Have the job forgotten; until that is done, it is all there or not at all."""
        while not self.told.removed:
            try:
                await self._client.remove(self.id)
            except JobsError as error:
                if error.code == "not_found":
                    self.told.removed = True
                elif error.code == "unavailable":
                    await self._look_whole()
                else:
                    self.told.calls.append(Call("remove", error))
                    return
            else:
                self.told.removed = True

    async def _look_whole(self) -> None:
        try:
            await self._client.wait(self.id)
        except JobsError as error:
            self.told.removed = error.code == "not_found"
        else:
            await self.follow()

    async def conclude(self) -> None:
        """Look at the job for the last time."""
        try:
            self.told.final = await self._client.wait(self.id)
            await self.follow()
        except JobsError as error:
            self.told.calls.append(Call("conclude", error))
