"""The controller's API as the commands use it: typed answers, and errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from fleet.api.schemas import Status
from fleet.settings import find_api_url
from wire.errors import ModelfleetError, PeerError, TransferError

from .bearer import find_token, trusted

ModelT = TypeVar("ModelT", bound=BaseModel)

TIMEOUT_S: Final = 30.0
UPLOAD_TIMEOUT_S: Final = 600.0
READ_BYTES: Final = 256 * 1024


class Client:
    """One session with the API; use as a context manager."""

    def __init__(self, controller: str | None = None, *, fleet: Path | None = None) -> None:
        """Find the API; connect at the first request.

        Raises:
            ConfigError: There is no fleet here, or the token cannot be read.
        """
        self.url = find_api_url(controller, fleet)
        # trust_env: a proxy for the internet must not get what is meant for loopback.
        self._http = httpx.Client(
            base_url=self.url,
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=trusted(self.url, fleet),
        )
        self._http.headers["content-type"] = "application/json"
        if token := find_token(self.url, fleet):
            self._http.headers["authorization"] = f"Bearer {token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(
        self, path: str, kind: type[ModelT], *, match: Mapping[str, str] | None = None, **query: Any
    ) -> ModelT:
        """Return one thing, about devices with these tags only."""
        return _parse(kind, self._request("GET", path, params=_pairs(match, query)))

    def get_bytes(self, path: str) -> bytes:
        """Return one thing as the controller has it."""
        return self._request("GET", path).content

    def status(self) -> Status:
        """Return how the controller is; it answers when it is not well, too."""
        try:
            answer = self._http.get("/v1/status")
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from exc
        if answer.status_code not in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE):
            raise _refused(answer)
        return _parse(Status, answer)

    def list(
        self, path: str, kind: type[ModelT], *, match: Mapping[str, str] | None = None, **query: Any
    ) -> list[ModelT]:
        """Return a listing, of devices with these tags only."""
        answer = self._request("GET", path, params=_pairs(match, query))
        return _parse_list(kind, answer)

    def post(
        self,
        path: str,
        body: BaseModel | None,
        kind: type[ModelT],
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> ModelT:
        """Send a request that changes something; return the answer."""
        content = body.model_dump_json().encode() if body is not None else None
        return _parse(kind, self._request("POST", path, content=content, timeout=timeout_s))

    def post_list(
        self, path: str, bodies: Sequence[BaseModel], kind: type[ModelT]
    ) -> Sequence[ModelT]:
        """Send several things, all or nothing."""
        content = json.dumps([body.model_dump(mode="json") for body in bodies]).encode()
        return _parse_list(kind, self._request("POST", path, content=content))

    def patch(self, path: str, body: BaseModel, kind: type[ModelT]) -> ModelT:
        """Change a thing; return it."""
        return _parse(kind, self._request("PATCH", path, content=body.model_dump_json().encode()))

    def put(self, path: str, body: BaseModel, kind: type[ModelT]) -> ModelT:
        """Make a thing be as given; return it."""
        return _parse(kind, self._request("PUT", path, content=body.model_dump_json().encode()))

    def drop(self, path: str, kind: type[ModelT], **query: Any) -> ModelT:
        """Remove a thing; return what the controller says of that."""
        return _parse(kind, self._request("DELETE", path, params=_pairs(None, query)))

    def delete(self, path: str) -> None:
        """Remove a thing."""
        self._request("DELETE", path)

    def upload(self, path: str, content: Iterator[bytes], size: int, kind: type[ModelT]) -> ModelT:
        """Send a file as a raw stream."""
        headers = {"content-type": "application/octet-stream", "content-length": str(size)}
        answer = self._request(
            "POST", path, content=content, headers=headers, timeout=UPLOAD_TIMEOUT_S
        )
        return _parse(kind, answer)

    def stream(self, path: str, **query: Any) -> Iterator[str]:
        """Return the lines of a stream of server-sent events, until it ends.

        Raises:
            TransferError: It broke off.
            PeerError: The controller refused it.
        """
        try:
            with self._http.stream("GET", path, params=query, timeout=None) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    raise _refused(answer)
                yield from answer.iter_lines()
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from exc

    def fetch(self, path: str, body: BaseModel) -> Iterator[bytes]:
        """Return the pieces of a binary answer, as they come.

        Raises:
            TransferError: It broke off.
            PeerError: The controller refused it.
        """
        content = body.model_dump_json().encode()
        try:
            with self._http.stream("POST", path, content=content) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refused(answer)
                yield from answer.iter_bytes()
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from exc

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise self._unreachable(exc) from exc
        if answer.is_success:
            return answer
        raise _refused(answer)

    def _unreachable(self, exc: Exception) -> TransferError:
        why = str(exc) or type(exc).__name__
        return TransferError(
            f"the controller does not answer on {self.url}: {why}",
            code="controller_unreachable",
            hint="start it with `fleet up`, or name another one with --controller",
        )


def _refused(answer: httpx.Response) -> ModelfleetError:
    try:
        body = answer.json()
        return PeerError(
            str(body["message"]), code=str(body["code"]), hint=str(body.get("hint", ""))
        )
    except (ValueError, KeyError, TypeError):
        return PeerError(
            f"{answer.request.url} answered {answer.status_code}: this is no fleet controller",
            code="not_a_controller",
            hint="check --controller, FLEET_CONTROLLER and [api] listen in fleet.toml",
        )


def _parse(kind: type[ModelT], answer: httpx.Response) -> ModelT:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as exc:
        raise _strange(answer) from exc


def _pairs(match: Mapping[str, str] | None, query: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = [("match", f"{key}={value}") for key, value in (match or {}).items()]
    return pairs + [(key, str(value)) for key, value in query.items() if value is not None]


def _parse_list(kind: type[ModelT], answer: httpx.Response) -> list[ModelT]:
    try:
        return TypeAdapter(list[kind]).validate_json(answer.content)  # type: ignore[valid-type]
    except ValidationError as exc:
        raise _strange(answer) from exc


def _strange(answer: httpx.Response) -> PeerError:
    return PeerError(
        f"{answer.request.url} answered something that this version does not understand",
        code="answer_invalid",
        hint="`fleet --version` here and on the controller should be the same",
    )


def all_pages(
    client: Client,
    path: str,
    kind: type[ModelT],
    key: Callable[[ModelT], str],
    *,
    match: Mapping[str, str] | None = None,
) -> list[ModelT]:
    """Return a whole listing, page after page; `key` is what the next page begins after."""
    found: list[ModelT] = []
    page: list[ModelT] | None = None
    while page is None or page:
        after = key(found[-1]) if found else None
        page = client.list(path, kind, match=match, after=after)
        found += page
    return found
