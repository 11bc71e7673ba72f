// Dashboard refresh: fetches the rendered figures regularly and updates the page in place. The page's URL holds
// the view.
import { ask, askJson } from "./api.js";
import { drawFigures, listenToKeys } from "./charts.js";
import { morph } from "./morph.js";

const PERIOD_MS = 5000;
const RETRY_MS = 2000; // after a failure
const TIMEOUT_MS = 15000;
const DEMO_PERIOD_MS = 1000;
const DEFAULTS = { since: "24h", version: "current", sort: "p50" };

const form = document.getElementById("view");
const demo = document.getElementById("demo");
const demoState = document.getElementById("demo-state");
const figures = document.getElementById("figures");
const charts = document.getElementById("charts");
const trouble = document.getElementById("trouble");
const refreshed = document.getElementById("refresh");

let chartData = null;
let lastGood = new Date();
let failingSince = null;
let running = null; // controller of the current fetch
let timer;

function draw() {
  const data = document.getElementById("data");
  const drawn = JSON.parse(data.dataset.charts);
  chartData = data.dataset.recorded ? drawn : null;
  charts.hidden = chartData === null;
  if (chartData !== null && !form.elements.regime.value) {
    form.elements.regime.options[0].textContent = `most runs (${drawn.regime})`;
  }
  offerMachines(drawn.machines);
  const isUsed = document.querySelector("table.models") !== null;
  if (demo.dataset.running === undefined) demo.hidden = isUsed && drawn.regime !== "demo";
  if (chartData !== null) drawFigures(chartData);
  else document.body.dataset.drawn = "yes";
}

// Offer the machines that have runs, if there are several.
function offerMachines(names) {
  const select = form.elements.machine;
  const offered = [...select.options].map((option) => option.value);
  for (const name of names) if (!offered.includes(name)) select.add(new Option(name, name));
  select.parentElement.hidden = names.length < 2 && !select.value;
}

// Return the query of the form's view, without values that are the default.
function formQuery() {
  const parameters = new URLSearchParams(new FormData(form));
  for (const [name, value] of [...parameters]) if (!value || value === DEFAULTS[name]) parameters.delete(name);
  return parameters.size ? `?${parameters}` : "";
}

// Select in the form what the page's URL says.
function selectView() {
  const parameters = new URLSearchParams(location.search);
  for (const field of form.elements) {
    if (!field.name) continue;
    const given = parameters.get(field.name) ?? DEFAULTS[field.name] ?? "";
    const value = field.name === "stage" && given === "total" ? "" : given;
    if (field.options && ![...field.options].some((option) => option.value === value)) {
      field.add(new Option(value, value)); // for example a version
    }
    field.value = value;
  }
}

function show(query) {
  history.pushState(null, "", `./dashboard${query}`);
  selectView();
  return refresh();
}

function time(moment) {
  return moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

async function fetchFigures(signal) {
  const response = await fetch(`./dashboard/figures${location.search}`, { signal });
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

form.addEventListener("change", () => show(formQuery()));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  show(formQuery());
});
figures.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='./dashboard']");
  if (link === null || link.pathname !== location.pathname || event.button !== 0) return;
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // opens another tab or window
  event.preventDefault();
  const opensDetail = link.search.includes("model=") && !location.search.includes("model=");
  show(link.search).then(() => opensDetail && scrollTo(0, 0));
});
addEventListener("popstate", () => {
  selectView();
  refresh();
});

demo.addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = demo.elements.key?.value;
  demo.dataset.running = "";
  let isDone = false;
  try {
    await ask("./demo", { method: "POST", headers: key ? { Authorization: `Bearer ${key}` } : {} });
    for (;;) {
      const state = await askJson("./demo");
      demoState.textContent = `${state.runs} of ${state.planned} runs${state.detail ? `: ${state.detail}` : ""}`;
      isDone = !state.running && state.runs > 0;
      if (!state.running) break;
      await new Promise((resolve) => setTimeout(resolve, DEMO_PERIOD_MS));
    }
  } catch (error) {
    demoState.textContent = error.message;
  }
  delete demo.dataset.running;
  await refresh();
  if (isDone && JSON.parse(document.getElementById("data").dataset.charts).regime !== "demo") {
    show("?regime=demo"); // live errors come first otherwise
  }
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && Date.now() - lastGood > PERIOD_MS) refresh();
});
document.addEventListener("themechange", () => {
  if (chartData !== null) drawFigures(chartData);
});

listenToKeys();
document.getElementById("show").hidden = true; // a change is shown at once
draw();
showStatus(null);
schedule(PERIOD_MS);
