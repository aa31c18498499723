// One chat with one model: sends, reads the stream, and measures. What it waits for comes as comments of the stream.
import { call, events } from "./api.js";

// What to send: the request as any client would send it. Nothing is sent that was not filled in.
export function requestOf({ model, messages, settings }) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  if (settings.temperature !== "") body.temperature = Number(settings.temperature);
  if (settings.maxTokens !== "") body.max_tokens = Number(settings.maxTokens);
  if (settings.tools.trim()) body.tools = parsed("Tools", settings.tools);
  if (settings.schema.trim()) {
    const schema = parsed("JSON schema", settings.schema);
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
  }
  return body;
}

function parsed(what, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${what}: ${error.message}`);
  }
}

// Send *body* and call *told* with the answer as it grows: `{text, reasoning, calls, waits, figures, state}`.
export async function converse(body, signal, told) {
  const answer = { text: "", reasoning: "", calls: [], waits: "", figures: {}, state: "waiting", node: "" };
  const began = performance.now();
  const since = () => (performance.now() - began) / 1000;
  let first = null;
  told({ ...answer });
  try {
    const response = await call("POST", "/v1/chat/completions", body, signal);
    answer.node = response.headers.get("x-cortex-node") ?? "";
    for await (const { data, comment } of events(response)) {
      if (comment !== undefined) {
        if (first === null && comment && comment !== "keep-alive") answer.waits = comment;
      } else if (data !== "[DONE]") {
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        if (take(chunk, answer) && first === null) {
          first = since();
          answer.state = "answering";
          answer.waits = "";
        }
        if (chunk.usage) answer.figures.usage = chunk.usage;
      }
      answer.figures = { ...answer.figures, ttft: first, total: since() };
      told({ ...answer });
    }
    answer.state = "done";
  } catch (error) {
    answer.state = error.name === "AbortError" ? "stopped" : "failed";
    if (answer.state === "failed") answer.refusal = error.message;
  }
  answer.waits = "";
  answer.figures = { ...answer.figures, ttft: first, total: since() };
  told({ ...answer });
  return answer;
}

function take(chunk, answer) {
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  if (choice.finish_reason) answer.reason = choice.finish_reason;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
  if (content) answer.text += content;
  if (reasoning) answer.reasoning += reasoning;
  for (const each of calls ?? []) answer.calls = withCall(answer.calls, each);
  return Boolean(content || reasoning || calls?.length);
}

function withCall(calls, piece) {
  const found = [...calls];
  const known = found[piece.index] ?? { id: "", name: "", arguments: "" };
  found[piece.index] = {
    id: piece.id ?? known.id,
    name: piece.function?.name ?? known.name,
    arguments: known.arguments + (piece.function?.arguments ?? ""),
  };
  return found;
}

// The answer as the assistant's message of the next request.
export function messageOf(answer) {
  const message = { role: "assistant", content: answer.text || null };
  if (answer.calls.length) {
    message.tool_calls = answer.calls.map((each) => ({
      id: each.id,
      type: "function",
      function: { name: each.name, arguments: each.arguments },
    }));
  }
  return message;
}

export function speed(figures) {
  const tokens = figures.usage?.completion_tokens;
  const spent = figures.total - figures.ttft;
  return tokens > 1 && figures.ttft !== null && spent > 0 ? (tokens - 1) / spent : null;
}
