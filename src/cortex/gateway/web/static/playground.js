// The Playground: a chat with any model, or the same chat with two, with what each answer cost.
import { useEffect, useRef } from "./vendor/preact-hooks.js";
import { signal } from "./vendor/signals.js";
import { get } from "./api.js";
import { converse, messageOf, requestOf, speed } from "./chat.js";
import { copy as copyText } from "./clipboard.js";
import { seconds } from "./format.js";
import { html } from "./html.js";
import { SNIPPETS } from "./snippets.js";

const EXAMPLE_TOOL = `[{"type": "function", "function": {"name": "weather", "description": "Look at the sky.",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]`;
const EXAMPLE_SCHEMA = `{"type": "object", "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}},
 "required": ["city", "degrees"], "additionalProperties": false}`;

const offered = signal([]);
const chosen = signal(["", ""]);
const isPair = signal(false);
// Each side's turns: `{asked, answer}`, and what stops the one that is under way.
const sides = signal([[], []]);
const stops = signal([null, null]);
const draft = signal("");
const settings = signal({ system: "", temperature: "", maxTokens: "", tools: "", schema: "" });
const refusal = signal("");
const copied = signal("");

const inUse = () => (isPair.value ? [0, 1] : [0]);
const isBusy = () => stops.value.some(Boolean);

async function learnModels() {
  try {
    const { data } = await get("/v1/models");
    offered.value = data.filter((each) => each.state !== "unavailable" || each.reason === undefined);
    const names = offered.value.map((each) => each.id);
    const ready = offered.value.find((each) => each.loaded)?.id ?? names[0] ?? "";
    chosen.value = chosen.value.map((name, side) => (names.includes(name) ? name : side ? (names.find((n) => n !== ready) ?? ready) : ready));
  } catch (error) {
    refusal.value = error.message;
  }
}

const put = (cell, side, value) => (cell.value = cell.value.map((each, at) => (at === side ? value : each)));

function messagesOf(side, asked) {
  const messages = settings.value.system.trim() ? [{ role: "system", content: settings.value.system }] : [];
  for (const turn of sides.value[side]) {
    messages.push({ role: "user", content: turn.asked }, messageOf(turn.answer));
    for (const each of turn.answer.calls) messages.push({ role: "tool", tool_call_id: each.id, content: "(not run here)" });
  }
  return [...messages, { role: "user", content: asked }];
}

function send(event) {
  event.preventDefault();
  const asked = draft.value.trim();
  if (!asked || isBusy()) return;
  let bodies;
  try {
    bodies = inUse().map((side) => requestOf({ model: chosen.value[side], messages: messagesOf(side, asked), settings: settings.value }));
  } catch (error) {
    refusal.value = error.message;
    return;
  }
  refusal.value = "";
  draft.value = "";
  inUse().forEach((side, at) => answerOn(side, asked, bodies[at]));
}

async function answerOn(side, asked, body) {
  const stop = new AbortController();
  const turns = sides.value[side];
  put(stops, side, stop);
  await converse(body, stop.signal, (answer) => put(sides, side, [...turns, { asked, model: body.model, answer }]));
  put(stops, side, null);
}

const stopAll = () => stops.value.forEach((each) => each?.abort());

function forget() {
  stopAll();
  sides.value = [[], []];
}

async function copyAs(name) {
  try {
    const asked = draft.value.trim() || sides.value[0].at(-1)?.asked || "Hello";
    const body = requestOf({ model: chosen.value[0], messages: messagesOf(0, asked), settings: settings.value });
    await copyText(SNIPPETS[name](location.origin, body));
    copied.value = name;
    setTimeout(() => (copied.value = ""), 2000);
  } catch (error) {
    refusal.value = error.message;
  }
}

export function Playground() {
  useEffect(() => {
    learnModels();
  }, []);
  return html`
    <h1>Talk to a model, or to two at once.</h1>
    <div class="talks ${isPair.value ? "pair" : ""}">
      ${inUse().map((side) => html`<${Talk} key=${side} side=${side} />`)}
    </div>
    <form class="ask" onSubmit=${send}>
      <label>Your message
        <textarea rows="3" name="message" value=${draft.value} onInput=${(event) => (draft.value = event.target.value)} onKeyDown=${onKey}></textarea>
      </label>
      <p class="reason" role="alert">${refusal.value}</p>
      <div class="buttons">
        ${isBusy() ? html`<button type="button" class="danger" onClick=${stopAll}>Stop</button>` : html`<button type="submit">Send</button>`}
        <button type="button" class="quiet" onClick=${forget}>Begin anew</button>
        <button type="button" class="quiet" onClick=${() => (isPair.value = !isPair.value)}>
          ${isPair.value ? "One model" : "Two models"}
        </button>
        <span class="copies">Copy as
          ${Object.keys(SNIPPETS).map(
            (name) => html` <button type="button" class="quiet" key=${name} onClick=${() => copyAs(name)}>${copied.value === name ? "copied" : name}</button>`,
          )}
        </span>
      </div>
      <${Settings} />
    </form>
  `;
}

