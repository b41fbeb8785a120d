"""The one error that a request gets: a code, as gRPC names it, its HTTP status, and a sentence that names the field."""

# TensorFlow Serving's REST maps codes to statuses like this (model_servers/http_server.cc).
HTTP_STATUS = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_LONGEST = 500  # characters of a value or of a model's own message that an error repeats


class RequestError(Exception):
    """Why a request is refused.

    Args:
        code: a key of `HTTP_STATUS`.
        message: the sentence for the client.
        status: the HTTP status if it is not the code's own.
    """

    def __init__(self, code: str, message: str, status: int | None = None):
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_status = HTTP_STATUS[code] if status is None else status


def invalid(message: str) -> RequestError:
    """The error of a request that is wrong in itself: sending it again does not help."""
    return RequestError("INVALID_ARGUMENT", message)


def shown(value: object) -> str:
    """A value as an error repeats it: on one line, printable, and not longer than a few lines."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("ascii", "backslashreplace").decode().replace("\n", " ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
