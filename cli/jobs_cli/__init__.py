"""The command line: `jobsctl`, and `jobs` where the shell lets it through."""
