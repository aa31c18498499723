"""`cortex up`: one neuron and one gateway on this machine, a question as proof, and everything gone at the end."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import httpx2

from cortex import __version__
from cortex.cli.children import Children
from cortex.cli.failures import Failure, Misconfigured, configuration
from cortex.cli.gateway_client import Piece, stream_chat
from cortex.cli.steps import Steps
from cortex.cli.tables import gibibytes
from cortex.cli.telling import Telling
from cortex.cli.up_files import DEMO_CATALOGUE, DRAIN_SECONDS, cortex_toml, neuron_toml
from cortex.core.model_spec import ModelSpec
from cortex.gateway.catalogue import Catalogue, load_catalogue
from cortex.gateway.config import load_config as load_gateway_config
from cortex.neuron.config import LOOPBACK
from cortex.neuron.config import load_config as load_neuron_config
from cortex.serving.run import bind, parse_address

DEFAULT_LISTEN = "127.0.0.1:31313"
DEFAULT_NEURON_PORT = 13131
START_SECONDS = 60.0
# A neuron drains its answers, then its replicas, each within the configured bound.
GRACE_SECONDS = 2 * DRAIN_SECONDS + 10.0
QUESTION = "In one sentence: what is a graphics processing unit good at?"
ANSWER_TOKENS = 64
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class Wanted:
    """The options of the command; None where the default is meant."""

    catalogue: Path | None
    listen: str | None
    neuron_port: int | None
    ask: bool
    state: Path | None


@dataclass(frozen=True)
class Plan:
    """Everything that is known before anything is started."""

    gateway_config: Path
    neuron_config: Path
    endpoint: str
    neuron_endpoint: str
    catalogue: Catalogue
    env: Mapping[str, str]

    @property
    def asked(self) -> ModelSpec | None:
        """The model that is asked as proof: the first of the catalogue."""
        return next(iter(self.catalogue.specs.values()), None)


def run_up(wanted: Wanted) -> None:
    """Start everything, prove it, wait to be told to stop. Raises Failure and Misconfigured."""
    # A shell gives its background jobs an ignored SIGINT; here each of the three means: stop everything.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        directory = _directory(wanted.state, os.environ)
        with _locked(directory):
            plan = prepare(wanted, directory, os.environ)
            with Children(directory, plan.env, GRACE_SECONDS) as children:
                _run(plan, children, ask=wanted.ask)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


def state_directory(env: Mapping[str, str]) -> Path:
    """Return where generated files and logs go unless told otherwise."""
    return Path(env.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "cortex" / "up"


def prepare(wanted: Wanted, directory: Path, env: Mapping[str, str]) -> Plan:
    """Write the configuration into *directory*, read it back as the children will, and check what can be checked."""
    child_env = dict(env)
    if wanted.neuron_port is not None:
        child_env.pop("NEURON_PORT", None)
    if wanted.listen is not None:
        child_env.pop("CORTEX_GATEWAY__LISTEN", None)
    neuron_path, gateway_path = directory / "neuron.toml", directory / "cortex.toml"
    catalogue_path = wanted.catalogue.absolute() if wanted.catalogue else directory / "models.toml"
    with configuration():
        _write(neuron_path, neuron_toml(wanted.neuron_port or DEFAULT_NEURON_PORT))
        neuron = load_neuron_config(neuron_path, child_env)
        neuron_endpoint = f"http://{_reachable(neuron.host or LOOPBACK, neuron.port)}"
        if wanted.catalogue is None:
            _write(catalogue_path, DEMO_CATALOGUE)
        catalogue = load_catalogue(catalogue_path)
        _write(gateway_path, cortex_toml(wanted.listen or DEFAULT_LISTEN, neuron_endpoint, catalogue_path))
        gateway = load_gateway_config(gateway_path, child_env).gateway
        endpoint = f"http://{_reachable(*parse_address(gateway.listen, 'listen'))}"
        _check_engines(catalogue)
        _check_free(gateway.listen, "--listen")
        _check_free(gateway.metrics_listen, "--listen")
        _check_free(f"{neuron.host or LOOPBACK}:{neuron.port}", "--neuron-port")
        if parse_address(gateway.metrics_listen, "--listen")[1] == neuron.port:
            raise Misconfigured(f"port {neuron.port} is the gateway's for its metrics: choose another --neuron-port")
    return Plan(gateway_path, neuron_path, endpoint, neuron_endpoint, catalogue, child_env)


def _directory(given: Path | None, env: Mapping[str, str]) -> Path:
    directory = (given.expanduser() if given else state_directory(env)).absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"{directory}: {error.strerror}; choose another directory with --state") from None
    return directory


@contextmanager
def _locked(directory: Path) -> Generator[None, None, None]:
    """Hold *directory* for this process alone."""
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(
                f"another `cortex up` runs in {directory}: stop it, or give this one its own --state, --listen and "
                "--neuron-port"
            ) from None
        yield


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}; choose another directory with --state") from None


def _reachable(host: str, port: int) -> str:
    """Return where a client on this machine finds a listener on *host*."""
    host = _WILDCARDS.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_engines(catalogue: Catalogue) -> None:
    needed = {spec.engine_name for spec in catalogue.specs.values()}
    if "llamacpp" in needed and find_spec("xllamacpp") is None:
        raise Misconfigured("the engine 'llamacpp' is not installed: pip install 'cortex-fleet[llamacpp]'")


def _check_free(address: str, option: str) -> None:
    """Raise ConfigError if *address* is taken, rather than find it in a child's log."""
    host, port = parse_address(address, option)
    if port == 0:
        raise Misconfigured(f"{option}: port 0 would be another one every time; name one from 1 to 65535")
    bind(host, port, option).close()


