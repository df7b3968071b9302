"""One file a verb: its options and help are its function's signature and docstring.

A verb returns its exit status, None for 0. Nothing heavy (trio, TLS, rich) is imported at the top
of a file here: all of them are imported for every `--help`.
"""
