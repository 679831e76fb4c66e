"""The gateway of the usual stack: tokens, users, and everything else passed on."""

import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import argon2
import httpx
import jwt
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from bench.usual.shared import KEY, PUBLIC_KEY

SERVICES = {
    "orders": os.environ["ORDERS_URL"],
    "billing": os.environ["BILLING_URL"],
    "notifications": os.environ["NOTIFICATIONS_URL"],
}
HASHER = argon2.PasswordHasher()
users: dict[str, tuple[uuid.UUID, str]] = {}
"""In memory: registration is not what is compared."""


class Credentials(BaseModel):
    login: str
    password: str
    email: str | None = None


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=30) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=running)


@app.post("/client/users", status_code=201)
async def register(given: Credentials) -> dict[str, Any]:
    user_id = uuid.uuid4()
    users[given.login] = (user_id, HASHER.hash(given.password))
    (await app.state.client.post(f"{SERVICES['billing']}/accounts/{user_id}")).raise_for_status()
    return {"id": str(user_id), "login": given.login, "account": str(user_id)}


@app.post("/client/login")
async def login(given: Credentials) -> dict[str, Any]:
    user_id, hashed = users[given.login]
    HASHER.verify(hashed, given.password)
    claims = {"sub": str(user_id), "aud": "orderly", "iss": "orderly", "exp": int(time.time()) + 3600}
    return {"access_token": jwt.encode(claims, KEY, algorithm="RS256"), "token_type": "Bearer", "expires_in": 3600}


@app.api_route("/client/{path:path}", methods=["GET", "POST"])
async def pass_on(path: str, request: Request) -> Response:
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        jwt.decode(token, PUBLIC_KEY, algorithms=["RS256"], audience="orderly")
    except jwt.PyJWTError:
        raise HTTPException(401) from None
    base = SERVICES.get(path.partition("/")[0])
    if base is None:
        raise HTTPException(404)
    kept = ("authorization", "content-type", "idempotency-key")
    answer = await app.state.client.request(
        request.method,
        f"{base}/{path}",
        params=request.query_params,
        headers={name: request.headers[name] for name in kept if name in request.headers},
        content=await request.body(),
    )
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
