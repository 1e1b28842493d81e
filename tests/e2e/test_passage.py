"""What is passed on as it came: forms, sound, files, and whole providers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import openai
import pytest

from tests.bench.rig import rss_mb, tree
from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import ask, fetch
from tests.support.upstream import Call, Upstream

Start = Callable[..., Daemon]
Sdk = Callable[..., openai.AsyncOpenAI]

KEYS = {"authorization": "Bearer sk-client-1"}


def routes(*upstreams: Upstream, more: str = "") -> str:
    providers = "".join(
        f'  u{n}: {{dialect: openai, base_url: "{up.url}", api_key: sk-up-{n}-secret, direct: true}}\n'
        for n, up in enumerate(upstreams)
    )
    chain = ", ".join(f"u{n}/whisper-{n}" for n in range(len(upstreams)))
    return f"version: 1\nproviders:\n{providers}models:\n  w: {{chain: [{chain}]}}\n{more}"


CLIENTS = 'clients: {a: {key: sk-client-1, models: [w, "u0/*"]}, b: {key: sk-client-2, models: [w]}}\n'


def parts(body: bytes) -> dict[str, bytes]:
    boundary = body.partition(b"\r\n")[0]
    out = {}
    for part in body.split(boundary)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        out[head.partition(b'name="')[2].partition(b'"')[0].decode()] = value.removesuffix(b"\r\n")
    return out


async def test_the_sdk_transcribes_through_an_alias(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(answers.reply({"text": "hello"}))
    sound = bytes(range(256)) * 4000
    said = await sdk(daemon(routes(upstream))).audio.transcriptions.create(model="w", file=("a.wav", sound), language="en")
    assert said.text == "hello"
    got = upstream.requests[0]
    assert (got.method, got.target) == ("POST", "/v1/audio/transcriptions")
    assert parts(got.body) == {"model": b"whisper-0", "language": b"en", "file": sound}
    assert got.header("authorization") == "Bearer sk-up-0-secret"
    assert got.header("content-length") == str(len(got.body))


async def test_a_model_behind_a_large_file_is_found(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply({"text": "hello"}))
    sound = bytes(range(256)) * 20_000  # 5 MB, before the field as curl sends it
    body = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + sound + b"\r\n"
    body += b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nw\r\n--B--\r\n'
    kind = {"content-type": "multipart/form-data; boundary=B"}
    answer = await fetch(daemon(routes(upstream)), "/v1/audio/transcriptions", body, headers=kind)
    assert (answer.status, answer.json()) == (200, {"text": "hello"})
    assert parts(upstream.requests[0].body) == {"file": sound, "model": b"whisper-0"}


async def test_a_form_fails_over_as_long_as_nothing_is_lost(daemon: Start, upstreams: Callable[[], Any]) -> None:
    first, second = await upstreams(), await upstreams()
    first.script(answers.error(503))
    second.script(answers.reply({"text": "b"}))
    form = aiohttp.FormData()
    form.add_field("model", "w")
    form.add_field("file", b"x" * 1000, filename="a")
    running = daemon(routes(first, second))
    async with aiohttp.ClientSession() as session, session.post(f"{running.url}/v1/audio/translations", data=form) as got:
        assert (got.status, await got.json()) == (200, {"text": "b"})
    assert parts(second.requests[0].body)["model"] == b"whisper-1"


async def test_a_rate_limit_that_a_passed_answer_used_up_rests_the_endpoint(daemon: Start, upstreams: Callable[[], Any]) -> None:
    first, second = await upstreams(), await upstreams()
    spent = (answers.JSON, ("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "60"))
    first.always(answers.reply({"text": "a"}, headers=spent))
    second.always(answers.reply({"text": "b"}))
    running = daemon(routes(first, second))
    body = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nw\r\n--B--\r\n'
    kind = {"content-type": "multipart/form-data; boundary=B"}
    said = [(await fetch(running, "/v1/audio/transcriptions", body, headers=kind)).json() for _ in range(3)]
    assert said == [{"text": "a"}, {"text": "b"}, {"text": "b"}]


async def test_a_form_without_a_model_is_refused(daemon: Start, upstream: Upstream) -> None:
    running = daemon(routes(upstream))
    kind = {"content-type": "multipart/form-data; boundary=B"}
    empty = await fetch(running, "/v1/audio/transcriptions", b"--B--\r\n", headers=kind)
    assert (empty.status, empty.error["param"]) == (400, "model")
    plain = await fetch(running, "/v1/audio/transcriptions", b'{"model": "w"}')
    assert (plain.status, plain.error["code"]) == (400, "invalid_content_type")


async def test_speech_comes_as_sound(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    sound = bytes(range(256)) * 100
    upstream.script(answers.reply(sound, headers=[("content-type", "audio/mpeg"), ("set-cookie", "a=b")]))
    got = await sdk(daemon(routes(upstream))).audio.speech.create(model="w", input="hi", voice="alloy")
    assert got.content == sound
    assert got.response.headers["content-type"] == "audio/mpeg"
    assert "set-cookie" not in got.response.headers
    assert upstream.requests[0].json() == {"model": "whisper-0", "input": "hi", "voice": "alloy"}


async def test_files_go_to_the_only_open_provider(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    file = {"id": "file-1", "object": "file", "bytes": 3, "created_at": 1, "filename": "a", "purpose": "batch"}
    listed = {"object": "list", "data": [file], "has_more": False}
    upstream.script(answers.reply(file), answers.reply(listed), answers.reply({"id": "file-1", "deleted": True}))
    client = sdk(daemon(routes(upstream)))
    assert (await client.files.create(file=("a", b"abc"), purpose="batch")).id == "file-1"
    assert [item.id async for item in client.files.list()] == ["file-1"]
    assert (await client.files.delete("file-1")).deleted
    assert [(r.method, r.target) for r in upstream.requests] == [
        ("POST", "/v1/files"),
        ("GET", "/v1/files"),
        ("DELETE", "/v1/files/file-1"),
    ]


async def test_files_of_several_providers_need_a_word(daemon: Start, upstreams: Callable[[], Any]) -> None:
    first, second = await upstreams(), await upstreams()
    running = daemon(routes(first, second))
    refused = await fetch(running, "/v1/files", method="GET")
    assert refused.status == 400
    assert "x-routerd-provider" in refused.error["message"]
    second.script(answers.reply({"data": []}))
    assert (await fetch(running, "/v1/files", method="GET", headers={"x-routerd-provider": "u1"})).status == 200
    assert second.requests[0].target == "/v1/files"


async def test_everything_of_a_provider_is_passed_on_under_our_key(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply(b"\x00\x01", status=201, headers=[("content-type", "x/y"), ("x-more", "1"), ("server", "s")]))
    headers = {**KEYS, "cookie": "c=d", "x-mine": "m", "openai-beta": "b", "x-forwarded-for": "1.2.3.4", "content-type": "a/b"}
    running = daemon(routes(upstream, more=CLIENTS))
    answer = await fetch(running, "/providers/u0/batches/b%2F1?limit=2&x=%20", b"body", method="PUT", headers=headers)
    assert (answer.status, answer.body) == (201, b"\x00\x01")
    assert (answer.headers["content-type"], answer.headers["x-more"]) == ("x/y", "1")
    assert "server" not in answer.headers
    assert answer.headers["x-routerd-target"] == "u0/batches/b%2F1"
    got = upstream.requests[0]
    assert (got.method, got.target, got.body) == ("PUT", "/v1/batches/b%2F1?limit=2&x=%20", b"body")
    assert (got.header("authorization"), got.header("content-type")) == ("Bearer sk-up-0-secret", "a/b")
    assert (got.header("x-mine"), got.header("openai-beta")) == ("m", "b")
    assert [got.header(name) for name in ("cookie", "x-forwarded-for")] == [None, None]


async def test_a_model_operation_at_a_provider_is_a_model_request(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply(), answers.error(500))
    running = daemon(routes(upstream))
    answer = await fetch(running, "/providers/u0/chat/completions", ask("some/model"))
    assert (answer.status, answer.headers["x-routerd-target"]) == (200, "u0/some/model")
    assert upstream.requests[0].json()["model"] == "some/model"
    failed = await fetch(running, "/api/providers/u0/v1/chat/completions", ask("some/model"))
    assert failed.status == 500
    assert failed.error["attempts"][0]["endpoint"] == "u0"


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/providers/u0/x", "sk-client-2", 403),
        ("/providers/u0/chat/completions", "sk-client-2", 403),
        ("/providers/u0/x", "wrong", 401),
        ("/providers/nobody/x", "sk-client-1", 404),
        ("/providers/u0/../admin", "sk-client-1", 404),
        ("/providers/u0/a/%2E%2e/admin", "sk-client-1", 404),
        ("/providers/u0/", "sk-client-1", 404),
    ],
)
async def test_who_may_not_is_refused(daemon: Start, upstream: Upstream, path: str, key: str, status: int) -> None:
    running = daemon(routes(upstream, more=CLIENTS))
    reader, writer = await asyncio.open_connection(*running.address)
    body = json.dumps(ask("m")).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
    raw = await reader.read()
    writer.close()
    assert int(raw.split()[1]) == status
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert upstream.requests == []


async def test_usage_is_counted_beside_the_way(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply({"usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}))
    running = daemon(routes(upstream))
    assert (await fetch(running, "/providers/u0/odd", b"{}")).status == 200
    metrics = running.get_admin("/metrics")[1]
    assert 'routerd_tokens_total{client="_anonymous",provider="u0",route="u0/*",token_type="output"} 7.0' in metrics


async def test_an_answer_that_breaks_is_not_passed_off_as_whole(daemon: Start, upstream: Upstream) -> None:
    async def broken(call: Call) -> None:
        await call.head(200, [("content-type", "a/b"), ("content-length", "100")])
        await call.send(b"x" * 40)
        call.close()

    upstream.script(broken)
    running = daemon(routes(upstream))
    async with aiohttp.ClientSession() as session:
        got = await session.get(f"{running.url}/providers/u0/file")
        with pytest.raises(aiohttp.ClientPayloadError):
            await got.read()
    assert 'routerd_stream_interruptions_total{reason="cut",target="u0/{1}"} 1.0' in running.get_admin("/metrics")[1]


async def test_a_large_upload_is_never_held(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply({"ok": True}))
    running = daemon(routes(upstream))
    before_mb = _largest_mb(running)
    piece = bytes(1024 * 1024)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield piece

    async with aiohttp.ClientSession() as session, session.post(f"{running.url}/providers/u0/big", data=body()) as got:
        assert (got.status, await got.json()) == (200, {"ok": True})
    assert len(upstream.requests[0].body) == 64 * len(piece)
    assert _largest_mb(running) - before_mb < 16


def _largest_mb(running: Daemon) -> float:
    return max(rss_mb(tree(running.process.pid)))


async def test_an_upload_above_the_limit_is_refused(daemon: Start, upstream: Upstream) -> None:
    running = daemon(routes(upstream, more="limits: {upload: 1MiB}\n"))
    answer = await fetch(running, "/providers/u0/big", bytes(1024 * 1024 + 1))
    assert answer.status == 413
    assert upstream.requests == []
