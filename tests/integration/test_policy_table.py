"""Every method x role x whose job, asked of a real supervisor, against a list written by hand.

The list says what the design says. It knows nothing of the rules; a method that is added without a
row here fails the first test.
"""

import shutil
from typing import NamedTuple

import pytest
from harness import in_thread
from wire import Wire

from jobs_certs import issue
from jobs_proto.methods import METHODS

YES, NO, GONE = "allowed", "permission_denied", "not_found"

# Per method: what each role gets for its own job, another's, and one that does not exist.
ABOUT_A_JOB = {
    #            admin              operator            viewer              nobody
    "inspect": ((YES, YES, GONE), (YES, GONE, GONE), (YES, YES, GONE), (GONE, GONE, GONE)),
    "wait": ((YES, YES, GONE), (YES, GONE, GONE), (YES, YES, GONE), (GONE, GONE, GONE)),
    "follow": ((YES, YES, GONE), (YES, GONE, GONE), (YES, YES, GONE), (GONE, GONE, GONE)),
    "kill": ((YES, YES, GONE), (YES, GONE, GONE), (NO, NO, GONE), (GONE, GONE, GONE)),
    "signal": ((YES, YES, GONE), (YES, GONE, GONE), (NO, NO, GONE), (GONE, GONE, GONE)),
    "pause": ((YES, YES, GONE), (YES, GONE, GONE), (NO, NO, GONE), (GONE, GONE, GONE)),
    "resume": ((YES, YES, GONE), (YES, GONE, GONE), (NO, NO, GONE), (GONE, GONE, GONE)),
    "update": ((YES, YES, GONE), (YES, GONE, GONE), (NO, NO, GONE), (GONE, GONE, GONE)),
    "remove": ((YES, YES, GONE), (YES, GONE, GONE), (NO, NO, GONE), (GONE, GONE, GONE)),
}

# Per method that is about no job: what each role gets.
ABOUT_NONE = {
    "hello": (YES, YES, YES, NO),
    "whoami": (YES, YES, YES, NO),
    "can_i": (YES, YES, YES, NO),
    "policy": (YES, YES, YES, NO),
    "plugins": (YES, NO, NO, NO),
    "list": (YES, YES, YES, NO),
    "run": (YES, YES, NO, NO),
}

# Requests that need a further action.
FURTHER = {
    "run_as": ("run", {"spec": {"argv": ["true"], "user": "root"}}, (YES, NO, NO, NO)),
    "run_privileged": (
        "run",
        {"spec": {"argv": ["true"], "isolation": {"privileged": True}}},
        (YES, NO, NO, NO),
    ),
    "can_i_as": ("can_i", {"action": "run", "identity": "somebody"}, (YES, NO, NO, NO)),
}

ROLES = ("admin", "operator", "viewer", "nobody")
MORE = {
    "signal": {"signal": "CONT"},
    "follow": {"wait": False},
    "wait": {"timeout_s": 0},
    "update": {"timeout_s": 60},
}
PARAMS = {"run": {"spec": {"argv": ["true"]}}, "can_i": {"action": "run"}}
NO_JOB = "00000000-0000-4000-8000-000000000000"
WHOSE = ("own", "another's", "none")


class People(NamedTuple):
    """A supervisor, and for each role a certificate that bears it and one that may run jobs.

    Both name the same identity: that is how a viewer comes to have a job of its own.
    """

    supervisor: object
    running: object
    asking: object

    def ask(self, role, method, params, *, running=False):
        with Wire(self.supervisor, role, certs=self.running if running else self.asking) as wire:
            error, result = wire.call(method, params)
        return error, result

    def job_of(self, role):
        """Have a job of this role's identity that has ended."""
        _, job = self.ask(role, "run", {"spec": {"argv": ["true"]}}, running=True)
        error, ended = self.ask(role, "wait", {"id": job["id"]}, running=True)
        assert (error, ended["phase"]) == (None, "exited")
        return job["id"]


@pytest.fixture(scope="module")
def people(make_shared, tmp_path_factory):
    supervisor = make_shared()
    folders = []
    for what in ("running", "asking"):
        folder = tmp_path_factory.mktemp(what) / "ca"
        folder.mkdir(mode=0o700)
        for name in ("ca.crt", "ca.key"):
            shutil.copy(supervisor.certs / name, folder)
        for role in ROLES:
            bears = "operator" if what == "running" else role
            issue(folder, role, role=bears if bears != "nobody" else "role-without-rules")
        folders.append(folder)
    return People(supervisor, *folders)


def outcome(error):
    if error is None or error["code"] not in (NO, GONE):
        return YES  # and whether it then succeeds is another matter: the job has ended already
    return error["code"]


def test_the_table_leaves_nothing_out():
    about_a_job = {name for name, method in METHODS.items() if method.on_job}
    assert set(ABOUT_A_JOB) == about_a_job
    assert set(ABOUT_NONE) == METHODS.keys() - about_a_job


