// OpenAI's SDK for JavaScript against the gateway at $GATEWAY.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.GATEWAY}/v1`, apiKey: "none", maxRetries: 0, timeout: 30_000 });
const says = (content) => [{ role: "user", content }];
const parameters = { type: "object", properties: { city: { enum: ["Paris", "Rome"] } }, required: ["city"] };
const described = { name: "weather", description: "A tool.", parameters };
const tools = [{ type: "function", function: described }];
const flatTools = [{ type: "function", ...described }];

test("chat is answered whole and streamed", async () => {
  const asked = { model: "sim", messages: says("#echo one two ä") };
  const whole = await client.chat.completions.create(asked);
  let text = "";
  let usage = null;
  const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(whole.choices[0].message.content, "one two ä");
  assert.equal(text, "one two ä");
  assert.equal(usage.total_tokens, whole.usage.total_tokens);
});

test("an agent's calls come in parallel and are answered", async () => {
  const messages = says("#tools 2");
  const stream = client.chat.completions.stream({ model: "sim", messages, tools });
  const message = (await stream.finalChatCompletion()).choices[0].message;
  assert.equal(message.tool_calls.length, 2);
  for (const call of message.tool_calls) {
    assert.ok(["Paris", "Rome"].includes(JSON.parse(call.function.arguments).city));
  }
  const results = message.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "sunny" }));
  const final = await client.chat.completions.create({ model: "sim", messages: [...messages, message, ...results], tools });
  assert.equal(final.choices[0].finish_reason, "stop");
});

test("responses are streamed, stored, gone on from and deleted", async () => {
  const stream = client.responses.stream({ model: "sim", input: "#think #tool", tools: flatTools });
  const first = await stream.finalResponse();
  assert.deepEqual(first.output.map((item) => item.type), ["reasoning", "function_call"]);
  const result = { type: "function_call_output", call_id: first.output[1].call_id, output: "sunny" };
  const second = await client.responses.create({
    model: "sim",
    input: [result],
    tools: flatTools,
    previous_response_id: first.id,
  });
  assert.ok(second.output_text);
  assert.equal((await client.responses.retrieve(second.id)).output_text, second.output_text);
  await client.responses.delete(second.id);
  await assert.rejects(client.responses.retrieve(second.id), OpenAI.NotFoundError);
});

test("embeddings come as floats whatever crosses the wire", async () => {
  const plain = await client.embeddings.create({ model: "sim", input: "one", encoding_format: "float" });
  const packed = await client.embeddings.create({ model: "sim", input: "one" });
  assert.equal(plain.data[0].embedding.length, 64);
  assert.ok(plain.data[0].embedding.every((value, at) => Math.abs(value - packed.data[0].embedding[at]) < 1e-6));
});

test("refusals are exceptions with their request's id", async () => {
  const unknown = await client.chat.completions.create({ model: "nope", messages: says("hi") }).catch((error) => error);
  assert.ok(unknown instanceof OpenAI.NotFoundError);
  assert.equal(unknown.code, "model_not_found");
  assert.ok(unknown.requestID);
  const long = await client.responses.create({ model: "tight", input: "word ".repeat(500) }).catch((error) => error);
  assert.equal(long.code, "context_length_exceeded");
});

test("an aborted stream frees its slot at once", async () => {
  const stream = await client.chat.completions.create({ model: "slow", messages: says("#tokens 2000"), stream: true });
  for await (const _ of stream) {
    stream.controller.abort();
    break;
  }
  const began = performance.now();
  await client.chat.completions.create({ model: "slow", messages: says("#tokens 2") });
  assert.ok(performance.now() - began < 2000);
});
