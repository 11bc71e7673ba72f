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

function layout(view, more) {
  const quiet = colour("--quiet");
  const axis = { gridcolor: colour("--edge"), linecolor: colour("--edge"), zeroline: false, automargin: true };
  const { xaxis, yaxis, yaxis2, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: quiet },
    colorway: PALETTE.map(colour),
    hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--edge"), font: { color: colour("--ink") } },
    margin: { l: 44, r: 8, t: 8, b: 32 },
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

function plot(id, traces, view, more, words) {
  document.getElementById(`${id}-of`).textContent = words;
  pending.set(id, () => Plotly.react(document.getElementById(id), traces, layout(view, more), CONFIG));
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

export function drawFigures(data) {
  const { over_time: steps, parts, traffic, shape } = data;
  const view = [data.model, data.stage, data.regime, data.window].join(" ");
  const of = `${data.model}, ${data.stage}, ${data.regime}, last ${data.window}`;
  const allStages = `${data.model}, ${data.regime}, last ${data.window}`;
  const midpoints = ({ at, step_s }) => at.map((second) => (second + step_s / 2) * 1000);
  const milliseconds = { yaxis: { title: { text: "ms" } } };
  const range = [
    Math.min(...[steps, parts, traffic].map(({ at }) => at[0])) * 1000,
    Math.max(...[steps, parts, traffic].map(({ at, step_s }) => at.at(-1) + step_s)) * 1000,
  ];
  const overTime = { xaxis: { type: "date", range } };

  const lines = PERCENTILES.map((name) => ({
    name, x: midpoints(steps), y: steps.percentiles[name], mode: "lines+markers", marker: { size: 3 },
    line: { color: colour(`--${name}`), dash: DASHES[name], width: 2 }, hovertemplate: "%{y:.3f} ms",
  }));
  plot("over-time", lines, view, { ...overTime, ...milliseconds }, `${of}, by ${length(steps.step_s)} (UTC)`);

  const curve = {
    x: shape.curve.map(([fraction]) => 1 / (1 - fraction)),
    y: shape.curve.map(([, ms]) => ms),
    text: shape.curve.map(([fraction]) => `${+(fraction * 100).toFixed(4)} %`),
    mode: "lines+markers", marker: { size: 4 }, line: { color: colour("--accent") },
    hovertemplate: "%{text}: %{y:.3f} ms<extra></extra>",
  };
  const tail = { type: "log", tickvals: TICKS.map(([at]) => at), ticktext: TICKS.map(([, text]) => text) };
  plot("curve", [curve], view, { ...milliseconds, xaxis: tail, showlegend: false, hovermode: "closest" }, `${of}, n = ${shape.count}`);

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
  plot("bins", [histogram], view, { xaxis: { type: "log", title: { text: "ms" } }, yaxis: { title: { text: "runs" } }, showlegend: false, hovermode: "closest" }, `${of}, n = ${shape.count}`);

  const bars = (at, step) => ({ type: "bar", x: at.map((second) => second * 1000), offset: 0, width: step * 1000 });
  const stages = Object.entries(parts.means).map(([name, y]) => ({
    ...bars(parts.at, parts.step_s), name, y, marker: { color: colour(`--${name}`) }, hovertemplate: "%{y:.3f} ms",
  }));
  plot("stages", stages, view, { ...overTime, ...milliseconds, barmode: "stack" }, `${allStages}: means, by ${length(parts.step_s)}`);

  const rates = Object.entries(traffic.per_second).map(([name, y]) => ({
    ...bars(traffic.at, traffic.step_s), name: plain(name), y, hovertemplate: "%{y:.3f} per second",
  }));
  const all = `${data.regime}, last ${data.window}, by ${length(traffic.step_s)}`;
  plot("rates", rates, view, { ...overTime, barmode: "stack", yaxis: { title: { text: "per second" } } }, all);

  const queue = ["p50", "p95"].map((name) => ({
    name: `queue ${name}`, x: midpoints(parts), y: parts.queue[name], mode: "lines+markers", marker: { size: 3 },
    line: { color: colour(`--${name}`), dash: DASHES[name] }, hovertemplate: "%{y:.3f} ms",
  }));
  const errors = Object.entries(traffic.errors).map(([kind, y], index) => ({
    ...bars(traffic.at, traffic.step_s), name: plain(kind), y, yaxis: "y2", opacity: 0.6,
    marker: { color: colour(PALETTE[(index + 3) % PALETTE.length]) }, hovertemplate: "%{y}",
  }));
  const errorCounts = Object.values(traffic.errors).flat();
  const total = errorCounts.reduce((sum, count) => sum + count, 0);
  const largestCount = Math.max(...errorCounts);
  plot("refusals", [...errors, ...queue], view, {
    ...overTime, ...milliseconds, barmode: "stack", yaxis2: { title: { text: "errors" }, tickmode: "auto", visible: errors.length > 0, ...(largestCount <= 5 && { dtick: 1 }) },
  }, `queue of ${data.model}; ${total} errors, last ${data.window}`);
  drawPending();
}

// Draw accuracy over latency of all measured models; return the caption.
export function drawPareto(recommendation) {
  const box = document.getElementById("pareto");
  const front = new Set(recommendation.pareto.map((row) => row.model));
  const rows = recommendation.measured.filter((row) => row.accuracy !== null);
  box.hidden = rows.length === 0;
  if (!rows.length) {
    Plotly.purge(box);
    if (recommendation.measured.length) return "no accuracy known for the models measured here";
    const [unused] = recommendation.evidence.unused;
    if (unused === undefined) return "no benchmark on this machine yet: start one";
    return `no usable benchmark on this machine yet: ${unused.benchmark} is excluded, ${unused.reason}`;
  }
  const largest = Math.max(...rows.map((row) => row.file_bytes));
  const narrow = box.clientWidth < 600; // names beside the marks would overlap
  const trace = (models, name, tone, symbol) => ({
    name, mode: narrow ? "markers" : "markers+text", textposition: "top center",
    x: models.map((row) => row.p50_ms),
    y: models.map((row) => row.accuracy.value * 100),
    text: models.map((row) => plain(row.model)),
    customdata: models.map((row) => [
      row.p50_low_ms === null ? "too few rounds" : `${row.p50_low_ms.toFixed(3)} to ${row.p50_high_ms.toFixed(3)}`, row.accuracy.low * 100, row.accuracy.high * 100, row.file_bytes / 1e6, plain(row.accuracy.kind),
    ]),
    error_x: interval(models.map((row) => [row.p50_ms, row.p50_low_ms, row.p50_high_ms]), tone),
    error_y: interval(models.map((row) => [row.accuracy.value, row.accuracy.low, row.accuracy.high].map((part) => part * 100)), tone),
    marker: { color: tone, symbol, opacity: 0.75, size: models.map((row) => 8 + 24 * Math.sqrt(row.file_bytes / largest)) },
    hovertemplate: "%{text}<br>p50 %{x:.3f} ms (%{customdata[0]})<br>top-1 %{y:.1f} % (%{customdata[1]:.1f} to %{customdata[2]:.1f}, %{customdata[4]})<br>%{customdata[3]:.1f} MB<extra></extra>",
  });
  const [best, rest] = [true, false].map((wanted) => rows.filter((row) => front.has(row.model) === wanted));
  const traces = narrow
    ? rows.map((row, index) => trace([row], plain(row.model), colour(PALETTE[index % PALETTE.length]), front.has(row.model) ? "circle" : "diamond"))
    : [trace(best, "Pareto front: no model is surely better", colour("--accent"), "circle"), trace(rest, "dominated: another model is surely better", colour("--quiet"), "diamond")];
  Plotly.react(box, traces.filter((candidate) => candidate.x.length), layout("pareto", {
    hovermode: "closest",
    xaxis: { title: { text: "median of inference on one thread, ms" }, rangemode: "tozero" },
    yaxis: { title: { text: "top-1 accuracy, %" }, rangemode: "normal" },
    margin: { l: 44, r: 24, t: 24, b: 40 },
  }), CONFIG);
  return `${recommendation.labels}, controlled benchmarks on this machine, bars are 95 % intervals, larger marks are larger files${front.size < rows.length ? ", diamonds are dominated models" : ""}. ${plain(recommendation.accuracy_of)}`;
}

function interval(values, color) {
  return {
    type: "data", symmetric: false, color, thickness: 1.5, width: 3,
    array: values.map(([value, , high]) => (high === null ? 0 : high - value)),
    arrayminus: values.map(([value, low]) => (low === null ? 0 : value - low)),
  };
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
