// Keeps the dashboard current: fetches the part that changes and brings the page up to date with it.
import { drawFigures, drawPareto, listenToKeys } from "./charts.js";
import { morph } from "./morph.js";

const PERIOD_MS = 5000;
const AGAIN_MS = 2000; // after a failure
const PATIENCE_MS = 10000;

const form = document.getElementById("view");
const figures = document.getElementById("figures");
const charts = document.getElementById("charts");
const trouble = document.getElementById("trouble");
const refreshed = document.getElementById("refresh");
const paretoOf = document.getElementById("pareto-of");

let shown = null; // what the charts draw
let recommended = null; // what the view of accuracy, latency and size draws
let benchmark; // the newest one when that was fetched
let lastGood = new Date();
let troubledSince = null;
let running = null; // the fetch under way
let timer;

function draw() {
  const data = document.getElementById("data");
  shown = data.dataset.recorded ? JSON.parse(data.dataset.charts) : null;
  charts.hidden = shown === null;
  if (shown !== null) drawFigures(shown);
  else document.body.dataset.drawn = "yes";
  const newest = JSON.parse(data.dataset.charts).benchmark;
  if (newest !== benchmark) {
    benchmark = newest;
    weigh();
  }
}

async function weigh() {
  try {
    const response = await fetch("./recommend", { signal: AbortSignal.timeout(PATIENCE_MS) });
    const body = await response.json();
    if (!response.ok) throw new Error(body.detail);
    recommended = body;
    paretoOf.textContent = drawPareto(recommended);
  } catch (error) {
    benchmark = undefined; // with the next figures, again
    paretoOf.textContent = `cannot be shown: ${error.message}`;
  }
}

// The view that the form shows, as a query without what is at its default.
function query() {
  const asked = new URLSearchParams(new FormData(form));
  for (const [name, value] of [...asked]) if (!value) asked.delete(name);
  return asked.size ? `?${asked}` : "";
}

function time(moment) {
  return moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

async function fetchFigures(signal) {
  const response = await fetch(`./dashboard/figures${query()}`, { signal });
  if (response.ok) return response.text();
  const problem = await response.json().catch(() => ({}));
  throw new Error(problem.detail ?? `it answers ${response.status}`);
}

async function refresh() {
  clearTimeout(timer);
  running?.abort();
  const mine = (running = new AbortController());
  const late = setTimeout(() => mine.abort(), PATIENCE_MS);
  try {
    const text = await fetchFigures(mine.signal);
    // In an element of its own, as in the page: bare in a body, it would lose the blanks that it begins with.
    const page = new DOMParser().parseFromString(`<!doctype html><body><div>${text}</div>`, "text/html");
    morph(figures, page.body.firstElementChild);
    draw();
    lastGood = new Date();
    tell(null);
  } catch (error) {
    if (running !== mine) return; // another view was chosen meanwhile
    tell(error);
  } finally {
    clearTimeout(late);
    // A little apart, so that pages which were opened together do not ask together for ever.
    if (running === mine) schedule(troubledSince === null ? PERIOD_MS + Math.random() * 500 : AGAIN_MS);
  }
}

function schedule(delay) {
  clearTimeout(timer);
  timer = setTimeout(() => (document.hidden ? schedule(delay) : refresh()), delay);
}

function tell(error) {
  document.body.classList.toggle("stale", error !== null);
  if (error === null) {
    troubledSince = null;
    trouble.textContent = "";
    refreshed.textContent = `Refreshed every ${PERIOD_MS / 1000} s, last at ${time(lastGood)}.`;
    return;
  }
  troubledSince ??= new Date();
  const gone = error instanceof TypeError || error.name === "AbortError";
  const why = gone ? "The service does not answer" : `The figures cannot be had: ${error.message}`;
  const words = `${why}, since ${time(troubledSince)}. What is shown is of ${time(lastGood)}.`;
  if (trouble.textContent !== words) trouble.textContent = words; // said once by a screen reader
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
  const asked = new URLSearchParams(location.search);
  for (const select of form.querySelectorAll("select")) {
    const standard = { regime: "live", stage: "total", since: "24h" }[select.name] ?? "";
    select.value = asked.get(select.name) ?? standard;
  }
  refresh();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && Date.now() - lastGood > PERIOD_MS) refresh();
});
document.addEventListener("themechange", () => {
  if (shown !== null) drawFigures(shown);
  if (recommended !== null) paretoOf.textContent = drawPareto(recommended);
});

listenToKeys();
draw();
tell(null);
schedule(PERIOD_MS);
