"""What tests of the official SDKs share: the models that they ask, the clients, and how each dialect says a thing."""

from __future__ import annotations

from typing import Any

import anthropic
import openai

MODELS = """
[[models]]
id = "org/sim"
engine = "simulated"
aliases = ["sim", "claude-sonnet-4"]
options = { load_seconds = 0.1, tokens_per_second = 2000 }
[[models]]
id = "slow"
engine = "simulated"
options = { load_seconds = 0.1, tokens_per_second = 20, slots = 1 }
[[models]]
id = "cold"
engine = "simulated"
options = { load_seconds = 2.5, tokens_per_second = 2000 }
[[models]]
id = "tight"
engine = "simulated"
context = 200
options = { load_seconds = 0.1 }
[[models]]
id = "broken"
engine = "simulated"
options = { load_seconds = 0.1, fail_load = "the weights are not there" }
[[models]]
id = "fragile"
engine = "simulated"
options = { load_seconds = 0.1, tokens_per_second = 200, crash_after_tokens = 5 }
"""
HI = "Good morning"
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}


def openai_client(url: str, retries: int = 0) -> openai.OpenAI:
    """Return a client of the gateway at *url*."""
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=retries, timeout=30)


def anthropic_client(url: str, retries: int = 0) -> anthropic.Anthropic:
    """Return a client of the gateway at *url*."""
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=retries, timeout=30)


def says(text: str = HI, role: str = "user") -> Any:
    return {"role": role, "content": text}


def function(name: str, *, flat: bool = False) -> Any:
    """A tool as OpenAI describes it; *flat* for Responses."""
    described = {"name": name, "description": "A tool.", "parameters": CITY}
    return {"type": "function", **described} if flat else {"type": "function", "function": described}


def tool(name: str) -> Any:
    """A tool as Anthropic describes it."""
    return {"name": name, "description": "A tool.", "input_schema": CITY}
