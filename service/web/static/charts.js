// The dashboard's charts. Plotly is loaded before this module and defines the global `Plotly`.
import { colour } from "./colours.js";

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset+autosize" };
const PERCENTILES = ["p50", "p90", "p95", "p99"];
const DASHES = { p50: "solid", p90: "dash", p95: "dot", p99: "dashdot" }; // distinguishable without colours
const PALETTE = ["--p50", "--p95", "--decode", "--p99", "--preprocess", "--p90", "--good", "--queue"];
const TICKS = [
  [1, "min"], [2, "50 %"], [10, "90 %"], [20, "95 %"], [100, "99 %"], [1e3, "99.9 %"], [1e4, "99.99 %"], [1e5, "99.999 %"],
];

// Escape names: Plotly interprets some HTML in its texts.
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

const FONT = { family: "system-ui, sans-serif", size: 12 };
const LEFT = 58; // pixels
const pen = document.createElement("canvas").getContext("2d");

// Return the height of the legend above a plot: one row if its entries fit, else rows of equal columns.
function legendHeight(traces, width) {
  pen.font = `${FONT.size}px ${FONT.family}`;
  const widths = traces.map(({ name }) => 45 + pen.measureText(name).width);
  const isOneRow = widths.reduce((sum, one) => sum + one, 5) < width;
  const perRow = isOneRow ? widths.length : Math.max(1, Math.ceil((width + 5) / Math.max(...widths)) - 1);
  return 10 + 19 * Math.ceil(widths.length / perRow);
}

// Return a chart's layout. Its margins have room for the legend and for labels: Plotly would enlarge them, but draw
// the chart a second time. Without a legend, the room above is half a label, at the very top, and Plotly's 12 pixels.
function layout(traces, width, view, more) {
  const quiet = colour("--quiet");
  const right = more.yaxis2?.visible ? 40 : 12;
  const top = more.showlegend === false ? 22 : 15 + legendHeight(traces, width - LEFT - right);
  const axis = { gridcolor: colour("--edge"), linecolor: colour("--edge"), zeroline: false, automargin: true };
  const { xaxis, yaxis, yaxis2, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { ...FONT, color: quiet },
    colorway: PALETTE.map(colour),
    hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--edge"), font: { color: colour("--ink") } },
    margin: { l: LEFT, r: right, t: top, b: more.xaxis?.type === "date" ? 46 : 54 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    showlegend: true,
    hovermode: "x unified",
    dragmode: "zoom",
    uirevision: view, // keep the zoom on refresh, reset it for another view
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, rangemode: "tozero", ...yaxis },
    ...(yaxis2 && { yaxis2: { ...axis, showgrid: false, overlaying: "y", side: "right", rangemode: "tozero", ...yaxis2 } }),
    ...rest,
  };
}

const pending = new Map(); // draw functions of charts that are not drawn yet, by id

// Draw `traces`; if none of them has a value, write the text `empty` instead.
function plot(id, traces, view, more, words, empty) {
  const box = document.getElementById(id);
  const known = traces.some(({ y }) => y.some((value) => value !== null && value !== undefined));
  document.getElementById(`${id}-of`).textContent = known ? words : empty;
  box.closest("figure").hidden = false;
  box.hidden = !known;
  if (known) pending.set(id, () => Plotly.react(box, traces, layout(traces, box.clientWidth, view, more), CONFIG));
  else pending.delete(id);
}

// Draw visible charts at once, and the others one per task, so that the page stays responsive.
function drawPending() {
  for (const id of [...pending.keys()]) {
    const { top, bottom } = document.getElementById(id).getBoundingClientRect();
    if (bottom > 0 && top < innerHeight) drawOne(id);
  }
  setTimeout(drawNext);
}

function drawNext() {
  const [id] = pending.keys();
  if (id !== undefined) drawOne(id);
  if (pending.size) setTimeout(drawNext);
  else document.body.dataset.drawn = "yes"; // for benchmarks and tests
}

function drawOne(id) {
  const draw = pending.get(id);
  pending.delete(id);
  draw();
}

// Draw the charts of one model, or of all models if the data have none.
export function drawFigures(data) {
  for (const id of ["over-time", "curve", "bins", "stages"]) {
    document.getElementById(id).closest("figure").hidden = !data.model;
  }
  const charted = [data.over_time, data.parts, data.traffic].filter((part) => part !== undefined);
  const range = [
    Math.min(...charted.map(({ at }) => at[0])) * 1000,
    Math.max(...charted.map(({ at, step_s }) => at.at(-1) + step_s)) * 1000,
  ];
  const chart = {
    view: [data.model, data.stage, data.regime, data.window].join(" "),
    where: `${data.regime}, last ${data.window}`,
    overTime: { xaxis: { type: "date", range } },
  };
  if (data.model) drawModel(data, chart);
  drawTraffic(data, chart);
  drawPending();
}

const midpoints = ({ at, step_s }) => at.map((second) => (second + step_s / 2) * 1000);
const bars = (at, step) => ({ type: "bar", x: at.map((second) => second * 1000), offset: 0, width: step * 1000 });
const MILLISECONDS = { yaxis: { title: { text: "ms" } } };

