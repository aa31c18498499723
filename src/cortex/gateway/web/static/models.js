// The Models page: the catalogue, and for one model what would happen to a request for it now, drawn.
import { useEffect } from "./vendor/preact-hooks.js";
import { computed, useSignal } from "./vendor/signals.js";
import { get, inPath } from "./api.js";
import { count, list, sum } from "./format.js";
import { hue } from "./devices.js";
import { Explained } from "./explained.js";
import { html } from "./html.js";
import { Lately } from "./lately.js";
import { orderLoad, orderPin, orderUnload } from "./orders.js";
import { entries, modelNames, models, nodes, plans, replicas, waiting } from "./store.js";

const rows = computed(() => {
  const specs = new Map(models.value.map((spec) => [spec.id, spec]));
  return modelNames.value.map((id) => {
    const there = replicas.value.filter((replica) => replica.model === id);
    return { id, spec: specs.get(id), there, state: stateOf(id, there), waiting: waiting.value[id] ?? 0 };
  });
});

function stateOf(id, there) {
  const states = new Set(there.map((replica) => replica.state));
  const planned = Object.values(plans.value).some((each) => each.includes(id));
  if (states.has("ready")) return { word: "ready", look: "good" };
  if (states.has("loading")) return { word: there.find((each) => each.state === "loading").progress || "loading", look: "warn" };
  if (planned) return { word: "planned", look: "warn" };
  if (states.has("draining")) return { word: "draining", look: "warn" };
  if (states.has("failed")) return { word: "failed", look: "bad" };
  return { word: "not loaded", look: "" };
}

export function Models({ rest }) {
  const ready = rows.value.filter((row) => row.state.word === "ready").length;
  const chosen = rows.value.find((row) => row.id === rest || row.spec?.aliases.includes(rest));
  return html`
    <h1>${count(modelNames.value.length, "model")}, ${ready === 0 ? "none" : ready} of them ready on ${count(nodes.value.length, "node")}.</h1>
    <div class="split ${chosen ? "has-chosen" : ""}">
      <div class="scroll" tabindex="0" role="region" aria-label="The models">
        <table class="models">
          <thead>
            <tr>
              <th>Model</th><th>State</th><th>Where</th><th class="number">Busy</th>
              <th class="number">Priority</th><th>Kept</th>
            </tr>
          </thead>
          <tbody>
            ${rows.value.map((row) => html`<${Row} key=${row.id} row=${row} isChosen=${row === chosen} />`)}
          </tbody>
        </table>
      </div>
      ${chosen
        ? html`<${Detail} key=${chosen.id} row=${chosen} />`
        : rest
          ? html`<p class="alarm">There is no model ${rest} here.</p>`
          : html`<p class="fine hint">Choose a model to see where a request for it would go, and what stands in the way.</p>`}
    </div>
  `;
}

function Row({ row, isChosen }) {
  const { id, spec, there, state } = row;
  const slots = sum(there.map((replica) => replica.slots));
  const flying = sum(there.map((replica) => replica.in_flight));
  return html`<tr class=${isChosen ? "chosen" : ""} data-model=${id}>
    <td>
      <span class="swatch ${hue(id)}"></span><a href="#/models/${id}" aria-current=${isChosen ? "true" : undefined}>${id}</a>
      ${spec?.aliases.length > 0 && html`<div class="fine">${spec.aliases.join(", ")}</div>`}
    </td>
    <td class="state ${state.look}">${state.word}</td>
    <td>${there.map((replica) => replica.node).join(", ") || "–"}</td>
    <td class="number">${slots ? `${flying}/${slots}` : "–"}${row.waiting ? html`<span class="queue"> +${row.waiting}</span>` : ""}</td>
    <td class="number">${spec ? spec.priority : "–"}</td>
    <td>${kept(spec)}</td>
  </tr>`;
}

function kept(spec) {
  if (!spec) return "not in the catalogue";
  const words = [];
  if (spec.pinned) words.push("pinned");
  if (spec.pinned_on.length) words.push(`pinned on ${list(spec.pinned_on)}`);
  if (spec.min_resident) words.push(`${spec.min_resident} resident`);
  return words.join(", ") || "–";
}

function Detail({ row }) {
  const explained = useSignal(null);
  const refusal = useSignal("");
  const latest = entries.value.find((entry) => entry.model === row.id || entry.kind === "planned")?.seq ?? 0;
  const moment = JSON.stringify([latest, row.there, row.spec, nodes.value.map((node) => [node.name, node.healthy, node.drained])]);
  useEffect(() => {
    let isCurrent = true;
    get(`/fleet/explain/${inPath(row.id)}`).then(
      (found) => isCurrent && ((explained.value = found), (refusal.value = "")),
      (error) => isCurrent && (refusal.value = error.message),
    );
    return () => (isCurrent = false);
  }, [row.id, moment]);
  return html`<section class="detail" aria-label="${row.id}">
    <h2><span class="swatch ${hue(row.id)}"></span>${row.id}</h2>
    ${row.spec && html`<${Orders} row=${row} />`}
    <p class="reason" role="alert">${refusal.value}</p>
    ${explained.value && html`<${Explained} explained=${explained.value} />`}
    <${Lately} model=${row.id} />
  </section>`;
}

function Orders({ row }) {
  const { id, spec, there } = row;
  const could = nodes.value.filter((node) => node.healthy && !node.drained && !there.some((each) => each.node === node.name));
  const loaded = there.filter((replica) => replica.state === "ready" || replica.state === "failed");
  const pinnedByFile = spec.pinned && !spec.unpinnable;
  return html`<div class="buttons">
    <button class="quiet" onClick=${() => orderLoad(id, could.map((node) => node.name))}>Load…</button>
    ${loaded.map(
      (replica) => html`<button key=${replica.node} class="quiet" onClick=${() => orderUnload(id, replica.node)}>Unload from ${replica.node}…</button>`,
    )}
    ${!pinnedByFile && html`<button class="quiet" onClick=${() => orderPin(id, !spec.pinned)}>${spec.pinned ? "Unpin" : "Pin"}…</button>`}
  </div>`;
}
