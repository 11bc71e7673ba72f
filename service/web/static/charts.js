// The dashboard's charts. The library is loaded before this module and leaves `Plotly` behind.
import { colour } from "./colours.js";

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset+autosize" };
const PERCENTILES = ["p50", "p90", "p95", "p99"];
const DASHES = { p50: "solid", p90: "dash", p95: "dot", p99: "dashdot" }; // told apart without colours too
const PALETTE = ["--p50", "--p95", "--decode", "--p99", "--preprocess", "--p90", "--good", "--queue"];
const TICKS = [
  [1, "min"], [2, "50 %"], [10, "90 %"], [20, "95 %"], [100, "99 %"], [1e3, "99.9 %"], [1e4, "99.99 %"], [1e5, "99.999 %"],
];

// The library reads some HTML in its texts; names are only ever text.
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
    uirevision: view, // the reader's zoom outlives a refresh, not another view
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, rangemode: "tozero", ...yaxis },
    ...(yaxis2 && { yaxis2: { ...axis, showgrid: false, overlaying: "y", side: "right", rangemode: "tozero", ...yaxis2 } }),
    ...rest,
  };
}

const waiting = new Map(); // charts that are not drawn yet, by id

function plot(id, traces, view, more, words) {
  document.getElementById(`${id}-of`).textContent = words;
  waiting.set(id, () => Plotly.react(document.getElementById(id), traces, layout(view, more), CONFIG));
}

// Those in sight are drawn at once, the others one by one, with room for the reader's hand in between.
function drawWaiting() {
  for (const id of [...waiting.keys()]) {
    const { top, bottom } = document.getElementById(id).getBoundingClientRect();
    if (bottom > 0 && top < innerHeight) drawOne(id);
  }
  setTimeout(drawNext);
}

function drawNext() {
  const [id] = waiting.keys();
  if (id !== undefined) drawOne(id);
  if (waiting.size) setTimeout(drawNext);
  else document.body.dataset.drawn = "yes"; // for whoever measures how long that took
}

function drawOne(id) {
  const draw = waiting.get(id);
  waiting.delete(id);
  draw();
}

