"""Why a request gets no answer, in words and numbers for its sender."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 (of one request, not of the program)
    """One request that is not answered; `status` is HTTP's, `code` a word for programs.

    The message holds nothing of this machine (FAULTS S30).
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def to_dict(self) -> dict[str, str]:
        """Plain JSON values."""
        return {"code": self.code, "message": self.message}


def busy() -> Refused:
    """503: more pictures wait than can be answered soon."""
    return Refused(503, "busy", "too many pictures are waiting; try again", retry_after_s=1)


def too_many() -> Refused:
    """429: one client has more requests under way than its share."""
    return Refused(429, "too_many_requests", "too many requests from this address", retry_after_s=1)


def stopping() -> Refused:
    """503: the server ends."""
    return Refused(503, "stopping", "the server is stopping; try again", retry_after_s=5)
