// Benchmark page: starts and cancels runs, shows progress, and updates the list of runs.
import { ask, askJson } from "./api.js";
import { morph } from "./morph.js";

const REFRESH_MS = 10000; // for runs that other clients start

const form = document.getElementById("start");
const trouble = document.getElementById("trouble");
const progress = document.getElementById("progress");
const title = document.getElementById("progress-title");
const bar = document.getElementById("bar");
const doing = document.getElementById("doing");
const announcement = document.getElementById("announcement");
const cancel = document.getElementById("cancel");

let events = null;
let watched = "";
let tenths = -1; // progress last announced to screen readers, in tenths

function authorization() {
  const key = form.elements.key?.value;
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function requestBody() {
  const fields = new FormData(form);
  const request = { profile: fields.get("profile"), scenario: fields.get("scenario") };
  const models = fields.getAll("models");
  if (models.length) request.models = models;
  if (fields.get("baseline")) request.baseline = fields.get("baseline");
  if (fields.get("budget_ms")) request.budget_ms = Number(fields.get("budget_ms"));
  return request;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  trouble.textContent = "";
  try {
    const started = await askJson("../benchmarks", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...authorization() },
      body: JSON.stringify(requestBody()),
    });
    stop(); // stop following a run of another machine
    watch(started.id);
    await refreshList();
  } catch (error) {
    trouble.textContent = error.message;
  }
});

cancel.addEventListener("click", async () => {
  trouble.textContent = "";
  try {
    await ask(`../benchmarks/${encodeURIComponent(watched)}`, { method: "DELETE", headers: authorization() });
  } catch (error) {
    trouble.textContent = error.message;
  }
});

function watch(id) {
  if (events !== null) return;
  watched = id;
  tenths = -1;
  show({ progress: null, cancelling: false, machine: null });
  progress.hidden = false;
  events = new EventSource(`../benchmarks/${encodeURIComponent(id)}/events`);
  events.addEventListener("progress", (event) => {
    trouble.textContent = "";
    show(JSON.parse(event.data));
  });
  events.addEventListener("end", (event) => {
    stop();
    const ended = JSON.parse(event.data);
    announcement.textContent = "";
    if (ended.state !== "done") trouble.textContent = `Run ${ended.state}: ${ended.detail ?? "no reason given"}`;
    refreshList();
  });
  // EventSource reconnects by itself.
  events.addEventListener("error", () => {
    trouble.textContent = "The service does not answer; reconnecting.";
  });
}

function stop() {
  events?.close();
  events = null;
  progress.hidden = true;
}

function show({ progress: now, cancelling, machine }) {
  cancel.disabled = cancelling;
  title.textContent = machine === null ? "Running" : `Running on ${machine.host}: ${machine.cpu}`;
  if (now === null) {
    bar.removeAttribute("value");
    doing.textContent = "starting";
    return;
  }
  bar.value = now.done;
  const round = now.rounds && now.round ? `, round ${now.round} of ${now.rounds}` : "";
  const launch = now.launch ? `, process ${now.launch} of ${now.launches}` : "";
  const left = now.left_s >= 1 ? `, about ${Math.round(now.left_s)} s left` : "";
  doing.textContent = `${cancelling ? "stopping: " : ""}${now.doing}${launch}${round}${left}`;
  if (Math.floor(now.done * 10) > tenths) {
    tenths = Math.floor(now.done * 10);
    announcement.textContent = `${tenths * 10} percent`;
  }
}

// Update the list of runs, and follow the active run.
async function refreshList() {
  const text = await (await ask(location.href)).text();
  const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("runs");
  const runs = document.getElementById("runs");
  runs.dataset.running = fresh.dataset.running;
  morph(runs, fresh);
  if (runs.dataset.running) watch(runs.dataset.running);
}

async function refreshRegularly() {
  if (!document.hidden) {
    try {
      await refreshList();
      if (events === null && trouble.dataset.unreachable) {
        delete trouble.dataset.unreachable;
        trouble.textContent = "";
      }
    } catch (error) {
      trouble.dataset.unreachable = "yes";
      trouble.textContent = error.message;
    }
  }
  setTimeout(refreshRegularly, REFRESH_MS);
}

const active = document.getElementById("runs").dataset.running;
if (active) watch(active);
setTimeout(refreshRegularly, REFRESH_MS);
