// The playground: a picture comes in, and everything on the page is asked about it anew.
import { askJson, Problem, query } from "./api.js";
import * as comparison from "./comparison.js";
import { byId } from "./dom.js";
import { milliseconds, plural, size } from "./format.js";
import * as maps from "./maps.js";
import * as similar from "./similar.js";
import * as sources from "./sources.js";

const PASSING = ["busy", "not-ready", "queue-full"];
const RETRY_MS = 700;
const PATIENCE = 20;

let picture = null;
let underway = new AbortController();

function take(blob, name) {
  if (picture) URL.revokeObjectURL(picture.url);
  picture = { blob, name, url: URL.createObjectURL(blob) };
  look();
}

async function look() {
  underway.abort();
  underway = new AbortController();
  const { signal } = underway;
  const asked = picture;
  const answers = byId("answers");
  byId("again").disabled = false;
  byId("problem").textContent = "";
  byId("progress").textContent = `The models look at ${asked.name} …`;
  document.body.classList.add("busy");
  answers.setAttribute("aria-busy", "true");
  try {
    const answer = await compare(asked, signal);
    answers.hidden = false;
    offerBaselines(answer);
    maps.show(answer, asked, signal);
    comparison.show(answer, maps.reorder);
    byId("facts").textContent = facts(answer);
    byId("progress").textContent = `${plural(answer.results.length, "model")} looked at ${asked.name}.`;
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
  await similar.show(asked, signal);
}

// One comparison runs at a time, also when another page asks: then this one waits for its turn.
async function compare(asked, signal) {
  const wanted = { repeat: byId("runs").value };
  if (byId("baseline").value) wanted.baseline = byId("baseline").value;
  for (let turn = 1; ; turn += 1) {
    try {
      return await askJson(query("./compare", wanted), { method: "POST", body: asked.blob, signal });
    } catch (error) {
      if (!PASSING.includes(error.type) || turn === PATIENCE) throw error;
      byId("progress").textContent = `Waiting: ${error.message}.`;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      signal.throwIfAborted();
    }
  }
}

// The page was made while the models were still being loaded: their names are known now.
function offerBaselines(answer) {
  const select = byId("baseline");
  if (select.options.length) return;
  select.append(...answer.results.map((one) => new Option(one.model)));
  select.value = answer.baseline;
}

function facts(answer) {
  const { image, timings_ms, results } = answer;
  const runs = plural(results[0].latency_ms.count, "run");
  return (
    `${image.width} × ${image.height} pixels, ${image.format.toUpperCase()}, ${size(image.bytes)}; decoded once ` +
    `in ${milliseconds(timings_ms.decode)} after ${milliseconds(timings_ms.queue)} in the queue. ` +
    `${runs} of each model, alone on the cores; speed-up is that of inference over ${answer.baseline}.`
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
