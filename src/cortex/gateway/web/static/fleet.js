// The Fleet page: every node with its devices drawn to scale, and what was decided lately.
import { useEffect } from "./vendor/preact-hooks.js";
import { useSignal } from "./vendor/signals.js";
import { bytes, count, list, seconds, sum } from "./format.js";
import { Device, hue, shares, squareBytes } from "./devices.js";
import { Lately } from "./lately.js";
import { html } from "./html.js";
import { orderDrain, orderUndrain } from "./orders.js";
import { nodes, plans, refusedEdits, replicas, waiting } from "./store.js";

const ORDER = { ready: 0, loading: 1, draining: 2, failed: 3, unloaded: 4 };

function headline() {
  const all = nodes.value;
  if (all.length === 0) return "There is no node yet.";
  const down = all.filter((node) => !node.healthy);
  const devices = all.filter((node) => node.healthy).flatMap((node) => node.devices);
  const total = sum(devices.map((device) => device.total_bytes));
  const used = total - sum(devices.map((device) => device.free_bytes));
  const ready = replicas.value.filter((replica) => replica.state === "ready");
  const flying = sum(replicas.value.map((replica) => replica.in_flight));
  const queue = sum(Object.values(waiting.value));
  const parts = [
    `${count(all.length, "node")}${down.length ? `, ${down.length === all.length ? "none" : `${all.length - down.length}`} of them well` : ""}`,
    `${count(ready.length, "replica")} ready`,
    flying || queue ? `${count(flying, "request")} under way${queue ? ` (${queue} more waiting)` : ""}` : "nothing under way",
  ];
  return `${list(parts)}; ${bytes(used)} of ${bytes(total)} in use.`;
}

export function Fleet() {
  return html`
    <h1>${headline()}</h1>
    <${RefusedEdits} />
    <p class="scale">
      <span><span class="swatch square"></span>One square is ${bytes(squareBytes.value)}, on every device.</span>
      <span><span class="swatch other"></span>other programs</span>
      <span><span class="swatch free"></span>free</span>
    </p>
    <div class="nodes">${nodes.value.map((node) => html`<${Node} key=${node.name} node=${node} />`)}</div>
    <${Lately} />
  `;
}

function RefusedEdits() {
  return Object.entries(refusedEdits.value).map(
    ([path, reason]) => html`<p class="alarm" role="alert"><strong>An edit is not in effect.</strong> ${path}: ${reason}</p>`,
  );
}

export function standing(node) {
  if (!node.healthy && node.leaving) return { word: "leaving", look: "warn" };
  if (!node.healthy) return { word: node.seenAt === null ? "never seen" : "does not answer", look: "bad" };
  if (node.drained) return { word: node.replicas.length ? "draining" : "drained", look: "warn" };
  return { word: "well", look: "good" };
}

function Node({ node }) {
  const { word, look } = standing(node);
  const coming = (plans.value[node.name] ?? []).filter((model) => !node.replicas.some((each) => each.model === model));
  const sorted = [...node.replicas].sort((a, b) => ORDER[a.state] - ORDER[b.state] || a.model.localeCompare(b.model));
  return html`<article class="node ${look}" aria-label="node ${node.name}" data-node=${node.name}>
    <header>
      <h2>${node.name}</h2>
      <span class="state ${look}">${word}</span>
      <button class="quiet" onClick=${() => (node.drained ? orderUndrain(node.name) : orderDrain(node.name))}>
        ${node.drained ? "Put back" : "Drain"}…<span class="unseen"> ${node.name}</span>
      </button>
    </header>
    <p class="fine">${node.endpoint.replace(/^http:\/\//, "")} · ${node.engines.join(", ") || "no engine"}${
      node.version ? ` · ${node.version}` : ""
    }</p>
    ${!node.healthy && html`<p class="reason">${node.reason}<${LastSeen} at=${node.seenAt} /></p>`}
    <div class="devices">${node.devices.map((device) => html`<${DeviceFigure} device=${device} node=${node} />`)}</div>
    ${sorted.length + coming.length > 0
      ? html`<${Replicas} node=${node} replicas=${sorted} coming=${coming} />`
      : node.healthy && html`<p class="fine empty">Nothing is loaded.</p>`}
  </article>`;
}

function LastSeen({ at }) {
  const now = useSignal(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => (now.value = Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, []);
  return at === null ? null : html`<span class="last-seen"> Last seen ${seconds(Math.max(1, now.value - at))} ago.</span>`;
}

function DeviceFigure({ device, node }) {
  const { used } = shares(device, node);
  const readings = [
    device.utilization_percent === null ? "" : `${Math.round(device.utilization_percent)} % busy`,
    device.temperature_celsius === null ? "" : `${Math.round(device.temperature_celsius)} °C`,
  ].filter(Boolean);
  return html`<figure>
    <${Device} device=${device} node=${node} />
    <figcaption>
      <span class="device-name">${device.index} ${device.name}</span>
      <span>${bytes(used)} of ${bytes(device.total_bytes)}${readings.length ? ` · ${readings.join(" · ")}` : ""}</span>
    </figcaption>
  </figure>`;
}

function Replicas({ node, replicas: shown, coming }) {
  return html`<table class="replicas">
    <thead>
      <tr><th>Model</th><th>State</th><th class="number">Busy</th><th class="number">tok/s</th><th class="number">Memory</th></tr>
    </thead>
    <tbody>
      ${shown.map((replica) => html`<${Replica} key=${replica.model} replica=${replica} />`)}
      ${coming.map(
        (model) => html`<tr key=${model}>
          <td><span class="swatch planned"></span><a href="#/models/${model}">${model}</a></td>
          <td class="state warn" colspan="4">planned</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}

function Replica({ replica }) {
  const look = { ready: "good", loading: "warn", draining: "warn", failed: "bad" }[replica.state] ?? "";
  const queue = replica.queued + (waiting.value[replica.model] ?? 0);
  const memory = sum(Object.values(replica.bytes_by_device));
  return html`<tr>
    <td><span class="swatch ${hue(replica.model)} is-${replica.state}"></span><a href="#/models/${replica.model}">${replica.model}</a>
      ${replica.error && html`<p class="reason">${replica.error}</p>`}</td>
    <td class="state ${look}">${replica.progress || replica.state}</td>
    <td class="number">${replica.in_flight}/${replica.slots || "–"}${queue ? html`<span class="queue"> +${queue}</span>` : ""}</td>
    <td class="number">${replica.tokens_per_second ?? "–"}</td>
    <td class="number">${memory ? bytes(memory) : "–"}</td>
  </tr>`;
}
