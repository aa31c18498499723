"""Requests that are answered, by path: each says much of what its dialect can say."""

from __future__ import annotations

from typing import Any

from json_fuzz import PNG

_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
_FUNCTION = {"name": "f", "description": "does", "parameters": _SCHEMA}
_URL = f"data:image/png;base64,{PNG}"
_HI = {"role": "user", "content": "hi"}
_SAMPLING = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 7, "stop": ["x"], "logit_bias": {"5": -1.0}, "n": 1}

_CHAT: list[Any] = [
    {"model": "m", "messages": [_HI], "stream": True, "stream_options": {"include_usage": True}},
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": _URL}}],
            },
            {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ],
        "tools": [{"type": "function", "function": _FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        **_SAMPLING,
    },
    {
        "model": "m",
        "messages": [{"role": "developer", "content": "x"}, _HI],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}},
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
        "max_completion_tokens": 5,
    },
]

_MESSAGES: list[Any] = [
    {"model": "m", "max_tokens": 9, "messages": [_HI], "stream": True, "thinking": {"type": "adaptive"}},
    {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a text"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "2"}]},
                    {"type": "text", "text": "go on"},
                ],
            },
        ],
        "tools": [
            {"name": "f", "input_schema": _SCHEMA},
            {"type": "web_search_20250305", "name": "web_search"},
        ],
        "tool_choice": {"type": "tool", "name": "f"},
        "stop_sequences": ["x"],
    },
]

_RESPONSES: list[Any] = [
    {"model": "m", "input": "hi", "stream": True, "reasoning": {"effort": "low", "summary": "auto"}},
    {
        "model": "m",
        "instructions": "be brief",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": _URL}]},
            {"type": "reasoning", "summary": [], "encrypted_content": "cortex1:aGk="},
            {"type": "function_call", "call_id": "c1", "name": "f", "namespace": "space", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "2"}]},
            {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "free"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "3"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
        ],
        "tools": [
            {"type": "function", **_FUNCTION},
            {"type": "namespace", "name": "space", "tools": [{"type": "function", **_FUNCTION}]},
            {"type": "custom", "name": "g", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
        "top_logprobs": 2,
        "metadata": {"a": "b"},
    },
    {"model": "m", "input": "hi", "text": {"format": {"type": "json_schema", "name": "s", "schema": _SCHEMA}}},
]

_OPTIONS = {"temperature": 0.5, "num_predict": 5, "stop": ["x"], "num_ctx": 4096}
_OLLAMA_CHAT: list[Any] = [
    {"model": "m:latest", "messages": [_HI], "options": _OPTIONS, "keep_alive": "5m"},
    {
        "model": "m",
        "messages": [
            {"role": "user", "content": "look", "images": [PNG]},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "tool_name": "f", "content": "2"},
        ],
        "tools": [{"type": "function", "function": _FUNCTION}],
        "stream": False,
        "think": "low",
    },
    {"model": "m", "messages": [_HI], "format": _SCHEMA, "stream": False},
]

GOOD: dict[str, list[Any]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": [
        {"model": "m", "prompt": "hi", "stream": True, **_SAMPLING},
        {"model": "m", "prompt": ["a", "b"], "max_tokens": 3, "logprobs": 2},
        {"model": "m", "prompt": [1, 2, 3]},
    ],
    "/v1/embeddings": [
        {"model": "m", "input": ["a", "b"], "encoding_format": "base64"},
        {"model": "m", "input": [[1, 2], [3]], "dimensions": 4},
    ],
    "/v1/rerank": [
        {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True}
    ],
    "/v1/messages": _MESSAGES,
    "/v1/messages/count_tokens": [
        {name: value for name, value in each.items() if name in ("model", "messages", "system", "tools")}
        for each in _MESSAGES
    ],
    "/v1/responses": _RESPONSES,
    "/api/chat": _OLLAMA_CHAT,
    "/api/generate": [
        {"model": "m", "prompt": "hi", "system": "be brief", "options": _OPTIONS, "format": "json"},
        {"model": "m", "prompt": "hi", "raw": True, "stream": False},
        {"model": "m", "prompt": "look", "images": [PNG]},
        {"model": "m", "keep_alive": 0},
    ],
    "/api/embed": [{"model": "m", "input": ["a", "b"]}, {"model": "m", "input": "a", "truncate": True}],
    "/api/embeddings": [{"model": "m", "prompt": "a"}],
    "/api/show": [{"model": "m"}, {"name": "short:latest"}],
}
