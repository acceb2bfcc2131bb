"""The example service, in MXNet alone and with engines."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import re
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "serving"
CLIENTS, REQUESTS, PATIENCE = 4, 12, 60
MODEL = "mobilenet0.25"
JPEG, PNG, ARRAY = "image/jpeg", "image/png", "application/x-npy"

REASON = "the service needs what pip install 'mxtrt[serving]' brings"
for package in ("fastapi", "prometheus_client", "uvicorn"):
    pytest.importorskip(package, reason=REASON)
httpx = pytest.importorskip("httpx", reason=REASON)
Image = pytest.importorskip("PIL.Image", reason=REASON)

example = runpy.run_path(str(EXAMPLE / "load.py"))


@pytest.fixture(scope="module")
def pixels() -> list[np.ndarray]:
    """Pictures that no two answers are the same of."""
    random = np.random.RandomState(0)
    return [
        np.asarray(Image.fromarray(random.randint(0, 256, (4, 6, 3)).astype(np.uint8)).resize(size))
        for size in [(240, 230), (224, 224), (100, 300)] * (REQUESTS // 3)
    ]


def as_file(picture: np.ndarray, kind: str) -> bytes:
    """The body of a request."""
    file = io.BytesIO()
    if kind == ARRAY:
        np.save(file, picture)
    else:
        Image.fromarray(picture).save(file, {JPEG: "JPEG", PNG: "PNG"}[kind])
    return file.getvalue()


@pytest.fixture(scope="module")
def services() -> Iterator[dict[str, Any]]:
    """One of plain MXNet and one with engines, ready."""
    with (
        example["service"](USE_TENSORRT="0", SERVING_MODEL=MODEL) as plain,
        example["service"](
            USE_TENSORRT="1", MXTRT_BUILD="background", SERVING_MODEL=MODEL
        ) as engines,
    ):
        for one in (plain, engines):
            one.wait_until_ready()
        yield {"plain": plain, "engines": engines}


@pytest.fixture(scope="module")
def client(services: dict[str, Any]) -> Iterator[Any]:
    """A client of the service with engines."""
    with services["engines"].client() as one:
        yield one


def counters(service: Any) -> dict[str, float]:
    """Its metrics, without those of Python."""
    with service.client() as client:
        text = client.get("/metrics").raise_for_status().text
    return {
        name: float(value)
        for name, value in re.findall(r"^((?:mxtrt|predict)_\S+) (\S+)$", text, re.MULTILINE)
    }


def ask(service: Any, pictures: list[np.ndarray]) -> list[dict[str, list[float]]]:
    """What it answers to several clients at once, in the order of the pictures."""

    def of_one(first: int) -> dict[int, Any]:
        answers = {}
        with service.client() as client:
            for number in range(first, len(pictures), CLIENTS):
                kind = (PNG, ARRAY)[number % 2]
                answers[number] = client.post(
                    "/predict",
                    content=as_file(pictures[number], kind),
                    headers={"content-type": kind},
                )
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = {k: v for part in pool.map(of_one, range(CLIENTS)) for k, v in part.items()}
    return [answers[number].raise_for_status().json() for number in range(len(pictures))]


def test_answers_are_those_of_plain_mxnet(services, pixels):
    """To four clients at once, each its own, by the engine alone, and counted."""
    before = {name: counters(one) for name, one in services.items()}
    answers = {name: ask(one, pixels) for name, one in services.items()}
    for plain, ours in zip(answers["plain"], answers["engines"], strict=True):
        assert ours["classes"] == plain["classes"]
        np.testing.assert_allclose(ours["scores"], plain["scores"], rtol=1e-4)
    assert len({tuple(answer["scores"]) for answer in answers["plain"]}) == REQUESTS
    for name, runs in (("plain", 0), ("engines", REQUESTS)):
        now = counters(services[name])
        more = {counter: value - before[name].get(counter, 0) for counter, value in now.items()}
        assert more['predict_seconds_count{status="200"}'] == REQUESTS
        assert more["mxtrt_engine_runs_total"] == runs
        assert more["mxtrt_postponed_total"] == more["mxtrt_fallbacks_total"] == 0


def test_a_jpeg_is_a_picture_too(services, pixels):
    """As plain MXNet sees it, whatever the case of its type and what follows it."""
    answers = []
    for service in services.values():
        with service.client() as client:
            answer = client.post(
                "/predict",
                content=as_file(pixels[0], JPEG),
                headers={"content-type": "Image/JPEG; q=1"},
            )
        answers.append(answer.raise_for_status().json())
    np.testing.assert_allclose(answers[0]["scores"], answers[1]["scores"], rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "body", "status", "told"),
    [
        (PNG, b"no picture", 400, "The body cannot be read as image/png: it is something else."),
        (PNG, b"", 400, "The body cannot be read as image/png: it is something else."),
        (PNG, "jpeg", 400, "The body cannot be read as image/png: it is something else."),
        (JPEG, "half", 400, "The body cannot be read as image/jpeg: image file is truncated"),
        (PNG, "huge", 400, "it has more than 50000000 pixels."),
        (ARRAY, b"PK\x03\x04", 400, "The body cannot be read as application/x-npy: "),
        (ARRAY, "floats", 400, "it is float32 of shape (2, 2, 3) in place of uint8 (height, width"),
        (ARRAY, "objects", 400, "Object arrays cannot be loaded when allow_pickle=False."),
        (ARRAY, "empty", 400, "it is uint8 of shape (0, 2, 3) in place of uint8 (height, width"),
        ("text/plain", b"", 415, "The content type is text/plain; send one of image/jpeg, image/p"),
        ("", b"", 415, "The content type is missing; send one of image/jpeg, image/png, appl"),
        (PNG, bytes((16 << 20) + 1), 413, "The body has more than 16 MiB."),
    ],
)
def test_what_is_no_picture_is_told_in_a_sentence(client, kind, body, status, told):
    """With the status of a mistake of the client's."""
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    made = {
        "jpeg": lambda: as_file(picture, JPEG),
        "half": lambda: as_file(picture, JPEG)[:-10],
        "huge": lambda: as_file(np.zeros((8000, 8000, 3), np.uint8), PNG),
        "floats": lambda: as_file(np.zeros((2, 2, 3), np.float32), ARRAY),
        "objects": lambda: as_file(np.array([None]), ARRAY),
        "empty": lambda: as_file(np.zeros((0, 2, 3), np.uint8), ARRAY),
    }
    content = made[body]() if isinstance(body, str) else body
    headers = {"content-type": kind} if kind else {}
    answer = client.post("/predict", content=content, headers=headers)
    assert answer.status_code == status
    sentence = answer.json()["detail"]
    assert told in sentence
    assert re.fullmatch(r"The [^\n]+\.", sentence)
    assert " at 0x" not in sentence


