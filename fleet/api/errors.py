"""Every failure as `{"code", "message", "hint"}` with the status that says whose turn it is."""

from __future__ import annotations

import logging
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from wire.errors import BundleError, ConfigError, ModelfleetError, PeerError, StorageError

from .schemas import ErrorBody

log = logging.getLogger(__name__)

NOT_FOUND: Final = frozenset(
    {
        "unknown_device",
        "unknown_release",
        "unknown_rollout",
        "unknown_model",
        "unknown_token",
        "unknown_observer",
        "unknown_document",
        "unknown_chunk",
        "unknown_alert",
        "unknown_silence",
        "unknown_alias",
        "unknown_run",
        "no_captures",
    }
)
CONFLICT: Final = frozenset(
    {
        "device_exists",
        "token_exists",
        "last_admin",
        "version_exists",
        "rollout_ended",
        "rollout_proposed",
        "not_proposed",
        "rollout_running",
        "no_device_matches",
        "too_many_models",
        "version_conflict",
        "not_signed",
        "below_floor",
        "alert_not_firing",
        "alias_at_start",
        "run_exists",
        "device_offline",
        "model_not_served",
        "capture_not_wanted",
        "capture_full",
    }
)
UNPROVEN: Final = frozenset({"no_token", "token_unknown", "token_revoked", "token_expired"})
NAMELESS: Final = frozenset({"no_certificate"})
FORBIDDEN: Final = frozenset(
    {
        "no_right",
        "out_of_scope",
        "same_person",
        "foreign_origin",
        "revoked",
        "not_ours",
        "not_a_device",
        "certificate_expired",
    }
)
TOO_LARGE: Final = frozenset({"bundle_too_large", "body_too_large", "run_too_large"})
HURRIED: Final = {"too_many_requests": 1, "too_many_renewals": 60}
"""After how many seconds to try again."""
BUSY: Final = frozenset({"too_many_watchers", "too_many_labels"})


def install(app: FastAPI) -> None:
    """Make `app` answer every failure in this shape."""
    app.add_exception_handler(ModelfleetError, _on_ours)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_bug)


def status_of(error: ModelfleetError) -> int:
    """Return the HTTP status of an error."""
    if error.code in NOT_FOUND:
        return 404
    if error.code in UNPROVEN | NAMELESS:
        return 401
    if error.code in FORBIDDEN:
        return 403
    if error.code in CONFLICT:
        return 409
    if error.code in TOO_LARGE:
        return 413
    if error.code in HURRIED:
        return 429
    if error.code in BUSY:
        return 503
    match error:
        case PeerError() | BundleError() | ConfigError():
            return 422
        case StorageError():
            return 503
        case _:
            return 502


def no_model(model: str) -> PeerError:
    """Return the error of a model that has no release."""
    return PeerError(
        f"there is no model {model[:80]!r}",
        code="unknown_model",
        hint="`fleet models` lists them; `fleet push` adds the first release of one",
    )


def answer(status: int, code: str, message: str, hint: str = "") -> JSONResponse:
    """Return an error's response."""
    body = ErrorBody(code=code, message=message, hint=hint)
    return JSONResponse(body.model_dump(), status_code=status)


def answer_to(error: ModelfleetError) -> JSONResponse:
    """Return the response to an error of ours."""
    response = answer(status_of(error), error.code, str(error), error.hint)
    if error.code in UNPROVEN:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.code in HURRIED:
        response.headers["Retry-After"] = str(HURRIED[error.code])
    return response


async def _on_ours(_request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, ModelfleetError)  # noqa: S101 - registered for this type only
    if isinstance(exc, StorageError):
        log.error("%s (%s)", exc, exc.hint)
    return answer_to(exc)


async def _on_http(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)  # noqa: S101 - registered for this type only
    path = request.url.path[:200]
    if exc.status_code == 404:
        return answer(
            404, "not_found", f"there is nothing at {path}", "see /openapi.json for all paths"
        )
    if exc.status_code == 405:
        hint = f"allowed: {(exc.headers or {}).get('Allow', 'see /openapi.json')}"
        return answer(405, "method_not_allowed", f"{request.method} is not for {path}", hint)
    if exc.status_code == 413:
        return answer(413, "body_too_large", str(exc.detail), "send it in several requests")
    if exc.status_code == 408:
        return answer(408, "body_too_slow", str(exc.detail), "send it again, over a better way")
    if exc.status_code == 400:
        return answer(400, "body_not_json", str(exc.detail), "see /openapi.json for shapes")
    if exc.status_code == 415:
        hint = "send the header `Content-Type: application/json`"
        return answer(415, "body_not_json", str(exc.detail), hint)
    return answer(exc.status_code, "http_error", str(exc.detail))


async def _on_invalid(_request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - registered for this type only
    first = exc.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    # Never the input itself: it may be large, or not representable.
    return answer(
        422, "invalid_request", f"{where}: {first['msg']}"[:300], "see /openapi.json for shapes"
    )


async def _on_bug(request: Request, exc: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=exc)
    return answer(500, "internal_error", "the controller failed to answer", "see its log")
