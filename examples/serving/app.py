"""A network of Gluon's model zoo behind HTTP: ``USE_TENSORRT=1 python app.py``.

README.md in this folder says what it answers and which variables it reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated

try:
    import mxtrt  # also what MXNet needs to be imported with NumPy 1.24 or later
    from mxtrt import metrics
except ModuleNotFoundError:
    mxtrt = None  # type: ignore[assignment]

import mxnet as mx
import numpy as np
import uvicorn
from anyio import to_thread
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from PIL import Image, ImageOps, UnidentifiedImageError
from prometheus_client import Histogram, make_asgi_app
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

MODEL = os.environ.get("SERVING_MODEL", "resnet18_v1")
THREADS = int(os.environ.get("SERVING_THREADS", "4"))
SIZE = 299 if MODEL == "inceptionv3" else 224

MOST_BYTES, MOST_PIXELS = 16 << 20, 50_000_000
FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}  # by content type; and ARRAY
ARRAY = "application/x-npy"

MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32) * 255

SECONDS = Histogram(
    "predict_seconds",
    "From the headers of a request for a prediction until its answer.",
    ["status"],
    buckets=[0.001 * 2**i for i in range(14)],
)
if mxtrt is not None:
    metrics.register()

# Held while the network's operators are queued, not while they compute: two BatchNorms of one block
# that two threads queue at once may wait for each other for ever, in plain MXNet's engine.
WITH_ENGINES = mxtrt is not None and os.environ.get("USE_TENSORRT") == "1"
queueing = contextlib.nullcontext() if WITH_ENGINES else threading.Lock()


class Answer(BaseModel):
    """The best classes of a picture.

    Attributes:
        classes: Their numbers, best first.
        scores: What the network says of each (before a softmax).
    """

    classes: list[int]
    scores: list[float]


def network() -> mx.gluon.HybridBlock:
    """The network, with random weights; a real service loads its own: ``net.load_parameters``."""
    mx.random.seed(0)
    net = mx.gluon.model_zoo.vision.get_model(MODEL)
    net.initialize(mx.init.MSRAPrelu())
    net.hybridize()  # without static_alloc, with which MXNet's blocks are for one thread
    return net


def warm_up(net: mx.gluon.HybridBlock) -> None:
    """Have done what a first request would wait for: memory, and the engines of mxtrt."""
    picture = mx.nd.zeros((1, 3, SIZE, SIZE))
    net(picture).wait_to_read()
    if mxtrt is not None:
        mxtrt.ready(net)
    net(picture).wait_to_read()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the network; it is warmed up while the service says that it is not ready yet."""
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    app.state.net = network()
    app.state.warm_up = asyncio.create_task(asyncio.to_thread(warm_up, app.state.net))
    yield
    await asyncio.wait([app.state.warm_up])


app = FastAPI(title=f"{MODEL} of MXNet's model zoo", lifespan=lifespan)
app.mount("/metrics", make_asgi_app())


@app.middleware("http")
async def measure(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Observe how long each prediction takes, the wait for a free thread included."""
    if request.url.path != "/predict":
        return await call_next(request)
    begin, status = time.perf_counter(), 500
    try:
        response = await call_next(request)
        status = response.status_code
        return response
    finally:
        SECONDS.labels(status).observe(time.perf_counter() - begin)


@app.get("/healthz")
async def live() -> str:
    """Whether the process is any good; one that is not should be started again."""
    task = app.state.warm_up
    if task.done() and task.exception():
        raise HTTPException(500, f"The network failed while it was warmed up: {task.exception()}")
    return "live"


@app.get("/readyz")
async def ready() -> str:
    """Whether requests are answered without a wait for engines."""
    if not app.state.warm_up.done() or app.state.warm_up.exception():
        raise HTTPException(503, "The network is not ready; ask again in a second.")
    return "ready"


async def read(request: Request) -> bytes:
    """The body of a request, if it is not too large."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                raise HTTPException(413, f"The body has more than {MOST_BYTES >> 20} MiB.")
    except ClientDisconnect:
        raise HTTPException(400, "The client left before all of its body was there.") from None
    return bytes(body)


def decode(body: bytes, kind: str) -> Image.Image:
    """The picture of a body.

    Raises:
        ValueError: It is not what its content type says; so do most other exceptions.
    """
    if kind != ARRAY:
        try:
            picture = Image.open(io.BytesIO(body), formats=[FORMATS[kind]])
        except UnidentifiedImageError:  # whose own words are an address in memory
            raise ValueError("it is something else") from None
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"it has more than {MOST_PIXELS} pixels")
        return picture.convert("RGB")
    array = np.lib.format.read_array(io.BytesIO(body), allow_pickle=False)  # type: ignore[no-untyped-call]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(
            f"it is {array.dtype} of shape {array.shape} in place of uint8 (height, width, 3)"
        )
    return Image.fromarray(array)


@app.post(
    "/predict",
    dependencies=[Depends(ready)],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in (*FORMATS, ARRAY)
            },
        }
    },
)
def predict(
    body: Annotated[bytes, Depends(read)], content_type: Annotated[str, Header()] = ""
) -> Answer:
    """The best five classes of a picture."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (*FORMATS, ARRAY):
        known = ", ".join((*FORMATS, ARRAY))
        raise HTTPException(415, f"The content type is {kind or 'missing'}; send one of {known}.")
    try:
        picture = decode(body, kind)
    except Exception as error:  # whatever it is, it comes of the bytes that were sent
        raise HTTPException(400, f"The body cannot be read as {kind}: {error}.") from None
    pixels = np.asarray(ImageOps.fit(picture, (SIZE, SIZE)), np.float32)
    data = ((pixels - MEAN) / DEVIATION).transpose(2, 0, 1)[None]
    with queueing:
        answer = app.state.net(mx.nd.array(data))
    scores = answer.asnumpy()[0]
    best = scores.argsort()[:-6:-1]
    return Answer(classes=best.tolist(), scores=scores[best].tolist())


if __name__ == "__main__":
    # uvicorn answers what is under way, and then raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    uvicorn.run(
        app,
        host=os.environ.get("SERVING_HOST", "127.0.0.1"),
        port=int(os.environ.get("SERVING_PORT", "8000")),
        access_log=False,
        timeout_graceful_shutdown=30,
    )
