// Starts a benchmark, shows how far it is while it runs, and brings the list up to date when it has ended.
import { ask, askJson } from "./api.js";
import { morph } from "./morph.js";

const LOOK_EVERY_MS = 10000; // for runs that others start

const form = document.getElementById("start");
const trouble = document.getElementById("trouble");
const progress = document.getElementById("progress");
const bar = document.getElementById("bar");
const doing = document.getElementById("doing");
const told = document.getElementById("told");
const cancel = document.getElementById("cancel");

let events = null;
let watched = "";
let tenths = -1; // what a screen reader has been told

function key() {
  const given = form.elements.key?.value;
  return given ? { Authorization: `Bearer ${given}` } : {};
}

function wanted() {
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
      headers: { "Content-Type": "application/json", ...key() },
      body: JSON.stringify(wanted()),
    });
    watch(started.id);
    await look();
  } catch (error) {
    trouble.textContent = error.message;
  }
});

cancel.addEventListener("click", async () => {
  trouble.textContent = "";
  try {
    await ask(`../benchmarks/${encodeURIComponent(watched)}`, { method: "DELETE", headers: key() });
  } catch (error) {
    trouble.textContent = error.message;
  }
});

function watch(id) {
  if (events !== null) return;
  watched = id;
  tenths = -1;
  show({ progress: null, cancelling: false });
  progress.hidden = false;
  events = new EventSource(`../benchmarks/${encodeURIComponent(id)}/events`);
  events.addEventListener("progress", (event) => {
    trouble.textContent = "";
    show(JSON.parse(event.data));
  });
  events.addEventListener("end", (event) => {
    stop();
    const ended = JSON.parse(event.data);
    told.textContent = "";
    if (ended.state !== "done") trouble.textContent = `The run ended as ${ended.state}: ${ended.detail ?? "it does not say why"}`;
    look();
  });
  // The browser asks again by itself.
  events.addEventListener("error", () => {
    trouble.textContent = "The service does not answer; asking again.";
  });
}

function stop() {
  events?.close();
  events = null;
  progress.hidden = true;
}

function show({ progress: now, cancelling }) {
  cancel.disabled = cancelling;
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
    told.textContent = `${tenths * 10} percent`;
  }
}

// The list as it is now; a run that goes on is followed.
async function look() {
  const text = await (await ask(location.href)).text();
  const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("runs");
  const runs = document.getElementById("runs");
  runs.dataset.running = fresh.dataset.running;
  morph(runs, fresh);
  if (runs.dataset.running) watch(runs.dataset.running);
}

async function keepLooking() {
  if (!document.hidden) {
    try {
      await look();
      if (events === null && trouble.dataset.gone) {
        delete trouble.dataset.gone;
        trouble.textContent = "";
      }
    } catch (error) {
      trouble.dataset.gone = "yes";
      trouble.textContent = error.message;
    }
  }
  setTimeout(keepLooking, LOOK_EVERY_MS);
}

const already = document.getElementById("runs").dataset.running;
if (already) watch(already);
setTimeout(keepLooking, LOOK_EVERY_MS);
