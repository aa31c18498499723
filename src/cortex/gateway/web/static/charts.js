// Charts of the last hours, each minute a point.
import uPlot from "./vendor/uplot.js";
import { useEffect, useRef } from "./vendor/preact-hooks.js";
import { html } from "./html.js";

const HEIGHT = 116;
const dark = matchMedia("(prefers-color-scheme: dark)");

// A colour of the style sheet as the browser sees it now; a canvas knows no variables.
function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function optionsFor(lines, width, format) {
  const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px Plex Sans, sans-serif" };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(high ?? 0, 0.001) * 1.1] } },
    axes: [
      { ...axis, values: "{HH}:{mm}", space: 60, size: 26 },
      { ...axis, size: 52, space: 30, values: (_, ticks) => ticks.map(format) },
    ],
    series: [
      {},
      ...lines.map((line) => ({
        stroke: colour(line.colour),
        width: line.isBar ? 0 : 1.75,
        fill: line.isBar ? colour(line.colour) : undefined,
        paths: line.isBar ? uPlot.paths.bars({ size: [0.6, 12, 2] }) : undefined,
        points: { show: Boolean(line.isGap), size: 4, fill: colour(line.colour) },
        spanGaps: false,
      })),
    ],
  };
}

// *minutes* are those of the gateway's history; *lines* say `{name, colour, key}` of what is drawn of each.
export function Chart({ title, minutes, from, to, lines, format }) {
  const box = useRef(null);
  useEffect(() => {
    const place = box.current;
    let chart = null;
    const draw = () => {
      chart?.destroy();
      const options = optionsFor(lines, Math.max(200, place.clientWidth), format);
      options.scales.x = { range: () => [from, to] };
      chart = new uPlot(options, columnsOf(minutes, lines, from, to), place);
    };
    const resized = new ResizeObserver(() => chart?.setSize({ width: Math.max(200, place.clientWidth), height: HEIGHT }));
    draw();
    resized.observe(place);
    dark.addEventListener("change", draw);
    return () => {
      resized.disconnect();
      dark.removeEventListener("change", draw);
      chart?.destroy();
    };
  }, [minutes, from, to]);
  const words = lines.map((line) => `${line.name} ${latest(minutes, line, format)}`);
  return html`<figure class="chart">
    <figcaption><strong>${title}</strong>
      <span>${lines.map((line, at) => html`<span key=${line.key} class="series"><span class="swatch ${line.swatch}"></span>${words[at]}</span>`)}</span>
    </figcaption>
    <div ref=${box} role="img" aria-label="${title}, lately: ${words.join(", ")}"></div>
  </figure>`;
}

// The last figure there is: of what a quiet minute has none of, that of an earlier one.
function latest(minutes, line, format) {
  const found = minutes.findLast((minute) => minute[line.key] !== null);
  return found ? format(found[line.key]) : "–";
}

// Every minute has a place, so that a quiet one is a gap of a line and nothing of a bar.
export function columnsOf(minutes, lines, from, to) {
  const known = new Map(minutes.map((minute) => [minute.minute, minute]));
  const times = [];
  for (let at = Math.floor(from / 60) * 60; at <= to; at += 60) times.push(at);
  const quiet = (line) => (line.isGap ? null : 0);
  return [times, ...lines.map((line) => times.map((at) => known.get(at)?.[line.key] ?? quiet(line)))];
}
