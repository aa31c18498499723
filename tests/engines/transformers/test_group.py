"""A group of ranks lives and dies together: real processes, no model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from cortex.engines.transformers import group as module
from cortex.engines.transformers.group import Group, GroupFailed
from cortex.engines.transformers.messages import SelfCheck
from harness import alive, until

pytestmark = pytest.mark.tp


class Deaths(list[str]):
    """What `on_death` was told, and an event to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def __call__(self, reason: str) -> None:
        self.append(reason)
        self.told.set()


@pytest.fixture
def deaths() -> Deaths:
    return Deaths()


@pytest.fixture
def group(deaths: Deaths) -> Iterator[Group]:
    group = Group(3, deaths)
    yield group
    group.close()


def test_a_rank_that_is_killed_ends_all_at_once(group: Group, deaths: Deaths) -> None:
    began = time.monotonic()
    os.kill(group.pids[1], signal.SIGKILL)

    assert deaths.told.wait(2.0)
    assert time.monotonic() - began < 2.0
    assert deaths == ["rank 2 of 3 was ended by SIGKILL"]
    assert not any(map(alive, group.pids))


def test_a_rank_that_is_silent_ends_all(group: Group, deaths: Deaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 1.0)
    until("every rank is up", lambda: all(_answers(pid) for pid in group.pids))
    group.serving()
    os.kill(group.pids[0], signal.SIGSTOP)

    assert deaths.told.wait(6.0)
    assert deaths[0].startswith("rank 1 of 3 did not answer for")
    assert not any(map(alive, group.pids))


def _answers(pid: int) -> bool:
    """Whether the rank reads already: its second thread is there."""
    return len(os.listdir(f"/proc/{pid}/task")) > 1


def test_who_waits_for_a_dead_group_is_told(group: Group, deaths: Deaths) -> None:
    id_ = group.tell(SelfCheck(0), 60.0)
    os.kill(group.pids[0], signal.SIGKILL)

    with pytest.raises(GroupFailed, match="rank 1 of 3 was ended by SIGKILL"):
        group.settle(id_)


def test_an_order_that_is_not_carried_out_in_time_ends_all(group: Group, deaths: Deaths) -> None:
    """The sum waits for rank 0, which takes no part."""
    group.tell(SelfCheck(0), 0.2)

    assert deaths.told.wait(60.0)
    assert "rank" in deaths[0]
    assert len(deaths) == 1


def test_a_group_that_is_let_go_tells_of_no_death(group: Group, deaths: Deaths) -> None:
    group.close()

    assert not any(map(alive, group.pids))
    assert deaths == []


def test_ranks_end_with_the_process_that_started_them() -> None:
    code = (
        "import time\n"
        "from cortex.engines.transformers.group import Group\n"
        "print(*Group(3, print).pids, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        pids = [int(pid) for pid in leader.stdout.readline().split()]
        leader.kill()

    until("both are gone", lambda: not any(map(alive, pids)), 5.0)
