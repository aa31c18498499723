// Anthropic's SDK for TypeScript against the gateway at $GATEWAY.
import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.GATEWAY, apiKey: "none", maxRetries: 0, timeout: 30_000 });
const says = (content) => [{ role: "user", content }];
const input_schema = { type: "object", properties: { city: { enum: ["Paris", "Rome"] } }, required: ["city"] };
const asked = { model: "sim", max_tokens: 4096 };

test("a message is answered whole and streamed", async () => {
  const messages = says("#echo one two ä");
  const whole = await client.messages.create({ ...asked, messages });
  const streamed = await client.messages.stream({ ...asked, messages }).finalMessage();
  assert.deepEqual(whole.content, [{ type: "text", text: "one two ä" }]);
  assert.deepEqual(streamed.content, whole.content);
  assert.equal(streamed.usage.input_tokens, whole.usage.input_tokens);
  assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
});

test("an agent thinks, calls in parallel, and gives its thoughts back", async () => {
  const tools = [{ name: "weather", description: "A tool.", input_schema }];
  const fields = { ...asked, tools, thinking: { type: "enabled", budget_tokens: 1024 }, system: "Be brief." };
  const messages = says("#think #tools 2");
  const message = await client.messages.stream({ ...fields, messages }).finalMessage();
  assert.deepEqual(message.content.map((block) => block.type), ["thinking", "tool_use", "tool_use"]);
  assert.ok(message.content[0].signature);
  const content = message.content
    .filter((block) => block.type === "tool_use")
    .map((block) => ({ type: "tool_result", tool_use_id: block.id, content: "sunny" }));
  const next = [...messages, { role: "assistant", content: message.content }, { role: "user", content }];
  const final = await client.messages.create({ ...fields, messages: next });
  assert.equal(final.stop_reason, "end_turn");
});

test("tokens are counted as an answer counts them", async () => {
  const prompt = { model: "sim", messages: says("hello there"), system: "Be brief." };
  const counted = await client.messages.countTokens(prompt);
  const message = await client.messages.create({ ...prompt, max_tokens: 4 });
  assert.equal(counted.input_tokens, message.usage.input_tokens);
});

test("models are listed and found", async () => {
  const names = [];
  for await (const model of client.models.list({ limit: 2 })) names.push(model.id);
  assert.ok(names.includes("org/sim"));
  assert.equal((await client.models.retrieve("sim")).display_name, "org/sim");
});

test("refusals are exceptions with their type and request", async () => {
  const unknown = await client.messages.create({ ...asked, model: "nope", messages: says("hi") }).catch((error) => error);
  assert.ok(unknown instanceof Anthropic.NotFoundError);
  assert.equal(unknown.error.error.type, "not_found_error");
  assert.ok(unknown.requestID);
  const long = await client.messages
    .create({ ...asked, model: "tight", messages: says("word ".repeat(500)) })
    .catch((error) => error);
  assert.match(long.message, /prompt is too long: \d+ tokens > 200 maximum/);
});

test("a cold start is only a longer stream", async () => {
  const message = await client.messages.stream({ ...asked, model: "cold", messages: says("#echo awake") }).finalMessage();
  assert.equal(message.content[0].text, "awake");
});

test("an aborted stream frees its slot at once", async () => {
  const stream = client.messages.stream({ ...asked, model: "slow", messages: says("#tokens 2000") });
  await new Promise((resolve) => stream.once("text", resolve));
  stream.abort();
  await assert.rejects(stream.finalMessage(), Anthropic.APIUserAbortError);
  const began = performance.now();
  await client.messages.create({ ...asked, model: "slow", messages: says("#tokens 2") });
  assert.ok(performance.now() - began < 2000);
});
