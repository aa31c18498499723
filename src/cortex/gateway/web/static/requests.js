// The Requests page: the last requests as they end, the story of any one, and the trend of the last hours.
import { useEffect } from "./vendor/preact-hooks.js";
import { computed, signal } from "./vendor/signals.js";
import { get } from "./api.js";
import { Chart } from "./charts.js";
import { clock, count, seconds, sum } from "./format.js";
import { hue } from "./devices.js";
import { html } from "./html.js";
import { modelNames, requestsEnded } from "./store.js";
import { outcome, outcomeLook, Story } from "./waterfall.js";

const REFRESH_MS = 2000;
const SHOWN = 60;
const SPANS = { "1h": 3600, "6h": 21600, "24h": 86400 };

const traces = signal([]);
const minutes = signal([]);
const refusal = signal("");
const filters = signal({ slow: false, failed: false, key: "", model: "" });
const span = signal("1h");
const until = signal(Date.now() / 1000);
const keysSeen = signal([]);

const query = computed(() => {
  const { slow, failed, key, model } = filters.value;
  const parts = new URLSearchParams({ limit: String(SHOWN) });
  if (slow) parts.set("slow", "true");
  if (failed) parts.set("failed", "true");
  if (key) parts.set("key", key);
  if (model) parts.set("model", model);
  return parts.toString();
});

async function look() {
  const asked = query.value;
  try {
    const [listed, history] = await Promise.all([get(`/traces?${asked}`), get(`/fleet/history?since=${span.value}`)]);
    if (asked !== query.value) return;
    traces.value = listed.data;
    minutes.value = history.data;
    until.value = Date.now() / 1000;
    keysSeen.value = [...new Set([...keysSeen.value, ...listed.data.map((trace) => trace.key).filter(Boolean)])].sort();
    refusal.value = "";
  } catch (error) {
    refusal.value = error.message;
  }
}

export function Requests({ rest }) {
  useEffect(() => {
    let seen = requestsEnded.value;
    let quiet = 0;
    const timer = setInterval(() => {
      quiet += 1;
      if (requestsEnded.value === seen && quiet < 5) return;
      seen = requestsEnded.value;
      quiet = 0;
      look();
    }, REFRESH_MS);
    return () => clearInterval(timer);
  }, []);
  const asked = query.value;
  useEffect(() => {
    look();
  }, [asked, span.value]);
  return html`<div class=${rest ? "has-story" : ""}>
    <h1>${headline()}</h1>
    <p class="reason" role="alert">${refusal.value}</p>
    <${Trend} />
    <div class="split ${rest ? "has-chosen" : ""}">
      <div>
        <${Filters} />
        <div class="scroll" tabindex="0" role="region" aria-label="The last requests">
          <table class="requests">
            <thead>
              <tr>
                <th>Came</th><th>Model</th><th>Node</th><th>Key</th><th>Outcome</th>
                <th class="number">First token</th><th class="number">In all</th><th class="number">Tokens</th>
              </tr>
            </thead>
            <tbody>${traces.value.map((trace) => html`<${Row} key=${trace.id} trace=${trace} isChosen=${trace.id === rest} />`)}</tbody>
          </table>
        </div>
        ${traces.value.length === 0 && html`<p class="fine">There is none${asked === `limit=${SHOWN}` ? " yet" : " of that kind"}.</p>`}
      </div>
      ${rest && html`<${Story} key=${rest} id=${rest} />`}
    </div>
  </div>`;
}

function headline() {
  const total = sum(minutes.value.map((minute) => minute.requests));
  const failed = sum(minutes.value.map((minute) => minute.errors));
  const tokens = sum(minutes.value.map((minute) => minute.completion_tokens));
  const ago = { "1h": "hour", "6h": "six hours", "24h": "day" }[span.value];
  if (total === 0) return `No request in the last ${ago}.`;
  return `${count(total, "request")} in the last ${ago}, ${failed || "none"} of them failed; ${count(tokens, "token")} written.`;
}

const LINES = {
  ttft: [
    { name: "half within", key: "ttft_p50_seconds", colour: "hue-0", swatch: "hue-0", isGap: true },
    { name: "95 % within", key: "ttft_p95_seconds", colour: "hue-1", swatch: "hue-1", isGap: true },
  ],
  speed: [{ name: "written", key: "tokens_per_second", colour: "hue-2", swatch: "hue-2" }],
  queue: [
    { name: "under way", key: "in_flight", colour: "hue-5", swatch: "hue-5" },
    { name: "waiting", key: "waiting", colour: "hue-6", swatch: "hue-6" },
  ],
  moves: [
    { name: "loads", key: "loads", colour: "hue-0", swatch: "hue-0", isBar: true },
    { name: "evictions", key: "evictions", colour: "hue-1", swatch: "hue-1", isBar: true },
  ],
};
const whole = (value) => String(Math.round(value * 100) / 100);

function Trend() {
  const common = { minutes: minutes.value, from: until.value - SPANS[span.value], to: until.value };
  return html`<section class="trend" aria-label="The trend">
    <div class="spans" role="group" aria-label="How far back">
      ${Object.keys(SPANS).map(
        (each) => html`<button key=${each} class="quiet" aria-pressed=${span.value === each} onClick=${() => (span.value = each)}>${each}</button>`,
      )}
    </div>
    <div class="charts">
      <${Chart} title="First token" ...${common} lines=${LINES.ttft} format=${seconds} />
      <${Chart} title="Tokens a second" ...${common} lines=${LINES.speed} format=${whole} />
      <${Chart} title="Requests" ...${common} lines=${LINES.queue} format=${whole} />
      <${Chart} title="Loads and evictions" ...${common} lines=${LINES.moves} format=${whole} />
    </div>
  </section>`;
}

function Filters() {
  const set = (name, value) => (filters.value = { ...filters.value, [name]: value });
  const check = (name, label) => html`<label class="check">
    <input type="checkbox" checked=${filters.value[name]} onChange=${(event) => set(name, event.target.checked)} /> ${label}
  </label>`;
  const choose = (name, label, options) => html`<label class="inline">${label}
    <select value=${filters.value[name]} onChange=${(event) => set(name, event.target.value)}>
      <option value="">all</option>
      ${options.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}
    </select>
  </label>`;
  return html`<form class="filters" aria-label="Which requests" onSubmit=${(event) => event.preventDefault()}>
    ${check("slow", "slowest first")} ${check("failed", "failed only")}
    ${choose("model", "Model", modelNames.value)} ${choose("key", "Key", keysSeen.value)}
  </form>`;
}

function Row({ trace, isChosen }) {
  const tokens = trace.prompt_tokens === null ? "–" : `${trace.prompt_tokens} + ${trace.completion_tokens ?? 0}`;
  return html`<tr class=${isChosen ? "chosen" : ""} data-request=${trace.id}>
    <td><a href="#/requests/${encodeURIComponent(trace.id)}" aria-current=${isChosen ? "true" : undefined}>${clock(trace.received)}</a></td>
    <td><span class="swatch ${hue(trace.model)}"></span>${trace.model}</td>
    <td>${trace.node}</td>
    <td>${trace.key ?? "–"}</td>
    <td class="state ${outcomeLook(trace)}">${outcome(trace)}${trace.loads ? html`<span class="fine"> · cold start</span>` : ""}</td>
    <td class="number">${seconds(trace.first_token_at)}</td>
    <td class="number">${seconds(trace.seconds)}</td>
    <td class="number">${tokens}</td>
  </tr>`;
}
