// The story of one request as spans: where its time went, and why it went where it did.
import { useEffect } from "./vendor/preact-hooks.js";
import { useSignal } from "./vendor/signals.js";
import { get } from "./api.js";
import { clock, seconds } from "./format.js";
import { html } from "./html.js";

const LOOKS = { waiting: "wait", "failed attempt": "bad", "cold start": "load", prefill: "prefill", decode: "decode", "last byte": "wait" };

export function Story({ id }) {
  const trace = useSignal(null);
  const refusal = useSignal("");
  useEffect(() => {
    let isCurrent = true;
    get(`/traces/${encodeURIComponent(id)}`).then(
      (found) => isCurrent && (trace.value = found),
      (error) => isCurrent && (refusal.value = error.message),
    );
    return () => (isCurrent = false);
  }, [id]);
  if (trace.value === null) return html`<section class="detail"><p class="fine" role="status">${refusal.value || "Looking…"}</p></section>`;
  return html`<${Told} trace=${trace.value} />`;
}

function Told({ trace }) {
  return html`<section class="detail story" aria-label="Request ${trace.id}">
    <h2>${trace.model} <span class="state ${outcomeLook(trace)}">${outcome(trace)}</span></h2>
    <p class="fine">${trace.id} · ${clock(trace.received)} · ${trace.dialect}${trace.key ? ` · key ${trace.key}` : ""} · ${seconds(trace.seconds)} in all</p>
    ${trace.reason && html`<p class="reason">${trace.reason}</p>`}
    <ol class="waterfall">
      ${trace.spans.map((span, at) => html`<${Span} key=${at} span=${span} whole=${trace.seconds} />`)}
    </ol>
    ${trace.decision && html`<${Decision} decision=${trace.decision} />`}
  </section>`;
}

function Span({ span, whole }) {
  const total = Math.max(whole, 0.000001);
  const place = { left: `${(100 * Math.max(0, span.at)) / total}%`, width: `${(100 * span.seconds) / total}%` };
  return html`<li class="depth-${Math.min(span.depth, 3)}">
    <span class="span-name">${span.name}</span>
    <span class="span-time">${seconds(span.seconds)}</span>
    <span class="track"><span class="bar ${LOOKS[span.name] ?? (span.depth ? "load" : "wait")}" style=${place}></span></span>
    ${span.note && html`<span class="span-note">${span.note}</span>`}
  </li>`;
}

function Decision({ decision }) {
  const rejected = Object.entries(decision.rejected ?? {});
  return html`<p class="chosen-by">Went to <strong>${decision.node}</strong>: ${decision.reason}; expected to take ${seconds(decision.expected_seconds)}.</p>
    ${rejected.length > 0 &&
    html`<ul class="obstacles">${rejected.map(([node, why]) => html`<li key=${node}>not ${node}: ${why}</li>`)}</ul>`}`;
}

export function outcome(trace) {
  if (trace.outcome === "left") return "the client left";
  if (trace.outcome === "failed") return trace.code || String(trace.status);
  return trace.finish_reason && trace.finish_reason !== "stop" ? trace.finish_reason : "answered";
}

export const outcomeLook = (trace) => ({ answered: "good", failed: "bad", left: "warn" })[trace.outcome] ?? "";
