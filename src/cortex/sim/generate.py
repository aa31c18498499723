"""Make up a trace: the day's rhythm, popular and rare models, bursts, growing conversations. Same seed, same trace."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from cortex.sim.trace import Arrival

Shape = Literal["flat", "diurnal"]

DAY_SECONDS = 86_400.0
# The quietest hour of a day has a fifth of the requests that the busiest has.
QUIETEST = 0.2
BUSIEST_HOUR = 15.0
SHAPE_STEPS = 1440
BURST_SECONDS = 300.0
# Together, the bursts have so much of all requests.
BURST_SHARE = 0.1
# A conversation has so many turns in the mean, and so many are under way at once.
TURNS = 6
OPEN_SESSIONS = 64
LONGEST_PROMPT_TOKENS = 32_768
# The spread of token counts: the logarithm's standard deviation.
SIGMA = 0.8


@dataclass(frozen=True, slots=True)
class Wish:
    """What to make up: `requests` over `hours`.

    `sessions` is the fraction that belongs to conversations. `zipf` is how much more popular each model is than the
    next: the n-th has a share of n to the power of -zipf. Token counts are means, of new text.
    """

    requests: int
    hours: float = 24.0
    seed: int = 1
    shape: Shape = "diurnal"
    zipf: float = 1.0
    sessions: float = 0.5
    bursts: int = 0
    prompt_tokens: int = 400
    completion_tokens: int = 200


@dataclass(slots=True)
class _Session:
    name: str
    model: str
    tokens: int = 0


def generate(wish: Wish, models: Sequence[str]) -> Iterator[Arrival]:
    """Yield the requests to *models*, of which the first is the most popular, in order of time."""
    chance = random.Random(wish.seed)
    weights = list(accumulate((place + 1) ** -wish.zipf for place in range(len(models))))
    open_sessions: list[_Session] = []
    for number, (at, burst) in enumerate(_times(wish, chance)):
        forced = models[burst % len(models)] if burst is not None else None
        model = forced or chance.choices(models, cum_weights=weights)[0]
        prompt = _tokens(chance, wish.prompt_tokens)
        completion = _tokens(chance, wish.completion_tokens)
        session = None
        if chance.random() < wish.sessions:
            session = _turn(chance, open_sessions, f"s{number}", model)
            model, prompt = session.model, min(session.tokens + prompt, LONGEST_PROMPT_TOKENS)
            session.tokens = prompt + completion
        yield Arrival(
            at=round(at, 3),
            model=model,
            prompt_tokens=prompt,
            completion_tokens=completion,
            session=None if session is None else session.name,
        )


def _turn(chance: random.Random, sessions: list[_Session], name: str, model: str) -> _Session:
    """Return the conversation that goes on: one of those under way, or one that begins."""
    if sessions and (len(sessions) >= OPEN_SESSIONS or chance.random() < 1.0 - 1.0 / TURNS):
        at = chance.randrange(len(sessions))
        return sessions.pop(at) if chance.random() < 1.0 / TURNS else sessions[at]
    session = _Session(name, model)
    sessions.append(session)
    return session


def _tokens(chance: random.Random, mean: int) -> int:
    """Return a count around *mean*, at least 1: most are smaller, a few much larger."""
    return max(1, round(chance.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA)))


def _times(wish: Wish, chance: random.Random) -> list[tuple[float, int | None]]:
    """Return when each request comes, in order, and in which burst, if in one."""
    seconds = wish.hours * 3600.0
    levels = list(accumulate(_level(wish.shape, (step + 0.5) * seconds / SHAPE_STEPS) for step in range(SHAPE_STEPS)))
    times: list[tuple[float, int | None]] = []
    in_bursts = round(wish.requests * BURST_SHARE) if wish.bursts else 0
    begins = sorted(chance.uniform(0.0, max(0.0, seconds - BURST_SECONDS)) for _ in range(wish.bursts))
    for number in range(wish.requests):
        if number < in_bursts:
            burst = number % wish.bursts
            times.append((min(seconds, begins[burst] + chance.random() * BURST_SECONDS), burst))
        else:
            times.append((_moment(levels, chance.random()) * seconds, None))
    return sorted(times, key=lambda entry: entry[0])


def _level(shape: Shape, at: float) -> float:
    """Return how much comes at *at*, in seconds from midnight, as a fraction of what comes in the busiest hour."""
    if shape == "flat":
        return 1.0
    wave = math.cos(2.0 * math.pi * (at / DAY_SECONDS - BUSIEST_HOUR / 24.0))
    return QUIETEST + (1.0 - QUIETEST) * (1.0 + wave) / 2.0


def _moment(levels: Sequence[float], chance: float) -> float:
    """Return where, from 0 to 1, the sum of *levels* reaches the fraction *chance* of its end."""
    wanted = chance * levels[-1]
    step = bisect_left(levels, wanted)
    before = levels[step - 1] if step else 0.0
    return (step + (wanted - before) / (levels[step] - before)) / len(levels)
