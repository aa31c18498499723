"""`cortex up`, as a newcomer starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import psutil

from harness import alive, free_pair, free_port, until


def test_up_proves_itself_restarts_what_dies_and_leaves_nothing_behind(tmp_path: Path, demo_gguf: Path) -> None:
    api, node = free_pair(), free_port()
    (tmp_path / "models.toml").write_text(f'[[models]]\nid = "demo"\nsource = "{demo_gguf}"\ncontext = 512\n')
    command = [str(Path(sys.executable).parent / "cortex"), "up", "--models", str(tmp_path / "models.toml")]
    command += ["--listen", f"127.0.0.1:{api}", "--neuron-port", str(node), "--state", str(tmp_path / "state")]
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
        assert up.stdout is not None
        reader = threading.Thread(target=lambda: said.extend(up.stdout or ()))
        reader.start()
        try:
            until("the proof", lambda: up.poll() is not None or any("Ctrl-C stops everything" in line for line in said))
            assert up.poll() is None, "".join(said)
            family = psutil.Process(up.pid).children(recursive=True)
            neuron = next(p for p in family if "neuron" in p.cmdline() and "serve" in p.cmdline())
            os.kill(neuron.pid, signal.SIGKILL)
            until("the restart", lambda: any("starting the neuron again" in line for line in said))
            url = f"http://127.0.0.1:{api}/health"
            until("a healthy node", lambda: httpx2.get(url, trust_env=False).json()["nodes"]["healthy"] == 1)
            family += psutil.Process(up.pid).children(recursive=True)
        finally:
            up.send_signal(signal.SIGINT)
            reader.join(30)
        assert up.wait(30) == 0

    text = "".join(said)
    assert f"http://127.0.0.1:{api}/v1" in text
    assert f"http://127.0.0.1:{api}/ui" in text
    assert "curl http" in text
    assert "tok/s" in text
    assert "TTFT" in text
    until("every process is gone", lambda: not any(alive(process.pid) for process in family), 10)
