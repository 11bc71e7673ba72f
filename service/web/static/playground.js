// Playground: compares all models on each new image and searches the gallery for similar images.
import { askJson, Problem, query } from "./api.js";
import * as comparison from "./comparison.js";
import { byId } from "./dom.js";
import { milliseconds, plural, size } from "./format.js";
import * as maps from "./maps.js";
import * as similar from "./similar.js";
import * as sources from "./sources.js";

const RETRIED = ["busy", "not-ready", "queue-full"];
const RETRY_MS = 700;
const MAX_ATTEMPTS = 20;

let picture = null;
let running = new AbortController();

function take(blob, name) {
  if (picture) URL.revokeObjectURL(picture.url);
  picture = { blob, name, url: URL.createObjectURL(blob) };
  look();
}

async function look() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const current = picture;
  const answers = byId("answers");
  byId("again").disabled = false;
  byId("problem").textContent = "";
  const count = byId("baseline").options.length;
  byId("progress").textContent = `Running ${count ? plural(count, "model") : "all models"} on ${current.name} …`;
  document.body.classList.add("busy");
  answers.setAttribute("aria-busy", "true");
  try {
    const answer = await compare(current, signal);
    answers.hidden = false;
    offerBaselines(answer);
    maps.show(answer, current, signal);
    comparison.show(answer, maps.reorder);
    byId("facts").textContent = facts(answer);
    byId("progress").textContent = `${current.name}: ${plural(answer.results.length, "model")}, ${runsEach(answer)} each.`;
  } catch (error) {
    if (error.name === "AbortError") return;
    answers.hidden = true;
    byId("similar").hidden = true;
    refuse(error instanceof Problem ? error.message : String(error));
    return;
  } finally {
    if (!signal.aborted) {
      document.body.classList.remove("busy");
      answers.removeAttribute("aria-busy");
    }
  }
  await similar.show(current, signal);
}

// Retry while the service is busy: it runs one comparison at a time, for all clients.
async function compare(current, signal) {
  const parameters = { repeat: byId("runs").value };
  if (byId("baseline").value) parameters.baseline = byId("baseline").value;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await askJson(query("./compare", parameters), { method: "POST", body: current.blob, signal });
    } catch (error) {
      if (!RETRIED.includes(error.type) || attempt === MAX_ATTEMPTS) throw error;
      byId("progress").textContent = `Waiting: ${error.message}.`;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      signal.throwIfAborted();
    }
  }
}

// Fill the list of baselines if the page was rendered before the models were loaded.
function offerBaselines(answer) {
  const select = byId("baseline");
  if (select.options.length) return;
  select.append(...answer.results.map((result) => new Option(result.model)));
  select.value = answer.baseline;
}

function runsEach(answer) {
  return plural(answer.results[0].latency_ms.count, "run");
}

function facts(answer) {
  const { image, timings_ms } = answer;
  return (
    `${image.width} × ${image.height} pixels, ${image.format.toUpperCase()}, ${size(image.bytes)}; decoded once ` +
    `in ${milliseconds(timings_ms.decode)} after ${milliseconds(timings_ms.queue)} in the queue. ` +
    `${runsEach(answer)} of each model with the CPU to itself; speed-up of inference relative to ${answer.baseline}.`
  );
}

function refuse(message) {
  byId("progress").textContent = "";
  byId("problem").textContent = message;
}

sources.listen(take, refuse);
similar.listen(take);
byId("again").addEventListener("click", look);
for (const id of ["baseline", "runs"]) {
  byId(id).addEventListener("change", () => picture && look());
}
byId("maps").addEventListener("change", (event) => {
  byId("cards").classList.toggle("plain", !event.target.checked);
});