function onKey(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
}

function Talk({ side }) {
  const turns = sides.value[side];
  const foot = useRef(null);
  const length = turns.at(-1)?.answer.text.length ?? 0;
  useEffect(() => foot.current?.scrollIntoView({ block: "nearest" }), [turns.length, length]);
  const model = offered.value.find((each) => each.id === chosen.value[side]);
  return html`<section class="talk" aria-label="Chat ${side + 1}">
    <label>Model
      <select value=${chosen.value[side]} onChange=${(event) => put(chosen, side, event.target.value)}>
        ${offered.value.map((each) => html`<option key=${each.id} value=${each.id}>${each.id}${each.loaded ? "" : " (loads first)"}</option>`)}
      </select>
    </label>
    ${model?.simulated && html`<p class="fine">Simulated: no model is behind it.</p>`}
    <div class="turns" tabindex="0" role="log" aria-label="Answers of ${chosen.value[side]}" aria-busy=${Boolean(stops.value[side])}>
      ${turns.length === 0 && html`<p class="fine turn">Nothing was said yet. Enter sends, Shift and Enter begin a new line.</p>`}
      ${turns.map((turn, at) => html`<${Turn} key=${at} turn=${turn} />`)}
      <div ref=${foot}></div>
    </div>
  </section>`;
}

function Turn({ turn }) {
  const { asked, answer, model } = turn;
  return html`<div class="turn" data-state=${answer.state}>
    <p class="asked">${asked}</p>
    ${answer.state === "waiting" && html`<p class="waits" role="status">${answer.waits || "sent"}…</p>`}
    ${answer.reasoning && html`<details class="reasoning"><summary>Its reasoning</summary><p>${answer.reasoning}</p></details>`}
    ${answer.text && html`<p class="answer">${answer.text}</p>`}
    ${answer.calls.map((each) => html`<pre class="call" tabindex="0">${each.name}(${each.arguments})</pre>`)}
    ${answer.refusal && html`<p class="reason">${answer.refusal}</p>`}
    <p class="figures fine">${figuresOf(answer, model)}</p>
  </div>`;
}

function figuresOf(answer, model) {
  const { figures } = answer;
  const words = [answer.node ? `${model} on ${answer.node}` : model];
  if (answer.state === "stopped") words.push("stopped");
  if (figures.ttft !== null && figures.ttft !== undefined) words.push(`first token after ${seconds(figures.ttft)}`);
  const pace = speed(figures);
  if (pace !== null) words.push(`${pace.toFixed(1)} tok/s`);
  if (figures.usage) words.push(`${figures.usage.prompt_tokens} + ${figures.usage.completion_tokens} tokens`);
  return words.join(" · ");
}

function Settings() {
  const field = (name) => ({
    value: settings.value[name],
    onInput: (event) => (settings.value = { ...settings.value, [name]: event.target.value }),
  });
  const fill = (name, text) => () => (settings.value = { ...settings.value, [name]: settings.value[name] ? "" : text });
  return html`<details class="settings">
    <summary>System prompt, sampling, tools, JSON schema</summary>
    <div class="fields">
      <label class="wide">System prompt <textarea rows="2" name="system" ...${field("system")}></textarea></label>
      <label>Temperature <input name="temperature" type="number" min="0" max="2" step="0.1" placeholder="the model's" ...${field("temperature")} /></label>
      <label>Most tokens <input name="max_tokens" type="number" min="1" step="1" placeholder="no limit" ...${field("maxTokens")} /></label>
      <div class="wide">
        <label>Tools, as JSON <textarea class="code" rows="4" name="tools" spellcheck="false" ...${field("tools")}></textarea></label>
        <button type="button" class="quiet" onClick=${fill("tools", EXAMPLE_TOOL)}>${settings.value.tools ? "Without tools" : "An example"}</button>
      </div>
      <div class="wide">
        <label>JSON schema of the answer <textarea class="code" rows="4" name="schema" spellcheck="false" ...${field("schema")}></textarea></label>
        <button type="button" class="quiet" onClick=${fill("schema", EXAMPLE_SCHEMA)}>${settings.value.schema ? "Without a schema" : "An example"}</button>
      </div>
    </div>
  </details>`;
}
