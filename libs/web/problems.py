"""Problems: errors as RFC 9457 ``application/problem+json``. The one place where a kind becomes a status."""

from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import ValidationError

from libs.errors import FieldError, Kind, Refusal

STATUSES: Final = {
    Kind.MALFORMED: HTTPStatus.UNPROCESSABLE_ENTITY,
    Kind.INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    Kind.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Kind.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Kind.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Kind.NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
    Kind.CONFLICT: HTTPStatus.CONFLICT,
    Kind.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Kind.TOO_SLOW: HTTPStatus.REQUEST_TIMEOUT,
    Kind.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
BODY_AT_MOST: Final = 64 * 1024
FIELDS_AT_MOST: Final = 50
"""How many fields a problem names: an answer must not be much longer than what it answers."""

RETRY_AFTER_S: Final = 1
TYPE_PREFIX: Final = "/problems/"


def problem_response(refusal: Refusal, *, trace_id: str = "") -> web.Response:
    """Write a refusal as a response."""
    status = STATUSES[refusal.kind]
    headers = {}
    if refusal.replayed:
        headers["Idempotent-Replayed"] = "true"
    if refusal.kind is Kind.UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if refusal.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="orderly"'
    return problem(status, refusal.slug, refusal.detail, refusal.fields, trace_id=trace_id, headers=headers)


def problem(
    status: int,
    slug: str,
    detail: str,
    fields: tuple[FieldError, ...] = (),
    *,
    trace_id: str = "",
    headers: dict[str, str] | None = None,
) -> web.Response:
    """Write an RFC 9457 problem; `type` is stable and is what clients may branch on."""
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + slug,
        "title": slug.replace("_", " ").capitalize(),
        "status": int(status),
        "detail": detail,
    }
    if fields:
        body["errors"] = [{"field": field.field, "detail": field.detail} for field in fields]
    if trace_id:
        body["trace_id"] = trace_id
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/problem+json", headers=headers
    )


def invalid_request(error: ValidationError, *, where: str) -> Refusal:
    """Turn pydantic's findings into a refusal that names each field, or the first ones. Echoes no values."""
    fields = []
    for found in error.errors(include_url=False, include_input=False, include_context=False)[:FIELDS_AT_MOST]:
        path = ".".join(str(part)[:100] for part in found["loc"] if part not in ("function-before", "function-after"))
        message = "is not a known field" if found["type"] == "extra_forbidden" else found["msg"]
        fields.append(FieldError(path or where, message.removeprefix("Value error, ")))
    detail = "; ".join(f"{field.field}: {field.detail}" for field in fields[:5])
    return Refusal("invalid_request", detail, Kind.INVALID, fields)


def body_too_large() -> Refusal:
    """Make the refusal of a body of more than `BODY_AT_MOST` bytes."""
    return Refusal("body_too_large", f"the body may have {BODY_AT_MOST} bytes at most", Kind.TOO_LARGE)


def from_http_exception(error: web.HTTPException) -> Refusal | None:
    """Turn aiohttp's own refusals into ours; None for what is no refusal."""
    match error.status:
        case HTTPStatus.NOT_FOUND:
            return Refusal("no_such_route", "there is nothing at this path", Kind.NOT_FOUND)
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return Refusal("method_not_allowed", "this path does not answer that method", Kind.NOT_ALLOWED)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return body_too_large()
        case _:
            return None
