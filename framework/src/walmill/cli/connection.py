"""A connection to a server: requests, answers as plain data, and what can go wrong as one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import urlsplit

from walmill.errors import InvalidRequest, WalmillError
from walmill.settings.model import is_loopback

if TYPE_CHECKING:
    import ssl

    import httpx2

_SHOWN = 300
Params: TypeAlias = Mapping[str, Any] | Sequence[tuple[str, Any]]
"""The members of a query string, by name or in order."""


class CannotReach(WalmillError):
    """No answer came from the server.

    Attributes:
        arrived: Whether the server may have got the request, and done what it says.
    """

    def __init__(self, message: str, *, arrived: bool = True) -> None:
        super().__init__(message)
        self.arrived = arrived


class Refused(WalmillError):
    """The server answered with an error.

    Attributes:
        code: HTTP status of the answer.
        body: The answer as JSON; None if it is none.
        retry_after: Seconds after which the server wants to be asked again; None if it does not say.
    """

    def __init__(self, message: str, code: int, body: Any, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body = body
        self.retry_after = retry_after


def is_local(host: str) -> bool:
    """Whether a URL names this machine by a loopback address.

    Raises:
        InvalidRequest: It is no URL.
    """
    return is_loopback(check_url(host).hostname or "")


def check_url(host: str) -> Any:
    """The parts of the URL of a server.

    Raises:
        InvalidRequest: It is no http or https URL.
    """
    try:
        parts = urlsplit(host)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_fits = urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits or parts.query or parts.fragment:
        raise InvalidRequest(f"the host {host!r} is not a URL of a server: write for example http://127.0.0.1:8181")
    return parts


def trusting(tls_ca: Path) -> ssl.SSLContext:
    """What trusts the certificates of a PEM file, and those that they sign.

    Raises:
        InvalidRequest: If the file cannot be used.
    """
    import ssl

    try:
        return ssl.create_default_context(cafile=tls_ca)
    except OSError as error:
        raise InvalidRequest(
            f"the certificates in {str(tls_ca)!r} cannot be used: {error.strerror or error}; --tls-ca names a PEM file"
        ) from None


class Connection:
    """Speaks with one server. Threads may share it.

    Args:
        host: URL of the server; a path (of a mount) is kept.
        token: Sent as Bearer token, if there is one.
        token_hint: What to say after "the server refused the token".
        timeout: Seconds to wait for an answer, or for its next piece.
        tls_ca: PEM file with certificates that are trusted, instead of those of this machine.
        verify: Whether the server's certificate must be trusted.

    Attributes:
        url: The URL, without a slash at its end.
        address: The URL without a name and a password.

    Raises:
        InvalidRequest: The URL or the token cannot be one.
    """

    def __init__(
        self,
        host: str,
        token: str | None = None,
        *,
        token_hint: str = "",
        timeout: float | None = 300.0,
        tls_ca: Path | None = None,
        verify: bool = True,
    ) -> None:
        parts = check_url(host)
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise InvalidRequest("the token holds characters that no token has; give it without blanks and quotes")
        import httpx2

        self.url = host.rstrip("/")
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self.token_hint = token_hint
        self._has_token = token is not None
        near = is_loopback(parts.hostname or "")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if near:  # compressing would take longer than sending
            headers["Accept-Encoding"] = "identity"
        self._http = httpx2.Client(
            verify=verify if tls_ca is None else trusting(tls_ca),
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=10.0),
            # A proxy of the environment cannot reach this machine's loopback address.
            trust_env=not near,
        )

    @classmethod
    def local(cls, url: str, data_dir: Path) -> Self:
        """A client with the operator token of a data directory.

        Raises:
            WalmillError: The token cannot be read.
        """
        from walmill.auth.tokens import read_token_file

        return cls(url, read_token_file(data_dir))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    # ---- requests

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Any = None,
        content: bytes | None = None,
        encoding: str | None = None,
    ) -> httpx2.Response:
        """Sends a request and reads the whole answer.

        Args:
            method: HTTP method.
            path: From the root of the server on.
            params: The query string; bools become `true` and `false`, None is left out.
            body: Sent as JSON, if it is not None.
            content: Sent as it is, instead.
            encoding: How the content is compressed, as HTTP names it.

        Raises:
            CannotReach: No answer came.
            Refused: The answer is an error.
        """
        with (
            self.stream(method, path, params=params, body=body, content=content, encoding=encoding) as response,
            self._reaching(),
        ):
            response.read()
            return response

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Any = None,
        content: bytes | None = None,
        encoding: str | None = None,
        headers: Mapping[str, str] | None = None,
        refuse: bool = True,
    ) -> Iterator[httpx2.Response]:
        """Sends a request and gives the answer before its body is read; else as `request`.

        Args:
            method: As in `request`.
            path: As in `request`.
            params: As in `request`.
            body: As in `request`.
            content: As in `request`.
            encoding: As in `request`.
            headers: Further ones.
            refuse: Whether an answer that is an error is raised; else it is given like any other.
        """
        headers = dict(headers or {})
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        if body is not None:
            content, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = self._http.build_request(
            method, self.url + path, params=_query(params) if params else None, content=content, headers=headers
        )
        with self._reaching():
            response = self._http.send(request, stream=True)
        try:
            if refuse and response.status_code >= 300:
                with self._reaching():
                    response.read()
                raise self._refused(response)
            yield response
        finally:
            response.close()

    def pieces(self, response: httpx2.Response) -> Iterator[bytes]:
        """The body of a streamed answer, piece by piece.

        Raises:
            CannotReach: The connection ended before the body did.
        """
        with self._reaching():
            yield from response.iter_bytes()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turns what can happen to a connection into a sentence."""
        import httpx2

        try:
            yield
        except httpx2.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise CannotReach(
                    f"the certificate of {self.url} is not trusted ({_reason(error)}); name the file of who signed it with "
                    "--tls-ca or WALMILL_TLS_CA",
                    arrived=False,
                ) from None
            raise CannotReach(
                f"no server answers at {self.url} ({_reason(error)}); start one with `walmill serve`, or name another with "
                "--host or WALMILL_HOST_URL",
                arrived=False,
            ) from None
        except httpx2.ConnectTimeout:
            raise CannotReach(f"{self.url} cannot be reached: it does not take the connection", arrived=False) from None
        except httpx2.TimeoutException:
            raise CannotReach(
                f"the server at {self.url} did not answer in time; look at its log, and try again"
            ) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise CannotReach(
                f"the connection to {self.url} broke ({_reason(error)}); look at the server's log, and try again"
            ) from None
        except httpx2.InvalidURL as error:
            raise InvalidRequest(f"the host {self.url!r} is not a URL of a server: {error}") from None

    def _refused(self, response: httpx2.Response) -> Refused:
        code = response.status_code
        body: Any = None
        message = ""
        try:
            body = json.loads(response.content)
        except ValueError:
            if "html" in response.headers.get("content-type", ""):
                message = f"the server at {self.url} answered {code} with a web page; is a Walmill there?"
            else:
                text = " ".join(response.text.split())
                message = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        if isinstance(body, dict) and isinstance(body.get("error"), str):
            message = body["error"]
        if code == 401:
            what = "refused the token" if self._has_token else "wants a token"
            message = f"the server at {self.url} {what}" + (f"; {self.token_hint}" if self.token_hint else "")
        elif code == 404 and not isinstance(body, dict):
            message = f"{self.url} does not know {response.request.url.path}; is a Walmill of this version there?"
        elif not message:
            message = f"the server at {self.url} answered {code} and did not say why; look at its log"
        asked = response.headers.get("retry-after", "")
        retry_after = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else None
        if code == 503 and retry_after is not None:
            message += f" (it says: try again after {retry_after} s)"
        return Refused(message, code, body, retry_after)

    def _json(self, response: httpx2.Response) -> Any:
        try:
            return json.loads(response.content)
        except ValueError:
            raise Refused(
                f"the answer of {self.url} to {response.request.url.path} is not JSON; is a Walmill there?",
                response.status_code,
                None,
            ) from None

    def rows_of(self, response: httpx2.Response) -> list[dict[str, Any]]:
        """An answer that is a JSON array of objects.

        Raises:
            Refused: It is something else.
        """
        body = self._json(response)
        if not isinstance(body, list) or not all(isinstance(one, dict) for one in body):
            raise Refused(
                f"the answer of {self.url} to {response.request.url.path} is no list; is a Walmill of this version there?",
                response.status_code,
                body,
            )
        return body

    def warning_of(self, response: httpx2.Response) -> str | None:
        """What an answer warns of; None if there is nothing."""
        warning = self.object_of(response).get("warning") if response.content else None
        return None if warning is None else str(warning)

    def object_of(self, response: httpx2.Response) -> dict[str, Any]:
        """An answer that is a JSON object.

        Raises:
            Refused: It is something else.
        """
        body = self._json(response)
        if not isinstance(body, dict):
            raise Refused(
                f"the answer of {self.url} to {response.request.url.path} is no object; is a Walmill of this version there?",
                response.status_code,
                body,
            )
        return body


def _query(params: Params) -> list[tuple[str, str | int | float | bool | None]]:
    """A query string's members: bools in lower case, without those that are None."""
    pairs = params.items() if isinstance(params, Mapping) else params
    return [
        (name, ("true" if value else "false") if isinstance(value, bool) else str(value))
        for name, value in pairs
        if value is not None
    ]


def _reason(error: Exception) -> str:
    """Why a connection failed, without Python's wrapping."""
    text = str(error)
    if text.startswith("[Errno ") and "] " in text:
        text = text.partition("] ")[2]
    return text[:1].lower() + text[1:] if text else type(error).__name__
