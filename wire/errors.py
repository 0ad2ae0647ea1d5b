"""Error families. The family says who must act, the code names the case for programs.

Every message is one sentence that a person can act on; `hint` says what to do next where the
message alone does not.
"""

from __future__ import annotations


class ModelfleetError(Exception):
    """Root of all errors that this project raises on purpose.

    Attributes:
        code: Stable snake_case name of the case, safe to compare with.
        hint: What to do about it, or an empty string.
    """

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class PeerError(ModelfleetError):
    """What the other side sent is wrong: reject it, never retry it."""


class TransferError(ModelfleetError):
    """The way between is at fault: retry with backoff."""


class BundleError(ModelfleetError):
    """The bundle is at fault: quarantine its digest and report it."""


class StorageError(ModelfleetError):
    """This machine's disk or database is at fault: keep serving, raise an alarm."""


class ConfigError(ModelfleetError):
    """The configuration is wrong: refuse to start, name the file and the key."""
