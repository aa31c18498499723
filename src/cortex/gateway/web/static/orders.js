// Orders: what each would come to is asked and shown before it is carried out.
import { useEffect, useRef } from "./vendor/preact-hooks.js";
import { signal } from "./vendor/signals.js";
import { get, post } from "./api.js";
import { bytes, count, list, seconds, sum } from "./format.js";
import { html } from "./html.js";

const order = signal(null);

const EMPTY = { title: "", action: "", lines: [], cautions: [], refusal: "", isBusy: true, choices: null };

// Open the dialog on *begun*: `{title, action, look, act}`, where `look` returns `{lines, cautions, act}`.
async function open(begun) {
  order.value = { ...EMPTY, ...begun };
  await look();
}

// Ask anew; of two that were asked for, only the later one is shown.
async function look(choice = order.value.chosen) {
  const turn = Symbol(choice);
  order.value = { ...order.value, turn, isBusy: true, refusal: "", chosen: choice };
  const show = (found) => {
    if (order.value?.turn === turn) order.value = { ...order.value, isBusy: false, ...found };
  };
  try {
    show(await order.value.look(choice));
  } catch (error) {
    show({ lines: [], cautions: [], act: null, refusal: error.message });
  }
}

async function carryOut(event) {
  event.preventDefault();
  const mine = order.value;
  order.value = { ...mine, isBusy: true, refusal: "" };
  try {
    await mine.act();
    order.value = null;
  } catch (error) {
    order.value = { ...mine, isBusy: false, refusal: error.message };
  }
}

export function orderLoad(model, nodes) {
  const choices = [{ value: "", label: "wherever it is cheapest" }, ...nodes.map((name) => ({ value: name, label: name }))];
  return open({
    title: `Load ${model}`,
    action: "Load it",
    choices,
    chosen: "",
    look: async (chosen) => {
      const asked = { model, node: chosen || null };
      const { plan } = await post("/fleet/load", { ...asked, dry_run: true });
      return {
        lines: planLines(plan),
        cautions: plan.drains.map((each) => `${each} is busy: it ends its answers first, and gets no new ones`),
        act: () => post("/fleet/load", { model, node: plan.node, evicts: plan.evicts }),
      };
    },
  });
}

function planLines(plan) {
  const needed = sum(Object.values(plan.bytes_by_device));
  const devices = plan.devices.length === 1 ? `device ${plan.devices[0]}` : `devices ${list(plan.devices.map(String))}`;
  const lines = [`On ${plan.node}, ${devices}: ${plan.blind ? "its need is found out by trying" : bytes(needed)}.`];
  lines.push(plan.evicts.length ? `First ${list(plan.evicts)} ${plan.evicts.length === 1 ? "goes" : "go"}.` : "Nothing has to go for it.");
  lines.push(`The whole costs about ${seconds(plan.cost_seconds)} of loading, now and later.`);
  return lines;
}

export function orderUnload(model, node) {
  const asked = { model, node };
  return open({
    title: `Unload ${model} from ${node}`,
    action: "Unload it",
    isDanger: true,
    look: async () => {
      const found = await post("/fleet/unload", { ...asked, dry_run: true });
      const lines = [
        found.under_way ? `${count(found.under_way, "request")} under way will be answered first.` : "Nothing is under way there.",
        `${bytes(sum(Object.values(found.bytes_by_device)))} come free on ${node}.`,
      ];
      if (found.ready_elsewhere.length) lines.push(`It stays ready on ${list(found.ready_elsewhere)}.`);
      return { lines, cautions: found.cautions, act: () => post("/fleet/unload", asked) };
    },
  });
}

export function orderPin(model, pinned) {
  const said = pinned
    ? "From then on nothing makes it go: not another model, and not its time to live. Others may find no place beside it."
    : "From then on it may go when another model needs its memory.";
  return open({
    title: `${pinned ? "Pin" : "Unpin"} ${model}`,
    action: pinned ? "Pin it" : "Unpin it",
    look: async () => ({ lines: [said], cautions: [], act: () => post("/fleet/pin", { model, pinned }) }),
  });
}

export function orderDrain(node) {
  const path = `/fleet/nodes/${encodeURIComponent(node)}`;
  return open({
    title: `Drain ${node}`,
    action: "Drain it",
    isDanger: true,
    look: async () => {
      const { moves } = await get(`${path}/drain`);
      const lines = ["It gets no new models, and what it has moves:", ...moves.map(moveLine)];
      if (moves.length === 0) lines.splice(0, 1, "It gets no new models. It has none now.");
      return { lines, cautions: [], act: () => post(`${path}/drain`) };
    },
  });
}

function moveLine(move) {
  if (move.to === null) return `${move.model} ${move.reason}.`;
  const gone = move.plan?.evicts.length ? `, where ${list(move.plan.evicts)} ${move.plan.evicts.length === 1 ? "goes" : "go"} for it` : "";
  return move.plan ? `${move.model} is loaded on ${move.to}${gone}, then goes.` : `${move.model} ${move.reason}, on ${move.to}.`;
}

export function orderUndrain(node) {
  return open({
    title: `Put ${node} back into service`,
    action: "Put it back",
    look: async () => ({
      lines: ["It may be given models and requests again."],
      cautions: [],
      act: () => post(`/fleet/nodes/${encodeURIComponent(node)}/undrain`),
    }),
  });
}

export function OrderDialog() {
  const dialog = useRef(null);
  const isOpen = order.value !== null;
  useEffect(() => {
    if (isOpen && !dialog.current.open) dialog.current.showModal();
    if (!isOpen && dialog.current.open) dialog.current.close();
  }, [isOpen]);
  const { title, action, lines, cautions, refusal, isBusy, isDanger, choices, chosen, act } = order.value ?? EMPTY;
  return html`<dialog ref=${dialog} aria-labelledby="order-title" onClose=${() => (order.value = null)}>
    <form onSubmit=${carryOut}>
      <h2 id="order-title">${title}</h2>
      ${choices &&
      html`<label>Where
        <select value=${chosen} onChange=${(event) => look(event.target.value)}>
          ${choices.map((each) => html`<option value=${each.value}>${each.label}</option>`)}
        </select>
      </label>`}
      <div class="plan" aria-live="polite">
        ${isBusy && lines.length === 0 && html`<p class="fine">Working it out…</p>`}
        ${lines.map((line) => html`<p>${line}</p>`)}
        ${cautions.map((line) => html`<p class="caution">${line}.</p>`)}
      </div>
      <p class="reason" role="alert">${refusal}</p>
      <div class="buttons">
        <button type="submit" class=${isDanger ? "danger" : ""} disabled=${isBusy || !act}>${action}</button>
        <button type="button" class="quiet" onClick=${() => (order.value = null)}>Leave it</button>
      </div>
    </form>
  </dialog>`;
}
