"""What this host gives a job, as found out at start: namespaces and cgroups."""

from attrs import frozen

from jobs_supervisor.cgroups import Tree

ROOT, USERNS, NONE = "root", "userns", "none"


@frozen(kw_only=True)
class Host:
    """What jobs get here.

    Attributes:
        mode: `root`, `userns` or `none`, as `jobs_shim.probe` found it.
        tree: the cgroups.
        missing: what is not enforced here, each with its reason; sentences.
    """

    mode: str
    tree: Tree
    missing: tuple[str, ...] = ()


def describe(mode: str, why: str, tree: Tree) -> Host:
    """Put together what the fork server found out about namespaces and we about cgroups.

    Args:
        mode: the best mode of `jobs_shim.probe`.
        why: why no better one.
        tree: of `jobs_supervisor.cgroups.survey`.
    """
    missing = []
    by_reason: dict[str, list[str]] = {}
    for controller, reason in tree.missing.items():
        by_reason.setdefault(reason, []).append(controller)
    missing += [
        f"no limits of {', '.join(controllers)}: {reason}"
        for reason, controllers in by_reason.items()
    ]
    if mode == USERNS:
        missing.append(
            "not root: every job runs as this user, in a user namespace of its own, "
            f"and cannot become another ({why})"
        )
    elif mode == NONE:
        missing.append(
            "no namespaces: jobs see the host's processes and mounts, and a job whose shim and "
            f"init are both killed by force may leave processes ({why})"
        )
    return Host(mode=mode, tree=tree, missing=tuple(missing))
