"""The daemon: from its settings to serving, and from SIGTERM to the end."""

import argparse
import fcntl
import gc
import hashlib
import os
import resource
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
import trio

from jobs_certs import CertsError
from jobs_plugins.events import Events
from jobs_plugins.manager import make_manager
from jobs_plugins.plugins import Plugins
from jobs_plugins.roles import Roles
from jobs_plugins.sources import PluginError
from jobs_proto.errors import JobsError
from jobs_supervisor import dev, isolation
from jobs_supervisor.access import Access, load_access
from jobs_supervisor.audit import Audit
from jobs_supervisor.cgroups import Tree, remove_strays, survey
from jobs_supervisor.config import ServerSettings, Settings, host_and_port, load
from jobs_supervisor.dispatch import Dispatcher
from jobs_supervisor.forkserver import ForkServer
from jobs_supervisor.handlers import Handlers
from jobs_supervisor.host import describe
from jobs_supervisor.jobs import Jobs
from jobs_supervisor.log import log_failure, log_slow, set_up_logging
from jobs_supervisor.notify import notify
from jobs_supervisor.presence import Presence
from jobs_supervisor.quotas import Quotas
from jobs_supervisor.reload import Reloader
from jobs_supervisor.server import Server
from jobs_supervisor.spawn import Spawned
from jobs_supervisor.store import Store
from jobs_supervisor.terms import Terms
from jobs_supervisor.users import find_user

log = structlog.get_logger()


def run(arguments: argparse.Namespace, first: Spawned) -> None:
    """Run the supervisor to its end.

    Args:
        arguments: of the command line.
        first: a fork server that is getting ready.

    Raises:
        SystemExit: it cannot start; the message says why.
    """
    set_up_logging(json=not sys.stderr.isatty() and not arguments.dev)
    why: BaseException | None = None
    try:
        if arguments.dev:
            settings = dev.prepare(arguments.dir)
            arguments.config = arguments.dir / dev.FILE
        else:
            settings = load(arguments.config)
        with one_per(settings.state_dir):
            trio.run(supervise, settings, arguments, first)
    except* (JobsError, CertsError, PluginError, OSError) as group:
        why = _first(group)
    if isinstance(why, OSError):
        sys.exit(f"jobs-supervisor: {why.filename or 'the system'}: {why.strerror}")
    if why is not None:
        sys.exit(f"jobs-supervisor: {why}")


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class one_per:  # noqa: N801  # reads as the statement it is: `with one_per(state_dir):`
    """Holds the lock of a state directory: two supervisors on one would launch each other's jobs.

    Raises:
        JobsError: `failed_precondition`: another supervisor has it.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def __enter__(self) -> None:
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = (self._state_dir / "supervisor.lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobsError(
                "failed_precondition",
                f"another supervisor runs with the state directory {self._state_dir}; stop it "
                "first, or give this one its own",
            ) from None

    def __exit__(self, *_: object) -> None:
        self._file.close()


async def supervise(settings: Settings, arguments: argparse.Namespace, first: Spawned) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: read and checked.
        arguments: of the command line.
        first: a fork server that is getting ready.

    Raises:
        JobsError, PluginError, OSError: it cannot start; the message says why.
    """
    _warn_of_few_files(settings.server.max_connections + settings.server.max_handshakes)
    if os.geteuid() == 0:
        find_user(settings.jobs.default_user)
    access = load_access(settings)
    roles = Roles(access.policy)
    plugins, events = _load_plugins(settings, roles)
    listeners = await _listen(settings, arguments.config)
    audit = Audit(settings.state_dir, settings.audit)
    store = Store(settings.state_dir / "jobs.sqlite", events.publish)
    reloader = Reloader(settings, partial(load, arguments.config))
    async with trio.open_nursery() as writing:
        await writing.start(store.run)
        await writing.start(audit.run)
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            await nursery.start(_stop_on_signal, stop)
            await nursery.start(reloader.listen)
            nursery.start_soon(events.run)
            tree = survey(_cgroup_name(settings.state_dir), arguments.cgroup)
            quotas = Quotas(settings.quotas, store)
            jobs = await _start_jobs(
                settings,
                arguments.config,
                first,
                tree=tree,
                store=store,
                quotas=quotas,
                nursery=nursery,
            )
            server = _make_server(
                settings.server,
                access=access,
                roles=roles,
                plugins=plugins,
                audit=audit,
                quotas=quotas,
                jobs=jobs,
                default_user=settings.jobs.default_user,
            )
            nursery.start_soon(reloader.run, server)
            _settle()
            _announce(settings, arguments)
            await server.serve(listeners, stop)
            log.info("drained; jobs go on", running=len(jobs.register))
            nursery.cancel_scope.cancel()
        writing.cancel_scope.cancel()
    store.close()
    for directory in tree.directories():
        with suppress(OSError):  # jobs have theirs in it
            directory.rmdir()


