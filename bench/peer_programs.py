"""How each program of `bench/peers.py` is had, configured and started; all of them relay to the same two mock nodes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cortex.gateway.keys.secret import Key

CACHE = Path(os.environ.get("CORTEX_CACHE", Path.home() / ".cache" / "cortex")) / "bench-peers"


class Absent(Exception):
    """A peer that cannot be had here; the message says why, and what to do."""


@dataclass(frozen=True)
class Bench:
    """What a peer is started for: its directory, its port, the nodes behind it, and the key that clients show."""

    directory: Path
    port: int
    nodes: Sequence[int]
    key: Key


@dataclass(frozen=True)
class Peer:
    """A program. *command* writes its configuration and returns how it is started. Raises Absent."""

    name: str
    command: Callable[[Bench], Sequence[str]]


def _cortex(bench: Bench) -> Sequence[str]:
    nodes = "".join(
        f'[[neurons]]\nname = "node-{port}"\nendpoint = "http://127.0.0.1:{port}"\n' for port in bench.nodes
    )
    (bench.directory / "cortex.toml").write_text(
        f'[gateway]\nlisten = "127.0.0.1:{bench.port}"\nmetrics_listen = "127.0.0.1:{bench.port + 1}"\n'
        f'log = "info"\nstate = "state"\n{nodes}'
    )
    (bench.directory / "models.toml").write_text('[[models]]\nid = "m"\nsource = "/nowhere/m.gguf"\n')
    keys = bench.directory / "keys.toml"
    keys.write_text(
        f'[[keys]]\nname = "bench"\nsha256 = "{bench.key.digest.hex()}"\nmodels = ["m*"]\n'
        f"requests_per_minute = {10**9}\ntokens_per_minute = {10**12}\nconcurrency = 5000\nbudget_tokens = {10**15}\n"
    )
    keys.chmod(0o600)
    return [f"{Path(sys.executable).parent}/cortex", "serve", "--config", str(bench.directory / "cortex.toml")]


def _nginx(bench: Bench) -> Sequence[str]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise Absent("not installed: apt-get install nginx-light")
    servers = "".join(f"server 127.0.0.1:{port};" for port in bench.nodes)
    where = bench.directory
    (where / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {where}/nginx.pid; error_log {where}/error.log; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log {where}/access.log combined buffer=64k flush=1s;
  client_body_temp_path {where}/body; proxy_temp_path {where}/proxy; fastcgi_temp_path {where}/fastcgi;
  uwsgi_temp_path {where}/uwsgi; scgi_temp_path {where}/scgi;
  keepalive_requests 1000000000; tcp_nodelay on;
  upstream nodes {{ {servers} keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{bench.port} backlog=2048;
    location / {{
      proxy_pass http://nodes; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      client_max_body_size 64m; client_body_buffer_size 256k;
    }}
  }}
}}
""")
    return [program, "-c", str(where / "nginx.conf"), "-e", str(where / "error.log")]


def _environment(package: str, version: str) -> Path:
    """Return the `bin` of an environment that has *package*, made at the first time. Raises Absent."""
    home = CACHE / f"{package.partition('[')[0]}-{version}"
    if not (home / "whole").exists():
        venv.create(home, with_pip=True, clear=True)
        install = [home / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", f"{package}=={version}"]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines() or ["pip failed"]
            raise Absent(f"pip install {package}=={version}: {last[-1]}")
        (home / "whole").touch()
    return home / "bin"


def _vllm_router(bench: Bench) -> Sequence[str]:
    program = _environment("vllm-router", "0.1.17") / "vllm-router"
    return [str(program), *_router_options(bench)]


def _sglang_router(bench: Bench) -> Sequence[str]:
    python = _environment("sglang-router", "0.3.2") / "python"
    return [str(python), "-m", "sglang_router.launch_router", *_router_options(bench)]


def _router_options(bench: Bench) -> Sequence[str]:
    nodes = [f"http://127.0.0.1:{port}" for port in bench.nodes]
    own = ["--host", "127.0.0.1", "--port", str(bench.port), "--prometheus-port", str(bench.port + 1)]
    # As many at once as the load has, and no waiting room: as open as the others.
    return ["--worker-urls", *nodes, "--policy", "round_robin", "--max-concurrent-requests", "4096", *own]


def _litellm(bench: Bench) -> Sequence[str]:
    program = _environment("litellm[proxy]", "1.109.1") / "litellm"
    models = "".join(
        "  - model_name: m\n    litellm_params:\n      model: openai/m\n      api_key: x\n"
        f"      api_base: http://127.0.0.1:{port}/v1\n"
        for port in bench.nodes
    )
    config = bench.directory / "litellm.yaml"
    config.write_text(f"model_list:\n{models}litellm_settings: {{telemetry: false}}\n")
    own = ["--host", "127.0.0.1", "--port", str(bench.port), "--num_workers", "1"]
    return [str(program), "--config", str(config), *own]


CORTEX, NGINX = Peer("cortex", _cortex), Peer("nginx", _nginx)
PEERS = (
    CORTEX,
    NGINX,
    Peer("vllm-router", _vllm_router),
    Peer("sglang-router", _sglang_router),
    Peer("litellm", _litellm),
)
