"""Refusals of the API: an HTTP status and a code `kind` or `kind|detail`."""


class ApiError(Exception):
    """The call is refused; nothing has been changed."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


def invalid_key() -> ApiError:
    """A wrong or missing key: the recorded answer is 403, not 401."""
    return ApiError(403, "access_denied|access_denied_invalid_key", "Access denied due to access_denied_invalid_key.")


def missing_permission() -> ApiError:
    """The key lacks the right."""
    return ApiError(403, "access_denied|missing_permission", "The key has no permission for this action.")


def invalid_approver() -> ApiError:
    """The key's user may not approve this request; the status code of the real answer is not on record."""
    return ApiError(403, "access_denied|invalid_approver", "This user may not approve the request.")


def not_found(what: str) -> ApiError:
    """No such order, product, certificate, …, or route."""
    return ApiError(404, f"not_found|{what}", f"The {what} was not found.")


def bad_format() -> ApiError:
    """The body cannot be parsed; on record also for accounts without a credit card."""
    return ApiError(400, "bad_request_format", "The request could not be parsed.")


def invalid(field: str, why: str) -> ApiError:
    """A field that is refused. The names of the real codes are not known: nothing may depend on them."""
    return ApiError(400, f"invalid_{field}", why)


def too_many() -> ApiError:
    """Over a rate limit."""
    return ApiError(429, "request_limit_exceeded", "Service unavailable, please limit request volume")