def _load_plugins(settings: Settings, roles: Roles) -> tuple[Plugins, Events]:
    """Find the plugins: those that decide, and those that are told."""
    given = settings.plugins
    manager = make_manager(
        roles=roles,
        directory=given.dir,
        disabled=given.disabled,
        config=given.config,
        slow=log_slow,
    )
    return (
        Plugins(manager, decide_s=given.decide_s, failed=log_failure),
        Events(manager, event_s=given.event_s, failed=log_failure),
    )


async def _start_jobs(
    settings: Settings,
    config: Path,
    first: Spawned,
    *,
    tree: Tree,
    store: Store,
    quotas: Quotas,
    nursery: trio.Nursery,
) -> Jobs:
    """Have a fork server, and the jobs go on that had not ended."""
    forkserver = ForkServer(first)
    nursery.start_soon(forkserver.run, tree.shims)
    unfinished = store.unfinished()  # while it gets ready, which takes as long
    strays = tree.strays(record.job.id for record in unfinished)
    removal = partial(trio.to_thread.run_sync, remove_strays, strays, abandon_on_cancel=True)
    nursery.start_soon(removal)
    await forkserver.ready()
    terms = _find_terms(settings, config, forkserver, tree)
    jobs = Jobs(
        settings, store=store, forkserver=forkserver, terms=terms, quotas=quotas, nursery=nursery
    )
    await jobs.start(unfinished)
    return jobs


def _find_terms(settings: Settings, config: Path, forkserver: ForkServer, tree: Tree) -> Terms:
    """Find out what jobs can have here, and say what they cannot."""
    host = describe(forkserver.mode, forkserver.why, tree)
    walls = isolation.survey(host.mode, settings, config)
    for sentence in host.missing + walls.missing:
        log.warning(sentence)
    return Terms(settings.jobs, host, walls)


def _make_server(
    settings: ServerSettings,
    *,
    access: Access,
    roles: Roles,
    plugins: Plugins,
    audit: Audit,
    quotas: Quotas,
    jobs: Jobs,
    default_user: str,
) -> Server:
    """Make what clients talk to: from the connection by way of the decision to the jobs."""
    presence = Presence(quotas, settings.max_connections)
    handlers = Handlers(jobs, plugins, roles, quotas, presence)
    dispatcher = Dispatcher(
        plugins=plugins,
        audit=audit,
        jobs=jobs,
        default_user=default_user,
        handlers=handlers.table(),
    )
    return Server(
        settings=settings,
        access=access,
        roles=roles,
        plugins=plugins,
        audit=audit,
        quotas=quotas,
        presence=presence,
        dispatcher=dispatcher,
    )


def _settle() -> None:
    """Have the garbage collector begin, which was off while we started (`jobs_supervisor.main`)."""
    gc.enable()
    gc.freeze()  # what there is now stays: no collection need look at it


async def _listen(settings: Settings, config: Path) -> list[trio.SocketListener]:
    host, port = host_and_port(settings.server.listen)
    try:
        return await trio.open_tcp_listeners(port, host=host or None)
    except OSError as error:
        raise JobsError(
            "failed_precondition",
            f"cannot listen on {settings.server.listen}: {error.strerror}. Stop who has it, or "
            f"give `listen` in {config} another address",
        ) from None


async def _stop_on_signal(
    stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            notify("STOPPING=1")
            stop.set()


def _announce(settings: Settings, arguments: argparse.Namespace) -> None:
    """Say that we serve, and how to point the CLI at us."""
    log.info("serving", listen=settings.server.listen, state=str(settings.state_dir))
    if arguments.dev:
        print(f"export JOBS_CONFIG={arguments.dir / 'config.toml'}", flush=True)  # noqa: T201
    if arguments.ready_file is not None:
        arguments.ready_file.write_text(f"{os.getpid()}\n")
    notify("READY=1")


def _cgroup_name(state_dir: Path) -> str:
    """Name the cgroup of this state directory's jobs: the same at every start, of nobody else."""
    return f"jobs-{hashlib.sha256(os.fsencode(state_dir.absolute())).hexdigest()[:12]}"


def _warn_of_few_files(connections: int) -> None:
    """Say so if we may not have a file for each connection; as many as we may, we have by now."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < connections:
        log.warning(
            "fewer files may be open than connections are allowed (max_connections and "
            "max_handshakes): raise LimitNOFILE, or allow fewer",
            files=hard,
            connections=connections,
        )
