"""A redirect as a framework's first page has it: nothing is counted or kept. `uvicorn bench.naive.handler:app`"""

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from bench.harness import traffic

app = FastAPI()
_TARGETS = traffic.targets(traffic.CODES)


@app.get("/{code}")
async def follow(code: str) -> RedirectResponse:
    return RedirectResponse(_TARGETS[code])
