"""The two ways a command can fail, each with its exit code."""


class EdgegenError(Exception):
    """An expected failure: one line for people, no traceback.

    `message` names the value and the limit it broke, `remedy` what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = ""):
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class InputError(EdgegenError):
    """Input that cannot be used: nothing was written or overwritten. Exit code 2."""

    exit_code = 2


class VerificationError(EdgegenError):
    """An artifact that differs from the PyTorch reference by more than its floor allows. Exit code 1."""