@pytest.fixture(scope="module")
def app() -> ModuleType:
    """The module of the service, in this process."""
    spec = importlib.util.spec_from_file_location("app", EXAMPLE / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVING_MODEL", MODEL)
        patch.setitem(sys.modules, "app", module)  # where FastAPI looks for annotations
        spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def started(app: ModuleType) -> AsyncIterator[Any]:
    """A client of the service in this process, from its start to its end."""
    transport = httpx.ASGITransport(app.app)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://here") as client,
    ):
        yield client


def test_a_client_that_leaves_is_no_error_of_the_service(app):
    """Nothing is predicted, and no traceback is written."""

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    request = app.Request({"type": "http"}, receive)
    with pytest.raises(app.HTTPException) as raised:
        asyncio.run(app.read(request))
    assert raised.value.status_code == 400


def test_it_lives_before_it_is_ready(app, monkeypatch):
    """Requests do not wait for the network: they are told to come again."""
    held = threading.Event()
    monkeypatch.setattr(app, "warm_up", lambda net: held.wait(PATIENCE))

    async def go() -> None:
        async with started(app) as client:
            assert (await client.get("/healthz")).json() == "live"
            for answer in (await client.get("/readyz"), await client.post("/predict")):
                assert answer.status_code == 503
                assert answer.json()["detail"] == "The network is not ready; ask again in a second."
            held.set()
            await asyncio.wait([app.app.state.warm_up])
            assert (await client.get("/healthz")).json() == "live"
            assert (await client.get("/readyz")).json() == "ready"

    asyncio.run(go())


def test_a_network_that_fails_is_not_alive(app, monkeypatch):
    """So that whoever watches the service starts it again."""

    def fail(net: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(app, "warm_up", fail)

    async def go() -> None:
        async with started(app) as client:
            await asyncio.wait([app.app.state.warm_up])
            answer = await client.get("/healthz")
            assert answer.status_code == 500
            assert answer.json()["detail"] == "The network failed while it was warmed up: no memory"
            assert (await client.get("/readyz")).status_code == 503

    asyncio.run(go())


def test_what_is_under_way_is_answered_when_it_stops(pixels):
    """A request that came before SIGTERM; then the exit code is 0."""
    body = as_file(pixels[0], PNG)
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: {PNG}\r\n"
    head += f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    with example["service"](USE_TENSORRT="1", SERVING_MODEL=MODEL) as service:
        service.wait_until_ready()
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), PATIENCE) as connection:
            connection.sendall(head.encode())
            with connection.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.1 100 Continue\r\n"
                service.process.terminate()
                assert any("Shutting down" in line for line in service.process.stderr)
                connection.sendall(body)
                assert b"HTTP/1.1 200 OK" in answer.read()
        assert service.process.wait(PATIENCE) == 0
        assert "Traceback" not in service.process.stderr.read()


def test_a_network_that_there_is_not_is_told():
    """The service does not start."""
    with (
        pytest.raises(RuntimeError, match=r"(?s)did not start.*Model no_such is not supported"),
        example["service"](SERVING_MODEL="no_such"),
    ):
        pytest.fail("it started")


def test_the_load_test_prints_both_services():
    """A row for each in every round, and all rounds together."""
    done = subprocess.run(
        [
            *(sys.executable, "load.py", f"--model={MODEL}"),
            *("--requests=8", "--clients=2", "--rounds=2"),
        ],
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(plain MXNet|mxtrt) +[\d.]+ +[\d.]+ +[\d.]+$", done.stdout, re.MULTILINE)
    assert rows == ["plain MXNet", "mxtrt", "mxtrt", "plain MXNet", "plain MXNet", "mxtrt"]
    assert re.search(r"mxtrt to plain MXNet, round by round: [\d.]+ \(", done.stdout)
