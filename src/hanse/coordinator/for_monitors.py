"""What the coordinator answers to those who watch whether it lives, works, and how much."""

from starlette.responses import Response

from hanse.coordinator.exposition import MEDIA_TYPE, exposition
from hanse.coordinator.metrics import measured
from hanse.coordinator.routes import Asked, in_thread
from hanse.core.canonical import Json, encode
from hanse.net.traffic import Traffic


async def alive(asked: Asked) -> Json:
    """Say that the process answers."""
    return {"status": "ok"}


async def readiness(asked: Asked) -> "Json | Response":
    """Say whether the coordinator can work; 503 and the reasons if it cannot."""
    reasons = await asked.office.watch.reasons()
    if not reasons:
        return {"status": "ready"}
    told = encode({"status": "not ready", "reasons": [str(reason) for reason in reasons]})
    return Response(told, 503, media_type="application/json")


async def metrics(asked: Asked) -> Response:
    """Give counts, ages and sizes, in the text format of Prometheus."""
    traffic: Traffic = asked.request.scope["extensions"]["traffic"]

    def measure() -> str:
        return exposition(measured(asked.office, traffic))

    return Response(await in_thread(measure), media_type=MEDIA_TYPE)
