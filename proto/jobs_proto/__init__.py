"""What the parts of Jobs say to each other: wire formats, phases, errors. Pure: no I/O here."""
