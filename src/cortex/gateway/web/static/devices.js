// Devices drawn to scale: so many bytes are one square on every device of the fleet, whatever the device.
import { computed } from "./vendor/signals.js";
import { bytes, list, sum } from "./format.js";
import { html } from "./html.js";
import { modelNames, nodes } from "./store.js";

const ROWS = 8;
const PITCH = 7;
const MOST_SQUARES = 368;
const HUES = 8;

export const squareBytes = computed(() => {
  const largest = Math.max(1, ...nodes.value.flatMap((node) => node.devices.map((device) => device.total_bytes)));
  return 2 ** Math.ceil(Math.log2(largest / MOST_SQUARES));
});

export const hue = (model) => `hue-${Math.max(0, modelNames.value.indexOf(model)) % HUES}`;

// The rectangles of the squares from *start* up to *end*, which fill columns from below, one after another.
export function rectangles(start, end) {
  if (end <= start) return [];
  const first = Math.floor(start / ROWS);
  const last = Math.floor(end / ROWS);
  const low = start - first * ROWS;
  const high = end - last * ROWS;
  if (first === last) return [rectangle(first, 1, low, high)];
  const found = low > 0 ? [rectangle(first, 1, low, ROWS)] : [];
  const whole = low > 0 ? first + 1 : first;
  if (last > whole) found.push(rectangle(whole, last - whole, 0, ROWS));
  if (high > 0) found.push(rectangle(last, 1, 0, high));
  return found;
}

function rectangle(column, columns, low, high) {
  return { x: column * PITCH, y: (ROWS - high) * PITCH, width: columns * PITCH, height: (high - low) * PITCH };
}

const Squares = ({ from, to, look }) =>
  rectangles(from / squareBytes.value, to / squareBytes.value).map((each) => html`<rect class=${look} ...${each} />`);

// Who has how much of a device, in the order in which it is drawn.
export function shares(device, node) {
  const index = String(device.index);
  const held = node.replicas
    .map((replica) => ({ model: replica.model, state: replica.state, bytes: replica.bytes_by_device[index] ?? 0 }))
    .filter((share) => share.bytes > 0);
  const used = device.total_bytes - device.free_bytes;
  const other = Math.max(0, used - sum(held.map((share) => share.bytes)));
  return { held, other, used };
}

// A device; *wanted* are bytes that something would take there, drawn over what has to go and what is free.
export function Device({ device, node, wanted = 0, leaving = [] }) {
  const { held, other } = shares(device, node);
  const stays = held.filter((share) => !leaving.includes(share.model));
  const parts = [
    ...stays.map((share) => ({ look: `${hue(share.model)} is-${share.state}`, bytes: share.bytes })),
    { look: "other", bytes: other },
  ];
  const goes = held.filter((share) => leaving.includes(share.model));
  let at = 0;
  const drawn = parts.map((part) => {
    const from = at;
    at += part.bytes;
    return html`<${Squares} from=${from} to=${at} look=${part.look} />`;
  });
  let edge = at;
  const gone = goes.map((share) => {
    const from = edge;
    edge += share.bytes;
    return html`<${Squares} from=${from} to=${edge} look="${hue(share.model)} goes" />`;
  });
  const end = Math.max(device.total_bytes, at + wanted);
  const width = Math.ceil(end / squareBytes.value / ROWS) * PITCH;
  return html`<svg
    class="device"
    role="img"
    aria-label=${inWords(device, held, other, wanted)}
    width=${width}
    height=${ROWS * PITCH}
    viewBox="0 0 ${width} ${ROWS * PITCH}"
  >
    <${Squares} from=${0} to=${device.total_bytes} look="free" />
    ${drawn}${gone}
    ${wanted > 0 &&
    html`<${Squares} from=${at} to=${Math.min(at + wanted, device.total_bytes)} look="wanted" />
      <${Squares} from=${Math.max(at, device.total_bytes)} to=${at + wanted} look="missing" />`}
    <rect class="grid" width=${width} height=${ROWS * PITCH} />
  </svg>`;
}

function inWords(device, held, other, wanted) {
  const parts = held.map((share) => `${share.model} ${bytes(share.bytes)}`);
  if (other > 0) parts.push(`other programs ${bytes(other)}`);
  parts.push(`free ${bytes(device.free_bytes)}`);
  const wish = wanted > 0 ? `; ${bytes(wanted)} wanted` : "";
  return `${device.name}, ${bytes(device.total_bytes)}: ${list(parts)}${wish}`;
}

// The grid and the hatching that the drawings are filled with.
export const Patterns = () => html`<svg class="patterns" aria-hidden="true" width="0" height="0">
  <defs>
    <pattern id="grid" width=${PITCH} height=${PITCH} patternUnits="userSpaceOnUse">
      <path class="grid-line" d="M0 0H${PITCH}M0 0V${PITCH}" />
    </pattern>
    <pattern id="hatch" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
      <rect class="hatch-ground" width="4" height="4" />
      <rect class="hatch-line" width="1.6" height="4" />
    </pattern>
    <pattern id="slashes" width=${PITCH} height=${PITCH} patternUnits="userSpaceOnUse">
      <path class="slash-line" d="M0 ${PITCH}L${PITCH} 0" />
    </pattern>
  </defs>
</svg>`;
