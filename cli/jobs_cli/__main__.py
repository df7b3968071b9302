"""`python -m jobs_cli` is `jobsctl`."""

import sys

from jobs_cli.main import main

sys.exit(main())
