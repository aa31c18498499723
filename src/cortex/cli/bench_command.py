"""`cortex bench`: how fast a server answers, at several numbers of streams."""

from __future__ import annotations

from pathlib import Path

import click


class _Levels(click.ParamType[tuple[int, ...]]):
    """Numbers of streams, as in 1,2,4,8."""

    name = "N,N,…"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            levels = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected numbers of streams as in 1,2,4,8", param, ctx)
        if not all(1 <= level <= 4096 for level in levels):
            self.fail(f"{value!r}: each from 1 to 4096", param, ctx)
        return levels


@click.command()
@click.argument("url")
@click.argument("model")
@click.option(
    "--streams", type=_Levels(), default="1,2,4,8", show_default=True, help="Requests under way at once, by level."
)
@click.option("--requests", type=click.IntRange(1), default=16, show_default=True, help="Requests of each level.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=256, show_default=True, help="About this many.")
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True, help="Longest answer.")
@click.option("--same-prompt", is_flag=True, help="One prompt for all, so that a prefix cache can help.")
@click.option("--idle", type=click.FloatRange(1), default=300.0, show_default=True, help="Seconds of silence borne.")
@click.option(
    "--key", envvar="CORTEX_API_KEY", show_envvar=True, metavar="KEY", help="API key, if the server has keys."
)
@click.option("--chart", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.svg", help="Write a chart.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.json", help="Write all figures.")
@click.pass_context
def bench(
    context: click.Context,
    url: str,
    model: str,
    streams: tuple[int, ...],
    requests: int,
    prompt_tokens: int,
    max_tokens: int,
    same_prompt: bool,
    idle: float,
    key: str | None,
    chart: Path | None,
    out: Path | None,
) -> None:
    """Measure how fast the server at URL answers for MODEL.

    Any server with OpenAI's /v1/chat/completions will do, so that two can be compared. A first request has the model
    loaded; then each level keeps its number of streams under way. TTFT is the time to the first token, ITL that between
    two pieces of an answer, both in milliseconds. At the knee, more streams cease to bring more tokens.

    The exit status is 1 if a request failed. Ctrl-C ends the test and prints the levels that are complete.

    \b
    Examples:
      cortex bench http://127.0.0.1:31313 smollm2-135m-instruct
      cortex bench gpu-box:31313 qwen3 --streams 1,8,32,64 --requests 128 --chart qwen3.svg
      cortex bench http://127.0.0.1:11434 qwen3:8b --out ollama.json
    """
    from cortex.cli.loadtest.run import Wanted
    from cortex.cli.loadtest.show import run_and_show
    from cortex.cli.loadtest.target import Ask, target

    wanted = Wanted(target(url, key), Ask(model, prompt_tokens, max_tokens, same_prompt), streams, requests, idle)
    context.exit(run_and_show(wanted, url, chart, out))
