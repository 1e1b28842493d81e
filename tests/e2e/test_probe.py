"""`routerd probe` against real daemons: the table, what counts as a failure, and the exit status."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import subprocess
from collections.abc import Callable

from tests.support import answers
from tests.support.daemon import ROUTERD, Daemon
from tests.support.llama import Engine
from tests.support.ports import closed_port
from tests.support.process import REPO, clean_environ
from tests.support.upstream import Call, Upstream

Start = Callable[..., Daemon]
DEMO = """
version: 1
providers:
  demo: {dialect: simulator, simulator: {first_token: 1ms, tokens_per_s: 1000, reply: "all is well here today"}}
  broken: {dialect: simulator, simulator: {first_token: 1ms, fail_ratio: 1.0}}
models:
  good: {chain: [demo/echo]}
  also-good: {chain: [demo/echo]}
  "wild-*": {chain: ["demo/{1}"]}
"""
BAD = DEMO + "  bad: {chain: [broken/echo]}\n"


async def probe(*args: str, env: dict[str, str] | None = None, cwd: pathlib.Path = REPO) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        lambda: subprocess.run(
            [*ROUTERD, "probe", *args], cwd=cwd, env=clean_environ(env), capture_output=True, text=True, timeout=60, check=False
        )
    )


def rows(output: str) -> dict[str, str]:
    return {line.split()[0]: line for line in output.splitlines()[1:-1]}


async def test_every_model_of_the_file_is_tried_both_ways(daemon: Start) -> None:
    found = await probe("--url", daemon(DEMO).url)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""  # no bar where nobody looks
    assert found.stdout.splitlines()[0].split() == ["MODEL", "TARGET", "UNARY", "FIRST", "TOKEN", "TOKENS/S", "VERDICT"]
    assert list(rows(found.stdout)) == ["good", "also-good"]
    assert rows(found.stdout)["good"].split()[1] == "demo/echo"
    assert rows(found.stdout)["good"].endswith("ok")
    assert found.stdout.endswith("2 models, all answer\n")


async def test_one_that_fails_is_told_with_its_error_and_the_exit_status(daemon: Start) -> None:
    running = daemon(BAD)
    found = await probe("--url", running.url + "/v1")
    assert found.returncode == 1
    assert rows(found.stdout)["good"].endswith("ok")
    assert " 503 " in rows(found.stdout)["bad"] or " 502 " in rows(found.stdout)["bad"]
    assert rows(found.stdout)["bad"].split()[1] == "broken/echo"  # who failed, though nobody answered
    assert found.stdout.endswith("3 models, 1 failed\n")
    only = await probe("--url", running.url, "--model", "*good", "--stream")
    assert (only.returncode, len(rows(only.stdout))) == (0, 2)


async def test_names_that_are_not_listed_can_be_tried(daemon: Start) -> None:
    running = daemon(DEMO)
    found = await probe("--model", "wild-x", "--model", "unknown", "--unary", "--json", env={"ROUTERD_LISTEN": running.url[7:]})
    told = json.loads(found.stdout)
    assert (found.returncode, told["ok"]) == (1, False)
    good, unknown = told["models"]
    assert (good["model"], good["ok"], good["unary"]["target"]) == ("wild-x", True, "demo/x")
    assert "stream" not in good
    assert (unknown["unary"]["status"], unknown["unary"]["fault"].split(":")[0]) == (404, "404 model_not_found")


async def test_a_stream_that_breaks_and_an_empty_answer_fail(daemon: Start, upstream: Upstream) -> None:
    async def answer(call: Call) -> None:
        body = call.request.json()
        if body["model"] == "cut":
            await (answers.cut(answers.event(answers.delta("x"))) if body.get("stream") else answers.reply())(call)
        elif body["model"] == "slow":
            await call.client_gone()
        else:
            await (answers.stream([f"{n} " for n in range(5)]) if body.get("stream") else answers.reply())(call)

    upstream.always(answer)
    text = f'version: 1\nproviders:\n  up: {{base_url: "{upstream.url}", auth: {{type: none}}, direct: true}}\n'
    running = daemon(text)
    args = [part for name in ("up/cut", "up/slow", "up/fine") for part in ("--model", name)]
    found = await probe("--url", running.url, "--json", "--timeout", "1s", *args)
    cut, slow, fine = json.loads(found.stdout)["models"]
    assert found.returncode == 1
    assert (cut["unary"]["fault"], bool(cut["stream"]["fault"])) == ("", True)
    assert "within 1 s" in slow["unary"]["fault"]
    assert fine["ok"]
    assert fine["stream"]["first_token_s"] > 0
    assert upstream.requests[0].json()["max_tokens"] == 16


async def test_found_models_are_tried_only_when_named(daemon: Start, upstream: Upstream) -> None:
    async def answer(call: Call) -> None:
        listing = json.dumps({"data": [{"id": "found"}]}).encode()
        await answers.reply(listing if call.request.method == "GET" else None)(call)

    upstream.always(answer)
    more = f'  up: {{base_url: "{upstream.url}", direct: true, discover: true}}\n'
    running = daemon(DEMO.replace("models:\n", more + "models:\n"))
    await upstream.received(1)
    assert list(rows((await probe("--url", running.url)).stdout)) == ["good", "also-good"]
    named = await probe("--url", running.url, "--model", "up/*", "--unary")
    assert (named.returncode, list(rows(named.stdout))) == (0, ["up/found"])


async def test_a_file_is_tried_without_a_daemon_of_ones_own(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(DEMO + "clients: {c: {key: the-key}}\n")
    found = await probe("--config", str(file), env={"ROUTERD_KEY": "the-key", "ROUTERD_ADMIN": "nonsense"})
    assert (found.returncode, found.stdout.splitlines()[-1]) == (0, "2 models, all answer"), found.stderr
    file.write_text("version: 1\nmodels: {m: {chain: [gone/x]}}\n")
    wrong = await probe("--config", str(file))
    assert wrong.returncode == 2
    assert "unknown-provider" in wrong.stderr


async def test_nobody_there_and_a_key_that_is_refused_are_3_and_nonsense_is_2(daemon: Start) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    for more in ([], ["--model", "m"]):
        found = await probe("--url", url, *more)
        assert (found.returncode, found.stdout) == (3, "")
        assert f"cannot reach {url}" in found.stderr
    running = daemon(DEMO + "clients: {c: {key: the-key}}\n")
    refused = await probe("--url", running.url, "--key", "other")
    assert refused.returncode == 3
    assert "401 invalid_api_key" in refused.stderr
    assert (await probe("--url", running.url, "--key", "the-key", "--stream")).returncode == 0
    for wrong in (["--url", "ftp://x"], ["--concurrency", "0"], ["--timeout", "soon"], ["--url", url, "--config", "x"]):
        assert (await probe(*wrong)).returncode == 2


async def test_no_model_at_all_is_a_failure(daemon: Start) -> None:
    found = await probe("--url", daemon("version: 1\nallow_empty: true\n").url)
    assert found.returncode == 1
    assert "no model" in found.stderr


async def test_what_comes_in_one_piece_has_no_rate_and_a_slow_stream_has_its_own(daemon: Start, upstream: Upstream) -> None:
    async def answer(call: Call) -> None:
        if not call.request.json().get("stream"):
            return await answers.reply()(call)
        pieces = [answers.event(answers.delta(f"{n} ")) for n in range(5)]
        pieces += [answers.event(answers.delta(finish="stop")), answers.DONE]
        if call.request.json()["model"] == "burst":
            await call.body(200, (("content-type", "text/event-stream"),), b"".join(pieces))
            return None
        await call.head(200, answers.EVENT_STREAM)
        for piece in pieces:
            await asyncio.sleep(0.05)
            await call.chunk(piece)
        await call.end_chunks()
        return None

    upstream.always(answer)
    running = daemon(f'version: 1\nproviders:\n  up: {{base_url: "{upstream.url}", direct: true}}\n')
    found = await probe("--url", running.url, "--json", "--model", "up/burst", "--model", "up/slow")
    burst, slow = json.loads(found.stdout)["models"]
    assert found.returncode == 0
    assert burst["stream"]["tokens_per_s"] is None
    assert 5 < slow["stream"]["tokens_per_s"] < 21  # four more tokens, 50 ms each


async def test_a_terminal_sees_a_bar_from_the_start_and_nothing_of_it_at_the_end(daemon: Start) -> None:
    running = daemon(DEMO)
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *ROUTERD, "probe", "--url", running.url, "--stream",
        cwd=REPO, env=clean_environ(None), stdout=asyncio.subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "2 models, all answer" in out.decode()
    assert "] 0/2" in shown
    assert "] 2/2" in shown
    assert shown.endswith("\r\x1b[K")


async def test_a_real_engine_is_tried_both_ways(tmp_path: pathlib.Path, engine: Engine) -> None:
    file = tmp_path / "x.yaml"
    address = engine.url.removesuffix("/v1")
    provider = f'llama: {{preset: llamacpp, base_url: "{address}", health: true, load: true}}'
    file.write_text(f"version: 1\nproviders:\n  {provider}\nmodels:\n  tiny: {{chain: [llama/tiny]}}\n")
    found = await probe("--config", str(file), "--json")
    assert found.returncode == 0, found.stdout + found.stderr
    (tiny,) = json.loads(found.stdout)["models"]
    assert (tiny["unary"]["target"], tiny["stream"]["status"]) == ("llama/tiny", 200)
    assert tiny["stream"]["first_token_s"] > 0


async def test_a_model_that_cannot_chat_is_asked_for_an_embedding(daemon: Start, upstream: Upstream) -> None:
    """Said in the file by `offers`, or by the provider: OpenAI's words for an embedding model that is asked to chat."""

    async def answer(call: Call) -> None:
        body = call.request.json()
        if call.request.target.endswith("/embeddings") and body["model"] != "none":
            vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
            await call.body(200, (answers.JSON,), json.dumps({"object": "list", "model": "m", "data": [vector]}).encode())
        else:
            error = {"message": "This is not a chat model", "type": "invalid_request_error", "param": "model", "code": None}
            await call.body(404, (answers.JSON,), json.dumps({"error": error}).encode())

    upstream.always(answer)
    text = f"""
version: 1
providers:
  vectors: {{base_url: "{upstream.url}", auth: {{type: none}}, offers: {{embedding: embeddings}}}}
  anything: {{base_url: "{upstream.url}", auth: {{type: none}}}}
  pictures: {{base_url: "{upstream.url}", auth: {{type: none}}, offers: {{image: images/generations}}}}
models:
  said: {{chain: [vectors/e]}}
  found: {{chain: [anything/e]}}
  neither: {{chain: [pictures/p]}}
"""
    found = await probe("--url", daemon(text).url)
    told = rows(found.stdout)
    assert found.returncode == 0, found.stdout
    assert told["said"].endswith(" s            -         -  ok (an embedding)")
    assert told["found"].endswith("  ok (an embedding)")
    assert told["neither"].endswith("  not tried: neither chat nor embeddings")
    assert found.stdout.endswith("3 models, all answer\n")
    missing = await probe("--url", daemon(text.replace("anything/e", "anything/none")).url, "--model", "found")
    assert missing.returncode == 1
    assert "502 upstream_model_missing: This is not a chat model" in missing.stdout


async def test_a_file_that_wants_a_key_says_which_flag_takes_it(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(DEMO + "clients: {team: {key: sk-team}}\n")
    found = await probe("--config", str(file))
    assert found.returncode == 3
    assert f"{file} refused to list its models: 401 invalid_api_key" in found.stderr
    assert "--key or ROUTERD_KEY" in found.stderr
    assert (await probe("--config", str(file), "--key", "sk-team", "--unary")).returncode == 0
