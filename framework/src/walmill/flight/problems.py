"""Errors as Flight knows them; pyarrow adds a traceback to what is no error of Flight, so each becomes one."""

from __future__ import annotations

from typing import Any

from pyarrow import flight

from walmill.errors import Forbidden, Unauthorized, Unavailable, WalmillError
from walmill.observe.log import get_logger
from walmill.query.errors import QueryStopped, QueryTimeout
from walmill.scarcity import scarce

log = get_logger("walmill.flight")


def flight_error(error: BaseException) -> Any:
    """An error as Flight knows it. One that nobody expected is logged, and says nothing of itself."""
    error = scarce(error) or error
    if isinstance(error, flight.FlightError):
        return error
    if isinstance(error, QueryTimeout):
        return flight.FlightTimedOutError(error.message)
    if isinstance(error, QueryStopped):
        return flight.FlightCancelledError(error.message)
    if isinstance(error, Unauthorized):
        return flight.FlightUnauthenticatedError(error.message)
    if isinstance(error, Forbidden):
        return flight.FlightUnauthorizedError(error.message)
    if isinstance(error, Unavailable):
        return flight.FlightUnavailableError(error.message)
    if isinstance(error, WalmillError):
        # pyarrow could say INVALID_ARGUMENT and NOT_FOUND, but only with a traceback behind the message
        return flight.FlightServerError(error.message)
    log.error("a Flight call failed", exc_info=error)
    return flight.FlightInternalError("internal error; the server's log says more")
