"""The one error of this package."""


class CertsError(Exception):
    """Why it was not done, in sentences that say what to do; never for the log only."""
