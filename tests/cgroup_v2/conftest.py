"""What is about the virtual machine is collected in it only: elsewhere it would say nothing."""

import os
from pathlib import Path

in_machine = "JOBS_TEST_GUEST" in os.environ
under_systemd = in_machine and Path("/run/systemd/system").is_dir()  # sd_booted(3)

collect_ignore = [
    *([] if in_machine else ["test_guest.py"]),
    *([] if under_systemd else ["test_systemd.py"]),
]