@pytest.mark.parametrize("method", ABOUT_A_JOB)
@pytest.mark.parametrize("role", ROLES)
async def test_methods_about_a_job(people, role, method):
    def found():
        other = "viewer" if role == "admin" else "admin"
        jobs = (people.job_of(role), people.job_of(other), NO_JOB)
        return [
            (job, people.ask(role, method, {"id": job, **MORE.get(method, {})})[0]) for job in jobs
        ]

    answers = await in_thread(found)
    expected = ABOUT_A_JOB[method][ROLES.index(role)]
    assert dict(zip(WHOSE, [outcome(error) for _, error in answers], strict=True)) == dict(
        zip(WHOSE, expected, strict=True)
    )
    # What is there and may not be seen is told in the same words as what is not.
    assert {
        (error["code"], error["message"].replace(job, "ID"), str(error["detail"]))
        for job, error in answers
        if outcome(error) == GONE
    } == {("not_found", "there is no job 'ID'; `jobsctl list --all` shows yours", "{}")}


@pytest.mark.parametrize("method", ABOUT_NONE)
@pytest.mark.parametrize("role", ROLES)
async def test_methods_about_no_job(people, role, method):
    error, _ = await in_thread(people.ask, role, method, PARAMS.get(method, {}))
    assert outcome(error) == ABOUT_NONE[method][ROLES.index(role)]


@pytest.mark.parametrize("action", FURTHER)
@pytest.mark.parametrize("role", ROLES)
async def test_further_actions(people, role, action):
    method, params, expected = FURTHER[action]
    error, _ = await in_thread(people.ask, role, method, params)
    assert outcome(error) == expected[ROLES.index(role)]


@pytest.mark.parametrize("role", ROLES)
async def test_can_i_says_what_the_request_itself_gets(people, role):
    """Not by the rules once more, but by asking both."""

    def asked():
        jobs = dict(
            zip(WHOSE, (people.job_of(role), people.job_of("operator"), NO_JOB), strict=True)
        )
        found = {}
        for method in ABOUT_A_JOB:
            for whose, job in jobs.items():
                error, answer = people.ask(role, "can_i", {"action": method, "id": job})
                found[method, whose] = outcome(error) if error else YES if answer["allow"] else NO
        return found

    if role == "nobody":
        error, _ = await in_thread(people.ask, role, "can_i", {"action": "run"})
        assert error["code"] == NO  # not even that
        return
    found = await in_thread(asked)
    index = ROLES.index(role)
    for method, rows in ABOUT_A_JOB.items():
        own, other, none = rows[index]
        expected = {"own": own, "another's": own if role == "operator" else other, "none": none}
        assert {whose: found[method, whose] for whose in WHOSE} == expected
    for action in (*ABOUT_NONE, *FURTHER):
        _, answer = await in_thread(people.ask, role, "can_i", {"action": action})
        row = ABOUT_NONE[action] if action in ABOUT_NONE else FURTHER[action][2]
        assert answer["allow"] is (row[index] == YES)
        assert answer["why"]


@pytest.mark.parametrize(
    ("params", "code", "why"),
    [
        ({"action": "kilt"}, "invalid_argument", "there is no action 'kilt'; there are: hello,"),
        ({"action": "attach"}, "invalid_argument", "there is no action 'attach'"),
        ({"action": "*"}, "invalid_argument", "there is no action '*'"),
        ({"action": "kill"}, "invalid_argument", "kill is about a job; name it"),
        ({"action": "run", "id": NO_JOB}, "invalid_argument", "run is about no job; name none"),
        ({"action": "run", "roles": ["admin"]}, "invalid_argument", "another identity"),
        ({"action": "run", "identity": "a\nb"}, "invalid_argument", "cannot be shown"),
    ],
)
async def test_can_i_about_what_makes_no_sense(people, params, code, why):
    error, _ = await in_thread(people.ask, "admin", "can_i", params)
    assert error["code"] == code
    assert why in error["message"]


async def test_can_i_as_somebody_else(people):
    """What an absent certificate says is not known; what is said of it is believed."""

    def ask(**params):
        return people.ask("admin", "can_i", params)

    def asked():
        job = people.job_of("operator")
        _, bare = ask(action="run", identity="operator")
        assert (bare["allow"], bare["roles"], bare["bound"]) == (False, [], False)
        _, given = ask(action="run", identity="operator", roles=["operator"])
        assert (given["allow"], given["identity"], given["roles"]) == (
            True,
            "operator",
            ["operator"],
        )
        _, own = ask(action="kill", id=job, identity="operator", roles=["operator"])
        assert own["allow"]
        error, _ = ask(action="kill", id=job, identity="somebody", roles=["operator"])
        assert error["code"] == GONE
        assert error["message"] == f"there is no job {job!r} that somebody may see"
        _, seen = ask(action="kill", id=job, identity="somebody", roles=["viewer"])
        assert seen["allow"] is False

    await in_thread(asked)


async def test_questions_are_written_down_as_questions(people):
    def asked():
        job = people.job_of("operator")
        params = {"action": "kill", "id": job, "identity": "somebody", "roles": ["viewer"]}
        people.ask("admin", "can_i", params)
        return job

    job = await in_thread(asked)
    lines = [line for line in people.supervisor.audit() if line.get("job") == job]
    assert [(line["event"], line["who"], line["action"], line["verdict"]) for line in lines][
        -1:
    ] == [("question", "admin", "kill", "deny")]
    assert lines[-1]["about"] == "somebody"
    assert ("decision", "admin", "kill") not in {
        (line["event"], line["who"], line["action"]) for line in lines
    }
