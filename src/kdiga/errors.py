"""The one exception that means "the caller gave something unusable". It imports nothing, so that `kdiga --help` stays fast."""


class BadInput(ValueError):
    """One line: what was wrong, and what would be right. The command line prints it and exits with code 2."""


class Stopped(RuntimeError):
    """A run that cannot go on, and what to try. The command line prints it and exits with code 1; what was saved stays."""
