"""The one error this package shows to its user: a sentence that says what is wrong and what to do."""


class Problem(Exception):
    """Ends the command with exit code 1 and its sentence on standard error."""
