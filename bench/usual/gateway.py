"""The gateway of the usual stack: tokens, users, and everything else passed on."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import argon2
import httpx
import jwt
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from bench.usual.shared import KEY, TUNED, subject_of

SERVICES = {
    "orders": os.environ["ORDERS_URL"],
    "billing": os.environ["BILLING_URL"],
    "notifications": os.environ["NOTIFICATIONS_URL"],
}
KEPT = ("authorization", "content-type", "idempotency-key")
HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
users: dict[str, tuple[uuid.UUID, str]] = {}
"""In memory: registration is not what is compared."""


class Credentials(BaseModel):
    login: str
    password: str
    email: str | None = None


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[None]:
    # By default httpx opens no more than a hundred connections, waits five seconds for one, and then gives up.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        app.state.client = client
        # Tuned: a client that needs a fraction of httpx's CPU, and as little of it with hundreds of connections.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as faster:
            app.state.faster = faster
            yield


app = FastAPI(lifespan=running)


@app.post("/client/users", status_code=201)
async def register(given: Credentials) -> dict[str, Any]:
    user_id = uuid.uuid4()
    users[given.login] = (user_id, await asyncio.to_thread(HASHER.hash, given.password))
    client, contact = app.state.client, {"login": given.login, "email": given.email or ""}
    (await client.post(f"{SERVICES['billing']}/accounts/{user_id}")).raise_for_status()
    (await client.post(f"{SERVICES['notifications']}/contacts/{user_id}", json=contact)).raise_for_status()
    return {"id": str(user_id), "login": given.login, "account": str(user_id)}


@app.post("/client/login")
async def login(given: Credentials) -> dict[str, Any]:
    user_id, hashed = users[given.login]
    await asyncio.to_thread(HASHER.verify, hashed, given.password)
    claims = {"sub": str(user_id), "aud": "orderly", "iss": "orderly", "exp": int(time.time()) + 3600}
    return {"access_token": jwt.encode(claims, KEY, algorithm="RS256"), "token_type": "Bearer", "expires_in": 3600}


@app.api_route("/client/{path:path}", methods=["GET", "POST"])
async def pass_on(path: str, request: Request) -> Response:
    subject_of(request.headers.get("Authorization", ""))
    base = SERVICES.get(path.partition("/")[0])
    if base is None:
        raise HTTPException(404)
    url = f"{base}/{path}?{request.url.query}"
    headers = {name: request.headers[name] for name in KEPT if name in request.headers}
    body = await request.body()
    if TUNED:
        async with app.state.faster.request(request.method, url, headers=headers, data=body) as given:
            return Response(await given.read(), given.status, media_type=given.headers.get("content-type"))
    answer = await app.state.client.request(request.method, url, headers=headers, content=body)
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
