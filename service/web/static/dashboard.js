// Dashboard refresh: fetches the rendered figures regularly and updates the page in place.
import { drawFigures, drawPareto, listenToKeys } from "./charts.js";
import { morph } from "./morph.js";

const PERIOD_MS = 5000;
const RETRY_MS = 2000; // after a failure
const TIMEOUT_MS = 10000;

const form = document.getElementById("view");
const figures = document.getElementById("figures");
const charts = document.getElementById("charts");
const trouble = document.getElementById("trouble");
const refreshed = document.getElementById("refresh");
const paretoOf = document.getElementById("pareto-of");

let chartData = null;
let recommendation = null; // data of the chart of accuracy, latency and size
let benchmark; // id of the newest benchmark in `recommendation`
let lastGood = new Date();
let failingSince = null;
let running = null; // controller of the current fetch
let timer;

function draw() {
  const data = document.getElementById("data");
  chartData = data.dataset.recorded ? JSON.parse(data.dataset.charts) : null;
  charts.hidden = chartData === null;
  if (chartData !== null) drawFigures(chartData);
  else document.body.dataset.drawn = "yes";
  const newest = JSON.parse(data.dataset.charts).benchmark;
  if (newest !== benchmark) {
    benchmark = newest;
    drawRecommendation();
  }
}

async function drawRecommendation() {
  try {
    const response = await fetch("./recommend", { signal: AbortSignal.timeout(TIMEOUT_MS) });
    const body = await response.json();
    if (!response.ok) throw new Error(body.detail);
    recommendation = body;
    paretoOf.textContent = drawPareto(recommendation);
  } catch (error) {
    benchmark = undefined; // retry with the next figures
    paretoOf.textContent = `unavailable: ${error.message}`;
  }
}

// Return the query of the form's view, without empty values.
function query() {
  const parameters = new URLSearchParams(new FormData(form));
  for (const [name, value] of [...parameters]) if (!value) parameters.delete(name);
  return parameters.size ? `?${parameters}` : "";
}

function time(moment) {
  return moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

async function fetchFigures(signal) {
  const response = await fetch(`./dashboard/figures${query()}`, { signal });
  if (response.ok) return response.text();
  const problem = await response.json().catch(() => ({}));
  throw new Error(problem.detail ?? `status ${response.status}`);
}

async function refresh() {
  clearTimeout(timer);
  running?.abort();
  const controller = (running = new AbortController());
  const timeout = setTimeout(() => controller.abort(), TIMEOUT_MS);
  try {
    const text = await fetchFigures(controller.signal);
    // Parsed inside an element, because the parser drops leading white space of a body.
    const page = new DOMParser().parseFromString(`<!doctype html><body><div>${text}</div>`, "text/html");
    morph(figures, page.body.firstElementChild);
    draw();
    lastGood = new Date();
    showStatus(null);
  } catch (error) {
    if (running !== controller) return; // another view was chosen meanwhile
    showStatus(error);
  } finally {
    clearTimeout(timeout);
    // Jitter, so that pages opened together do not refresh together.
    if (running === controller) schedule(failingSince === null ? PERIOD_MS + Math.random() * 500 : RETRY_MS);
  }
}

function schedule(delay) {
  clearTimeout(timer);
  timer = setTimeout(() => (document.hidden ? schedule(delay) : refresh()), delay);
}

function showStatus(error) {
  document.body.classList.toggle("stale", error !== null);
  if (error === null) {
    failingSince = null;
    trouble.textContent = "";
    refreshed.textContent = `Refreshed every ${PERIOD_MS / 1000} s, last at ${time(lastGood)}.`;
    return;
  }
  failingSince ??= new Date();
  const unreachable = error instanceof TypeError || error.name === "AbortError";
  const reason = unreachable ? "The service does not answer" : `Figures unavailable: ${error.message}`;
  const message = `${reason}, since ${time(failingSince)}. Showing figures from ${time(lastGood)}.`;
  if (trouble.textContent !== message) trouble.textContent = message; // announced once by screen readers
  refreshed.textContent = "";
}

form.addEventListener("change", () => {
  history.pushState(null, "", `./dashboard${query()}`);
  refresh();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  refresh();
});
addEventListener("popstate", () => {
  const parameters = new URLSearchParams(location.search);
  for (const select of form.querySelectorAll("select")) {
    const standard = { regime: "live", stage: "total", since: "24h", version: "current" }[select.name] ?? "";
    select.value = parameters.get(select.name) ?? standard;
  }
  refresh();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && Date.now() - lastGood > PERIOD_MS) refresh();
});
document.addEventListener("themechange", () => {
  if (chartData !== null) drawFigures(chartData);
  if (recommendation !== null) paretoOf.textContent = drawPareto(recommendation);
});

listenToKeys();
draw();
showStatus(null);
schedule(PERIOD_MS);
