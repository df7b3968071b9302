"""All jobs of one supervisor: the parts that they go through, put together, and the start.

    run ──▶ admission ──▶ places ──▶ keeper ──▶ ending
              │ terms       queue      │ fork server, shim
    a start ──┴─────────────────────▶──┘ reattach
    kill, signal, pause, update …     control

`register` holds the jobs meanwhile, and finds them.
"""

import trio

from jobs_proto.failpoint import failpoint
from jobs_proto.phases import Phase
from jobs_supervisor import reattach
from jobs_supervisor.admission import Admission
from jobs_supervisor.config import Settings
from jobs_supervisor.control import Control
from jobs_supervisor.ending import Ending
from jobs_supervisor.forkserver import ForkServer
from jobs_supervisor.keeper import Keeper
from jobs_supervisor.live import LiveJob
from jobs_supervisor.places import Places
from jobs_supervisor.quotas import Quotas
from jobs_supervisor.reattach import Reattachment
from jobs_supervisor.register import Register
from jobs_supervisor.retention import Retention
from jobs_supervisor.store import Record, Store
from jobs_supervisor.terms import Terms


class Jobs:
    """The jobs of one supervisor.

    Args:
        settings: of the supervisor.
        store: the records.
        forkserver: running.
        terms: on which jobs are taken on.
        quotas: of the owners.
        nursery: for the jobs' tasks.

    Attributes:
        register: finds them.
        places: what they have and wait for.
        admission: takes them on.
        control: does what clients ask of them.
        reattachment: which of them are still to be found after our start.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        forkserver: ForkServer,
        terms: Terms,
        quotas: Quotas,
        nursery: trio.Nursery,
    ) -> None:
        self._directory = settings.state_dir / "jobs"
        self._nursery = nursery
        self.register = register = Register(store, self._directory)
        self._retention = Retention(settings.retention, settings.state_dir, store, register)
        self.places = places = Places(settings.jobs, quotas)
        self.reattachment = Reattachment()
        ending = Ending(
            store=store,
            register=register,
            places=places,
            reattachment=self.reattachment,
            nursery=nursery,
        )
        self._keeper = Keeper(
            store=store,
            register=register,
            terms=terms,
            forkserver=forkserver,
            ending=ending,
            reattachment=self.reattachment,
        )
        self.admission = Admission(
            store=store,
            register=register,
            places=places,
            terms=terms,
            keeper=self._keeper,
            spares=forkserver.spares,
            nursery=nursery,
        )
        self.control = Control(
            store=store,
            register=self.register,
            places=places,
            terms=terms,
            ending=ending,
            retention=self._retention,
            nursery=nursery,
        )

    async def start(self, unfinished: list[Record]) -> None:
        """Take up the jobs that had not ended, by their records, and go on with all.

        Returns when clients may ask for jobs; those that run are found again meanwhile.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        await self._retention.tidy()
        launched = []
        for record in unfinished:
            failpoint("reattach.restoring", record.job.id)
            live = LiveJob(record)
            self.register.restore(live)
            if live.job.phase is Phase.QUEUED:
                self.places.wait(live)
            else:
                self.places.ledger.place(live)
                self.reattachment.expect(live)
                launched.append(live)
        self._nursery.start_soon(self._find_all, launched)
        self._nursery.start_soon(self.admission.run)
        self._nursery.start_soon(self._retention.run)

    async def _find_all(self, launched: list[LiveJob]) -> None:
        """Have the jobs found, a few more in each round of the event loop.

        So clients, whose turn comes in each round, need not wait for many jobs in any.
        """
        for number, live in enumerate(launched):
            if number % reattach.IN_A_ROUND == 0:
                await trio.lowlevel.checkpoint()
            self._nursery.start_soon(self._find_again, live)

    async def _find_again(self, live: LiveJob) -> None:
        """Have the job's task begin when there is a place, and give it its time in that place."""
        async with self.reattachment.place:
            self._nursery.start_soon(self._keeper.keep, live)
            with trio.move_on_after(reattach.ANSWER_S):
                await live.until_settled()
        self.reattachment.give_up(live)
