"""uvicorn with uvloop and httptools: an ASGI application that answers 81 bytes of JSON to anything.

What it needs is the floor of every server on uvicorn. ``python peer_hello.py FOLDER MODEL PORT``; no model is read.
"""

import sys

import uvicorn

ANSWER = b'{"model_name":"hello","outputs":[{"name":"probabilities","data":[0.25,0.75000]}]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
START = {"type": "http.response.start", "status": 200, "headers": HEADERS}
BODY = {"type": "http.response.body", "body": ANSWER}


async def app(scope, receive, send):
    """Read a request's body, throw it away and answer."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send(BODY)


assert len(ANSWER) == 81
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[3]), loop="uvloop", http="httptools", log_level="warning",
            access_log=False, lifespan="off")  # fmt: skip
