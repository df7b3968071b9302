"""The fork server, the shim of each job, and init, pid 1 in the job's namespaces.

Standard library and msgpack only: every import here is paid for by every job. A page that a forked
process writes to is its own from then on, and counting references writes; so what counts is how
many objects a shim touches, and how densely they lie. See `warm`, `dense` and `lean` for what is
done about it, and `tests/bench/README.md` for what it brings.
"""
