// The Keys page: who may call this gateway, how much they may use and have used.
import { useEffect } from "./vendor/preact-hooks.js";
import { signal, useSignal } from "./vendor/signals.js";
import { ask, get, post } from "./api.js";
import { copy as copyText } from "./clipboard.js";
import { count } from "./format.js";
import { html } from "./html.js";
import { learnSession, session } from "./store.js";

const keys = signal(null);
const refusal = signal("");

async function learn() {
  try {
    keys.value = await get("/keys");
    refusal.value = "";
  } catch (error) {
    refusal.value = error.message;
  }
}

export function Keys() {
  const shown = useSignal(null);
  useEffect(() => {
    learn();
  }, []);
  if (keys.value === null) return html`<p class="fine">${refusal.value || "Looking at the keys…"}</p>`;
  const { data, wants_key: wantsKey } = keys.value;
  return html`
    <h1>${wantsKey ? `${count(data.length, "key")}; nobody gets in without one.` : "There are no keys: whoever reaches this gateway may use and run it."}</h1>
    ${shown.value && html`<${Shown} made=${shown.value} done=${() => (shown.value = null)} />`}
    <p class="reason" role="alert">${refusal.value}</p>
    ${data.length > 0 &&
    html`<div class="scroll" tabindex="0" role="region" aria-label="The keys">
      <table class="keys">
        <thead>
          <tr>
            <th>Name</th><th>For</th><th>Models</th><th>Limits</th><th>Ends</th><th>Last use</th>
            <th class="number">Requests</th><th class="number">Tokens</th><th><span class="unseen">Revoke</span></th>
          </tr>
        </thead>
        <tbody>${data.map((key) => html`<${Row} key=${key.id} entry=${key} />`)}</tbody>
      </table>
    </div>`}
    <${NewKey} isFirst=${data.length === 0} onMade=${(made) => (shown.value = made)} />
  `;
}

function Row({ entry }) {
  const asked = useSignal(false);
  const revoke = async () => {
    try {
      await ask("DELETE", `/keys/${entry.id}`);
    } catch (error) {
      refusal.value = error.message;
      asked.value = false;
      return;
    }
    await learn();
    await learnSession();
  };
  const isOwn = session.value.caller.name === entry.name;
  return html`<tr data-key=${entry.name}>
    <td>${entry.name}${isOwn ? html` <span class="fine">yours</span>` : ""}<div class="fine">${entry.id}</div></td>
    <td>${entry.scope}</td>
    <td>${entry.models.join(", ") || "all"}</td>
    <td>${limits(entry).map((line) => html`<div>${line}</div>`)}<${Budget} entry=${entry} /></td>
    <td>${entry.expires ? entry.expires.slice(0, 10) : "never"}</td>
    <td>${entry.last_used ? entry.last_used.replace("T", " ").slice(0, 16) : "–"}</td>
    <td class="number">${entry.requests?.toLocaleString("en") ?? "–"}</td>
    <td class="number">${entry.tokens?.toLocaleString("en") ?? "–"}</td>
    <td class="number">
      ${asked.value
        ? html`<button class="danger" onClick=${revoke}>Revoke ${entry.name}</button> <button class="quiet" onClick=${() => (asked.value = false)}>Keep</button>`
        : html`<button class="quiet" onClick=${() => (asked.value = true)}>Revoke…<span class="unseen"> ${entry.name}</span></button>`}
    </td>
  </tr>`;
}

function limits(entry) {
  const lines = [];
  if (entry.requests_per_minute) lines.push(`${entry.requests_per_minute} requests/min`);
  if (entry.tokens_per_minute) lines.push(`${entry.tokens_per_minute.toLocaleString("en")} tokens/min`);
  if (entry.concurrency) lines.push(`${entry.concurrency} at once`);
  return lines.length || entry.budget_tokens ? lines : ["none"];
}

function Budget({ entry }) {
  if (!entry.budget_tokens) return null;
  const used = entry.budget_used_tokens ?? 0;
  const hours = entry.budget_window_seconds / 3600;
  const words = `${used.toLocaleString("en")} of ${entry.budget_tokens.toLocaleString("en")} tokens in ${hours} h`;
  return html`<div class="budget"><meter aria-label=${words} min="0" max=${entry.budget_tokens} value=${used}></meter><div>${words}</div></div>`;
}

function Shown({ made, done }) {
  const copied = useSignal(false);
  const copy = async () => {
    await copyText(made.key);
    copied.value = true;
  };
  return html`<section class="shown" aria-label="The new key">
    <p>The key of <strong>${made.name}</strong>. It is shown this once; only its digest is kept.</p>
    <p><code class="secret">${made.key}</code></p>
    <div class="buttons">
      <button onClick=${copy}>${copied.value ? "Copied" : "Copy"}</button>
      <button class="quiet" onClick=${done}>I have it</button>
    </div>
  </section>`;
}

const NUMBERS = ["requests_per_minute", "tokens_per_minute", "concurrency", "budget_tokens"];

function asked(form) {
  const given = new FormData(form);
  const wanted = { name: given.get("name"), scope: given.get("scope") };
  const models = given.get("models").split(/[\s,]+/).filter(Boolean);
  if (models.length) wanted.models = models;
  for (const name of NUMBERS) if (given.get(name)) wanted[name] = Number(given.get(name));
  if (given.get("budget_tokens") && given.get("budget_window")) wanted.budget_window = given.get("budget_window");
  if (given.get("expires")) wanted.expires = given.get("expires");
  return wanted;
}

function NewKey({ isFirst, onMade }) {
  const wrong = useSignal("");
  const make = async (event) => {
    event.preventDefault();
    const form = event.target;
    try {
      const made = await post("/keys", asked(form));
      // The first key closes the gateway: whoever made it goes on under it.
      if (isFirst) session.value = await post("/ui/session", { key: made.key });
      wrong.value = "";
      form.reset();
      onMade(made);
      await learn();
    } catch (error) {
      wrong.value = error.message;
    }
  };
  const number = (name, label) => html`<label>${label} <input name=${name} type="number" min="1" step="1" placeholder="no limit" /></label>`;
  return html`<section class="new-key" aria-labelledby="new-key">
    <h2 id="new-key">${isFirst ? "Make the first key" : "Make a key"}</h2>
    ${isFirst && html`<p class="fine">From then on nobody gets in without one, so the first is an admin's.</p>`}
    <form onSubmit=${make}>
      <label>Name <input name="name" required autocomplete="off" spellcheck="false" /></label>
      <label>For
        <select name="scope">
          ${!isFirst && html`<option value="inference">inference</option>`}
          <option value="admin">admin: all of this</option>
        </select>
      </label>
      <label>Models <input name="models" placeholder="all; or qwen*, default" autocomplete="off" spellcheck="false" /></label>
      ${number("requests_per_minute", "Requests a minute")}
      ${number("tokens_per_minute", "Tokens a minute")}
      ${number("concurrency", "Requests at once")}
      ${number("budget_tokens", "Budget, in tokens")}
      <label>…in any <input name="budget_window" placeholder="24h" autocomplete="off" /></label>
      <label>Ends <input name="expires" placeholder="never; or 30d, 2031-01-31" autocomplete="off" /></label>
      <p class="reason" role="alert">${wrong.value}</p>
      <button>Make it</button>
    </form>
  </section>`;
}