function drawModel({ model, stage, over_time: steps, parts, shape }, { view, where, overTime }) {
  const of = `${model}, ${stage}, ${where}`;
  const send = "no runs in this view: send it images, or choose a longer window";
  const lines = PERCENTILES.map((name) => ({
    name, x: midpoints(steps), y: steps.percentiles[name], mode: "lines+markers", marker: { size: 3 },
    line: { color: colour(`--${name}`), dash: DASHES[name], width: 2 }, hovertemplate: "%{y:.3f} ms",
  }));
  plot("over-time", lines, view, { ...overTime, ...MILLISECONDS }, `${of}, by ${length(steps.step_s)} (UTC)`, send);

  const curve = {
    x: shape.curve.map(([fraction]) => 1 / (1 - fraction)),
    y: shape.curve.map(([, ms]) => ms),
    text: shape.curve.map(([fraction]) => `${+(fraction * 100).toFixed(4)} %`),
    mode: "lines+markers", marker: { size: 4 }, line: { color: colour("--accent") },
    hovertemplate: "%{text}: %{y:.3f} ms<extra></extra>",
  };
  const tail = { type: "log", tickvals: TICKS.map(([at]) => at), ticktext: TICKS.map(([, text]) => text) };
  plot("curve", [curve], view, { ...MILLISECONDS, xaxis: tail, showlegend: false, hovermode: "closest" }, `${of}, n = ${shape.count}`, send);

  // A step line instead of bars: the bins have equal widths on the logarithmic axis.
  const bins = shape.bins;
  const edges = bins.map(([from]) => Math.max(from, 0.0005));
  const counts = bins.map(([, , count]) => count);
  if (bins.length) {
    edges.push(bins.at(-1)[1]);
    counts.push(counts.at(-1));
  }
  const histogram = {
    x: edges, y: counts, mode: "lines", fill: "tozeroy",
    line: { shape: "hv", width: 1, color: colour("--accent") }, hovertemplate: "from %{x:.3f} ms: %{y} runs<extra></extra>",
  };
  plot("bins", [histogram], view, { xaxis: { type: "log", title: { text: "ms" } }, yaxis: { title: { text: "runs" } }, showlegend: false, hovermode: "closest" }, `${of}, n = ${shape.count}`, send);

  const stages = Object.entries(parts.means).map(([name, y]) => ({
    ...bars(parts.at, parts.step_s), name, y, marker: { color: colour(`--${name}`) }, hovertemplate: "%{y:.3f} ms",
  }));
  plot("stages", stages, view, { ...overTime, ...MILLISECONDS, barmode: "stack" }, `${model}, ${where}: means, by ${length(parts.step_s)}`, send);
}

function drawTraffic({ model, parts, traffic }, { view, where, overTime }) {
  const rates = Object.entries(traffic.per_second).map(([name, y]) => ({
    ...bars(traffic.at, traffic.step_s), name: plain(name), y, hovertemplate: "%{y:.3f} per second",
  }));
  plot("rates", rates, view, { ...overTime, barmode: "stack", yaxis: { title: { text: "per second" } } }, `${where}, by ${length(traffic.step_s)}`, "no runs in this view: choose a longer window or another regime");

  const queue = !model ? [] : ["p50", "p95"].map((name) => ({
    name: `queue ${name}`, x: midpoints(parts), y: parts.queue[name], mode: "lines+markers", marker: { size: 3 },
    line: { color: colour(`--${name}`), dash: DASHES[name] }, hovertemplate: "%{y:.3f} ms",
  }));
  const errors = Object.entries(traffic.errors).map(([kind, y], index) => ({
    ...bars(traffic.at, traffic.step_s), name: plain(kind), y, ...(model && { yaxis: "y2" }), opacity: 0.6,
    marker: { color: colour(PALETTE[(index + 3) % PALETTE.length]) }, hovertemplate: "%{y}",
  }));
  const errorCounts = Object.values(traffic.errors).flat();
  const total = errorCounts.reduce((sum, count) => sum + count, 0);
  const whole = Math.max(...errorCounts) <= 5 && { dtick: 1 };
  const axes = model
    ? { ...MILLISECONDS, yaxis2: { title: { text: "errors" }, tickmode: "auto", visible: errors.length > 0, ...whole } }
    : { yaxis: { title: { text: "errors" }, ...whole } };
  plot("refusals", [...errors, ...queue], view, { ...overTime, ...axes, barmode: "stack" },
    model ? `queue of ${model}; ${total} errors, ${where}` : `${total} errors, ${where}; the queue is in each model's detail`,
    `no errors, ${where}; the queue is in each model's detail`);
}

function length(seconds) {
  if (seconds % 86400 === 0) return `${seconds / 86400} d`;
  return seconds % 3600 === 0 ? `${seconds / 3600} h` : `${seconds / 60} min`;
}

const KEYS = {
  "+": [0.25, 0.75], "=": [0.25, 0.75], "-": [-0.5, 1.5],
  ArrowLeft: [-0.25, 0.75], ArrowRight: [0.25, 1.25],
};

// Zoom and pan the focused chart by keyboard.
export function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    const box = event.target.closest?.(".plot");
    if (!box?.layout || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "0") Plotly.relayout(box, { "xaxis.autorange": true, "yaxis.autorange": true });
    else if (event.key in KEYS) {
      const axis = box._fullLayout.xaxis;
      const [from, to] = axis.range.map((end) => axis.r2l(end));
      const range = KEYS[event.key].map((part) => axis.l2r(from + (to - from) * part));
      Plotly.relayout(box, { "xaxis.range": range });
    } else return;
    event.preventDefault();
  });
}
