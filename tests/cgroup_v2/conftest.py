"""What is about the virtual machine is collected in it only: elsewhere it would say nothing."""

import os

collect_ignore = [] if os.environ.get("JOBS_TEST_GUEST") else ["test_guest.py"]