def _run(plan: Plan, children: Children, *, ask: bool) -> None:
    click.echo(f"Cortex {__version__}", err=True)
    with Steps() as steps:
        _start_neuron(plan, children, steps)
        _start_gateway(plan, children, steps)
    spec = plan.asked
    click.echo(f"\nOpenAI-compatible endpoint: {plan.endpoint}/v1")
    click.echo(f"Dashboard: {plan.endpoint}/ui\n")
    if spec is not None:
        click.echo(curl_line(plan.endpoint, spec.id) + "\n")
    else:
        click.echo("The catalogue is empty: list models in it, and start again.\n")
    if spec is not None and ask:
        _ask(plan.endpoint, spec, children)
    click.secho("\nCtrl-C stops everything.", bold=True, err=True)
    children.keep_up()


def _start_neuron(plan: Plan, children: Children, steps: Steps) -> None:
    steps.show("starting the neuron")
    child = children.start("neuron", "neuron", "serve", "-c", str(plan.neuron_config))
    _until_up(f"{plan.neuron_endpoint}/health", children, lambda _: True)
    found = httpx2.get(f"{plan.neuron_endpoint}/discovery", trust_env=False).json()
    steps.done(f"neuron with {_devices(found)}  (log: {child.log})")


def _start_gateway(plan: Plan, children: Children, steps: Steps) -> None:
    steps.show("starting the gateway")
    child = children.start("gateway", "cortex", "serve", "-c", str(plan.gateway_config))
    _until_up(f"{plan.endpoint}/health", children, lambda health: bool(health["nodes"]["healthy"]))
    steps.done(f"gateway with {len(plan.catalogue.specs)} models  (log: {child.log})")


def _until_up(url: str, children: Children, is_up: Callable[[Any], bool]) -> None:
    """Return once *url* answers and *is_up* agrees. Raises Failure when a child dies or it takes too long."""
    deadline = time.monotonic() + START_SECONDS
    with httpx2.Client(trust_env=False, timeout=5.0) as client:
        while time.monotonic() < deadline:
            children.check(within_seconds=0.1)
            try:
                answer = client.get(url)
            except httpx2.TransportError:
                continue
            if answer.status_code == 200 and is_up(answer.json()):
                return
    raise Failure(f"{url} did not answer within {START_SECONDS:.0f} s; the logs may say why")


def _devices(found: Mapping[str, Any]) -> str:
    """Return the devices of a neuron's `/discovery` in words."""
    devices: Sequence[Mapping[str, Any]] = found["devices"]
    return ", ".join(f"{d['name']} ({d['kind']}, {gibibytes(d['memory_total_bytes'])})" for d in devices)


def curl_line(endpoint: str, model: str) -> str:
    """Return a command to paste into a shell."""
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]})
    return f"curl {endpoint}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"


def _ask(endpoint: str, spec: ModelSpec, children: Children) -> None:
    """Ask *spec* one question through the gateway and show the answer. Raises Failure."""
    click.secho(f"Asking {spec.id} through the gateway: {QUESTION}", bold=True, err=True)
    messages = [{"role": "user", "content": QUESTION}]
    request = {"model": spec.id, "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0}
    telling = Telling(spec.id, Steps())
    try:
        telling.tell(_while_alive(stream_chat(endpoint, request), children))
    except Failure as failure:
        children.check(within_seconds=0.5)
        raise Failure(f"{spec.id} gave no answer: {failure.message}\n(--no-ask starts without the question)") from None
    click.secho(telling.figures(), dim=True, err=True)


def _while_alive(pieces: Generator[Piece, None, None], children: Children) -> Generator[Piece, None, None]:
    """Yield *pieces* as long as no child has died: a gateway whose neuron is gone may keep a stream open for long."""
    try:
        for piece in pieces:
            children.check()
            yield piece
    finally:
        pieces.close()
