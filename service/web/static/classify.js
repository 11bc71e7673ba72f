// Task "classify": compares all models on an image and searches the gallery for similar images.
import { askJson, askPatiently, query } from "./api.js";
import * as comparison from "./comparison.js";
import { byId, element } from "./dom.js";
import { imageFacts, milliseconds, percent, plural } from "./format.js";
import * as maps from "./maps.js";
import * as similar from "./similar.js";

export const answers = byId("answers");

export function clear() {
  for (const id of ["answers", "similar", "live-answer"]) byId(id).hidden = true;
}

export async function run(picture, signal, showProgress) {
  const count = byId("baseline").options.length;
  showProgress(`Running ${count ? plural(count, "model") : "all models"} on ${picture.name} …`);
  const parameters = { repeat: byId("runs").value };
  if (byId("baseline").value) parameters.baseline = byId("baseline").value;
  const options = { method: "POST", body: picture.blob, signal };
  // The service runs one comparison at a time, for all clients.
  const answer = await askPatiently(query("./compare", parameters), options, (message) =>
    showProgress(`Waiting: ${message}.`),
  );
  byId("live-answer").hidden = true;
  answers.hidden = false;
  offerBaselines(answer);
  maps.show(answer, picture, signal);
  comparison.show(answer, maps.reorder);
  byId("facts").textContent = facts(answer);
  showProgress(`${picture.name}: ${plural(answer.results.length, "model")}, ${runsEach(answer)} each.`);
  similar.show(picture, signal);
}

// Fill the lists of models if the page was rendered before the models were loaded.
function offerBaselines(answer) {
  for (const select of [byId("baseline"), byId("live-model")]) {
    if (select.options.length) continue;
    select.append(...answer.results.map((result) => new Option(result.model)));
    select.value = answer.baseline;
  }
}

function runsEach(answer) {
  return plural(answer.results[0].latency_ms.count, "run");
}

function facts(answer) {
  const { image, timings_ms } = answer;
  return (
    `${imageFacts(image)}; decoded once in ${milliseconds(timings_ms.decode)} after ${milliseconds(timings_ms.queue)} in the queue. ` +
    `${runsEach(answer)} of each model with the CPU to itself; speed-up of inference relative to ${answer.baseline}.`
  );
}

// Classify one frame of the camera with one model.
export async function live(frame, signal) {
  const model = byId("live-model").value;
  const path = model ? query("./classify", { model }) : "./classify";
  const answer = await askJson(path, { method: "POST", body: frame.blob, signal });
  byId("live-answer").hidden = false;
  byId("live-classes").replaceChildren(...answer.predictions.map(prediction));
  const { total, inference } = answer.timings_ms;
  byId("live-facts").textContent =
    `${answer.model}: ${milliseconds(total)} in the service, of which ${milliseconds(inference)} inference.`;
}

function prediction({ label, probability }) {
  const bar = element("span", { className: "fill", "aria-hidden": "true" });
  bar.style.width = `${100 * probability}%`;
  return element(
    "li",
    { className: "class" },
    element("span", { className: "label" }, label),
    " ",
    element("span", { className: "share" }, percent(probability)),
    element("span", { className: "track" }, bar),
  );
}
