// Playground: gives each new image to the selected task, and keeps the view in the page's URL.
import { Problem } from "./api.js";
import * as camera from "./camera.js";
import * as classify from "./classify.js";
import * as detect from "./detect.js";
import { byId } from "./dom.js";
import * as similar from "./similar.js";
import * as sources from "./sources.js";

const TASKS = { classify, detect };

const main = byId("playground");
let picture = null;
let running = new AbortController();

function task() {
  return TASKS[main.dataset.task];
}

function take(blob, name) {
  camera.pause();
  if (picture) URL.revokeObjectURL(picture.url);
  picture = { blob, name, url: URL.createObjectURL(blob) };
  look();
}

async function look() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const { run, answers, clear } = task();
  byId("again").disabled = false;
  byId("problem").textContent = "";
  settle();
  document.body.classList.add("busy");
  answers.setAttribute("aria-busy", "true");
  try {
    await run(picture, signal, showProgress);
  } catch (error) {
    if (error.name === "AbortError") return;
    clear();
    refuse(error instanceof Problem ? error.message : String(error));
  } finally {
    if (!signal.aborted) settle();
  }
}

function settle() {
  document.body.classList.remove("busy");
  for (const { answers } of Object.values(TASKS)) answers.removeAttribute("aria-busy");
}

function showProgress(text) {
  byId("progress").textContent = text;
}

function refuse(message) {
  showProgress("");
  byId("problem").textContent = message;
}

// Analyse live frames instead of an image.
function goLive() {
  running.abort();
  settle();
  byId("problem").textContent = "";
  for (const { clear } of Object.values(TASKS)) clear();
  showProgress("Live from the camera.");
}

function readAddress() {
  const parameters = new URLSearchParams(location.search);
  show(parameters.get("task") ?? "classify");
  detect.choose(parameters);
}

function writeAddress(write) {
  const parameters = new URLSearchParams();
  if (task() === detect) {
    parameters.set("task", "detect");
    detect.describe(parameters);
  }
  history[write](null, "", parameters.size ? `?${parameters}` : location.pathname);
}

function show(name) {
  main.dataset.task = name;
  document.querySelector(`input[name="task"][value="${name}"]`).checked = true;
}

function again() {
  if (picture && !camera.isLive()) look();
}

for (const radio of document.querySelectorAll('input[name="task"]')) {
  radio.addEventListener("change", () => {
    show(radio.value);
    writeAddress("pushState");
    if (camera.isLive()) goLive();
    else again();
  });
}
addEventListener("popstate", () => {
  readAddress();
  again();
});
readAddress();
detect.listen({
  chosen: () => {
    writeAddress("pushState");
    again();
  },
  filtered: () => writeAddress("replaceState"),
});
sources.listen(take, refuse);
camera.listen({ take, refuse, goLive, analyse: (frame, signal) => task().live(frame, signal) });
similar.listen(take);
byId("again").addEventListener("click", () => {
  camera.pause();
  again();
});
for (const id of ["baseline", "runs"]) byId(id).addEventListener("change", again);
byId("maps").addEventListener("change", (event) => {
  byId("cards").classList.toggle("plain", !event.target.checked);
});
