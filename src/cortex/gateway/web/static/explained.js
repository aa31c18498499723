// An explanation, drawn: how a request would be served, and for each node what one more replica would take there.
import { bytes, list, seconds, sum } from "./format.js";
import { Device } from "./devices.js";
import { html } from "./html.js";
import { nodes } from "./store.js";

const DECISIONS = {
  serve: ["served at once", "good"],
  queue: ["queued", "warn"],
  load: ["served once it is loaded", "warn"],
  wait: ["made to wait", "warn"],
  refuse: ["refused", "bad"],
};
const VERDICTS = {
  free: ["fits beside what is there", "good"],
  evict: ["fits once others are gone", "warn"],
  drain: ["fits once others are drained", "warn"],
  wait: ["not now", "warn"],
  never: ["not there", "bad"],
};

export function Explained({ explained }) {
  const [word, look] = DECISIONS[explained.decision];
  return html`
    <p class="verdict">A request now would be <strong class="state ${look}">${word}</strong>: ${explained.summary}.</p>
    ${explained.job && html`<${Job} job=${explained.job} />`}
    ${explained.replicas.length > 0 && html`<${Ranking} replicas=${explained.replicas} />`}
    ${explained.candidates.length > 0 &&
    html`<h3>Where one more replica could go</h3>
      <p class="scale">
        <span><span class="swatch wanted"></span>what it would take</span>
        <span>paler squares are of what would have to go</span>
      </p>
      <ol class="candidates">
        ${explained.candidates.map((each) => html`<${Candidate} key=${each.node} candidate=${each} />`)}
      </ol>`}
  `;
}

function Job({ job }) {
  const doing = job.phase ? `${job.phase} on ${job.plan.node}` : `held: ${job.held}`;
  return html`<p class="job">A replica is on its way, for ${seconds(job.seconds)}: ${doing}.</p>`;
}

function Ranking({ replicas }) {
  return html`<table class="ranking">
    <caption>Replicas, in the order in which they would be chosen</caption>
    <thead>
      <tr><th>Node</th><th class="number">Busy</th><th class="number">Done in about</th><th class="number">Idle for</th><th></th></tr>
    </thead>
    <tbody>
      ${replicas.map(
        (each) => html`<tr key=${each.node}>
          <td>${each.node}</td>
          <td class="number">${each.in_flight}/${each.slots}</td>
          <td class="number">${seconds(each.expected_seconds)}</td>
          <td class="number">${each.in_flight ? "–" : seconds(each.idle_seconds)}</td>
          <td class="fine">${each.note}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}

function Candidate({ candidate }) {
  const { plan } = candidate;
  const [word, look] = VERDICTS[candidate.verdict];
  const node = nodes.value.find((each) => each.name === candidate.node);
  return html`<li data-candidate=${candidate.node}>
    <h4>${candidate.node} <span class="state ${look}">${word}</span></h4>
    ${plan && html`<p>${sentenceOf(plan)}</p>`}
    ${!plan && candidate.obstacles.length === 0 && html`<p>${candidate.reason}</p>`}
    ${node &&
    candidate.devices.length > 0 &&
    html`<div class="devices">
      ${candidate.devices.map((room) => {
        const device = node.devices.find((each) => each.index === room.device);
        if (!device) return null;
        return html`<figure key=${room.device}>
          <${Device} device=${device} node=${node} wanted=${room.needed_bytes} leaving=${plan?.evicts ?? []} />
          <figcaption>
            <span class="device-name">${room.device} ${room.name}</span>
            <span>${room.needed_bytes ? `${bytes(room.needed_bytes)} wanted` : "need not known"}, ${bytes(Math.max(0, room.free_bytes))} usable</span>
          </figcaption>
        </figure>`;
      })}
    </div>`}
    ${candidate.obstacles.length > 0 &&
    html`<ul class="obstacles">${candidate.obstacles.map((each) => html`<li>${each}</li>`)}</ul>`}
  </li>`;
}

export function sentenceOf(plan) {
  const needed = sum(Object.values(plan.bytes_by_device));
  const where = plan.devices.length === 1 ? `device ${plan.devices[0]}` : `devices ${list(plan.devices.map(String))}`;
  const first = plan.blind ? `On ${where}; what it needs is found out by trying` : `${bytes(needed)} on ${where}`;
  const idle = plan.evicts.filter((model) => !plan.drains.includes(model));
  const goes = idle.length ? `, after unloading ${list(idle)}` : "";
  const drained = plan.drains.length ? `, after draining ${list(plan.drains)}` : "";
  return `${first}${goes}${drained}; costs about ${seconds(plan.cost_seconds)}.`;
}