export function drawFigures(data) {
  const { over_time: steps, parts, traffic, shape } = data;
  const view = [data.model, data.stage, data.regime, data.window].join(" ");
  const of = `${data.model}, ${data.stage}, ${data.regime}, last ${data.window}`;
  const one = `${data.model}, ${data.regime}, last ${data.window}`;
  const middles = ({ at, step_s }) => at.map((second) => (second + step_s / 2) * 1000);
  const milliseconds = { yaxis: { title: { text: "ms" } } };
  const range = [
    Math.min(...[steps, parts, traffic].map(({ at }) => at[0])) * 1000,
    Math.max(...[steps, parts, traffic].map(({ at, step_s }) => at.at(-1) + step_s)) * 1000,
  ];
  const overTime = { xaxis: { type: "date", range } };

  const lines = PERCENTILES.map((name) => ({
    name, x: middles(steps), y: steps.percentiles[name], mode: "lines+markers", marker: { size: 3 },
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

  // Steps instead of bars, since the bins are even in the logarithm.
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
  plot("stages", stages, view, { ...overTime, ...milliseconds, barmode: "stack" }, `${one}: means, by ${length(parts.step_s)}`);

  const rates = Object.entries(traffic.per_second).map(([name, y]) => ({
    ...bars(traffic.at, traffic.step_s), name: plain(name), y, hovertemplate: "%{y:.3f} per second",
  }));
  const all = `${data.regime}, last ${data.window}, by ${length(traffic.step_s)}`;
  plot("rates", rates, view, { ...overTime, barmode: "stack", yaxis: { title: { text: "per second" } } }, all);

  const queue = ["p50", "p95"].map((name) => ({
    name: `queue ${name}`, x: middles(parts), y: parts.queue[name], mode: "lines+markers", marker: { size: 3 },
    line: { color: colour(`--${name}`), dash: DASHES[name] }, hovertemplate: "%{y:.3f} ms",
  }));
  const errors = Object.entries(traffic.errors).map(([kind, y], index) => ({
    ...bars(traffic.at, traffic.step_s), name: plain(kind), y, yaxis: "y2", opacity: 0.6,
    marker: { color: colour(PALETTE[(index + 3) % PALETTE.length]) }, hovertemplate: "%{y}",
  }));
  const counted = Object.values(traffic.errors).flat();
  const total = counted.reduce((sum, count) => sum + count, 0);
  const most = Math.max(...counted);
  plot("refusals", [...errors, ...queue], view, {
    ...overTime, ...milliseconds, barmode: "stack", yaxis2: { title: { text: "errors" }, tickmode: "auto", visible: errors.length > 0, ...(most <= 5 && { dtick: 1 }) },
  }, `queue of ${data.model}; ${total} errors, last ${data.window}`);
  drawWaiting();
}

// Draws what was measured, and returns what to say of it.
export function drawPareto(found) {
  const box = document.getElementById("pareto");
  const front = new Set(found.pareto.map((each) => each.model));
  const shown = found.measured.filter((each) => each.accuracy !== null);
  box.hidden = shown.length === 0;
  if (!shown.length) {
    Plotly.purge(box);
    if (found.measured.length) return "no accuracy is known of what was measured here";
    const [unused] = found.evidence.unused;
    if (unused === undefined) return "nothing was measured on this machine yet: start a benchmark";
    return `nothing that counts was measured on this machine yet: ${unused.benchmark} is left out, ${unused.reason}`;
  }
  const largest = Math.max(...shown.map((each) => each.file_bytes));
  const narrow = box.clientWidth < 600; // there names beside the marks would lie on one another
  const trace = (models, name, tone, symbol) => ({
    name, mode: narrow ? "markers" : "markers+text", textposition: "top center",
    x: models.map((each) => each.p50_ms),
    y: models.map((each) => each.accuracy.value * 100),
    text: models.map((each) => plain(each.model)),
    customdata: models.map((each) => [
      each.p50_low_ms, each.p50_high_ms, each.accuracy.low * 100, each.accuracy.high * 100, each.file_bytes / 1e6, plain(each.accuracy.kind),
    ]),
    error_x: interval(models.map((each) => [each.p50_ms, each.p50_low_ms, each.p50_high_ms]), tone),
    error_y: interval(models.map((each) => [each.accuracy.value, each.accuracy.low, each.accuracy.high].map((part) => part * 100)), tone),
    marker: { color: tone, symbol, opacity: 0.75, size: models.map((each) => 8 + 24 * Math.sqrt(each.file_bytes / largest)) },
    hovertemplate: "%{text}<br>p50 %{x:.3f} ms (%{customdata[0]:.3f} to %{customdata[1]:.3f})<br>top-1 %{y:.1f} % (%{customdata[2]:.1f} to %{customdata[3]:.1f}, %{customdata[5]})<br>%{customdata[4]:.1f} MB<extra></extra>",
  });
  const [best, rest] = [true, false].map((wanted) => shown.filter((each) => front.has(each.model) === wanted));
  const traces = narrow
    ? shown.map((each, index) => trace([each], plain(each.model), colour(PALETTE[index % PALETTE.length]), front.has(each.model) ? "circle" : "diamond"))
    : [trace(best, "no other is surely better", colour("--accent"), "circle"), trace(rest, "another is surely better", colour("--quiet"), "diamond")];
  Plotly.react(box, traces.filter((each) => each.x.length), layout("pareto", {
    hovermode: "closest",
    xaxis: { title: { text: "median of inference on one thread, ms" }, rangemode: "tozero" },
    yaxis: { title: { text: "top-1 accuracy, %" }, rangemode: "normal" },
    margin: { l: 44, r: 24, t: 24, b: 40 },
  }), CONFIG);
  return `${found.labels}, controlled benchmarks on this machine, bars are 95 % intervals, larger marks are larger files${front.size < shown.length ? ", diamonds are surely beaten by another" : ""}`;
}

function interval(values, color) {
  return {
    type: "data", symmetric: false, color, thickness: 1.5, width: 3,
    array: values.map(([value, , high]) => high - value),
    arrayminus: values.map(([value, low]) => value - low),
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

// Zooming and moving by keyboard, for whichever chart has the focus.
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
