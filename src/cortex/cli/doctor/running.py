"""Ask the gateway that runs by a configuration, if one does, what it knows of models and of edits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cortex import __version__
from cortex.cli.doctor.findings import Finding, warning, well, wrong
from cortex.cli.failures import Failure
from cortex.cli.gateway_client import get_json
from cortex.serving.run import parse_address


def endpoint_of(listen: str) -> str:
    """Return where a gateway that listens on *listen*, host:port, is reached from this machine."""
    host, port = parse_address(listen, "gateway.listen")
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def health_of(endpoint: str) -> Mapping[str, Any] | None:
    """Return the gateway's `/health`, None if none answers there."""
    try:
        return get_json(endpoint, "/health")
    except Failure:
        return None


def check_running(endpoint: str, health: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield how the running gateway stands, and for each model why nothing can serve it."""
    version = health.get("version")
    if version == __version__:
        yield well("gateway", f"runs at {endpoint}, version {version}")
    else:
        yield warning("gateway", f"runs at {endpoint}, version {version}, and this is {__version__}", "restart it")
    for file, why in (health.get("refused_edits") or {}).items():
        yield wrong("gateway", f"the last edit of {file} is not in effect: {why}", "correct it and save it again")
    try:
        listing = get_json(endpoint, "/v1/models")
    except Failure as failure:
        yield warning("models", failure.message, "the models were not looked at")
        return
    yield from judge_models(listing)


def judge_models(listing: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what the gateway's list of models comes to. Pure."""
    models = listing.get("data", [])
    for model in models:
        if reason := model.get("reason"):
            remedy = f"`cortex explain {model.get('id')}` says it node by node"
            yield wrong("models", f"nothing can serve {model.get('id')}: {reason}", remedy)
    servable = sum(1 for model in models if not model.get("reason"))
    if servable:
        yield well("models", f"{servable} can be served")
