// What was decided lately, a sentence each.
import { clock, seconds } from "./format.js";
import { html } from "./html.js";
import { entries } from "./store.js";

const SHOWN = 14;

const SENTENCES = {
  planned: (e) => [`${e.model} is to be loaded on ${e.node}`, e.reason],
  evicted: (e) => [`${e.model} goes from ${e.node}`, e.reason],
  unloaded: (e) => [`${e.model} goes from ${e.node}`, e.reason],
  load_started: (e) => [`${e.model} is being loaded on ${e.node}`, ""],
  load_finished: (e) => [`${e.model} is ready on ${e.node}`, `in ${seconds(e.seconds)}`],
  load_failed: (e) => [`${e.model} could not be loaded on ${e.node}`, e.reason],
  unload_failed: (e) => [`${e.model} could not be unloaded from ${e.node}`, e.reason],
  plan_dropped: (e) => [`the plan for ${e.model} on ${e.node} was given up`, e.reason],
  refused: (e) => [`requests for ${e.model} were refused`, e.reason],
  missed: (e) => [`${e.count} entries were missed`, "the page could not keep up"],
};
const BAD = new Set(["load_failed", "unload_failed", "refused", "plan_dropped"]);

export function Lately({ model }) {
  const shown = entries.value
    .filter((entry) => SENTENCES[entry.kind] && (model === undefined || entry.model === model))
    .slice(0, SHOWN);
  return html`<section class="lately" aria-labelledby="lately">
    <h2 id="lately">Lately</h2>
    ${shown.length === 0 && html`<p class="fine">Nothing was decided yet.</p>`}
    <ol>
      ${shown.map((entry) => html`<${Entry} key=${entry.seq} entry=${entry} />`)}
    </ol>
  </section>`;
}

function Entry({ entry }) {
  const [what, why] = SENTENCES[entry.kind](entry);
  return html`<li class=${BAD.has(entry.kind) ? "bad" : ""}>
    <time>${clock(entry.time)}</time><span>${what}${why ? html`<span class="why">, ${why}</span>` : ""}.</span>
  </li>`;
}
