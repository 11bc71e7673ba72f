// Task "detect": runs the chosen detectors on an image and matches what they find.
import { askJson, askPatiently, Problem, query } from "./api.js";
import { byId } from "./dom.js";
import { digits, imageFacts, milliseconds, plural, size } from "./format.js";
import { duration, Scene } from "./scene.js";

const LOWEST = 0.05; // score from which objects are requested; the sliders filter these objects
const MIN_IOU = 0.5; // as in /compare

export const answers = byId("found");

let announce = null; // function that announces the number of objects in an image; null for live frames

const boxes = [...byId("detectors").querySelectorAll("input")];
const scenes = new Map(
  boxes.map(({ value, dataset }) => [
    value,
    new Scene(value, {
      minScore: Number(dataset.minScore),
      lowest: Math.min(LOWEST, Number(dataset.minScore)),
      most: Number(dataset.maxDetections),
    }),
  ]),
);

export function clear() {
  announce = null;
  answers.hidden = true;
}

function chosen() {
  const names = boxes.filter((box) => box.checked).map((box) => box.value);
  if (!names.length) throw new Problem(boxes.length ? "Choose at least one detector." : "No detector is loaded.", 0);
  return names.map((name) => scenes.get(name));
}

// `chosen` is called when the reader chooses detectors, `filtered` when a slider was moved.
export function listen({ chosen: changed, filtered }) {
  byId("detectors").addEventListener("change", changed);
  for (const scene of scenes.values()) {
    scene.slider.addEventListener("input", match);
    scene.slider.addEventListener("change", filtered);
  }
}

// Take detectors and scores from the page's URL: `detectors=a,b&min_score=0.4,0.5`.
export function choose(parameters) {
  const names = parameters.get("detectors")?.split(",").filter((name) => scenes.has(name)) ?? [];
  const scores = parameters.get("min_score")?.split(",").map(Number) ?? [];
  for (const box of boxes) {
    if (names.length) box.checked = names.includes(box.value);
    else box.checked = box.defaultChecked;
    const scene = scenes.get(box.value);
    const score = scores[names.indexOf(box.value)];
    scene.filter(score >= scene.lowest && score <= 1 ? score : scene.minScore);
  }
  match();
}

// Write what `choose` reads.
export function describe(parameters) {
  const shown = boxes.filter((box) => box.checked).map((box) => scenes.get(box.value));
  const isStandard = boxes.every((box) => box.checked === box.defaultChecked);
  const isFiltered = shown.some((scene) => scene.threshold !== scene.minScore);
  if (shown.length && (!isStandard || isFiltered)) parameters.set("detectors", shown.map((scene) => scene.name).join());
  if (isFiltered) parameters.set("min_score", shown.map((scene) => scene.threshold).join());
}

// `picture` has `blob` and `url`.
export async function run(picture, signal, showProgress) {
  const shown = chosen();
  const names = shown.map((scene) => scene.name);
  showProgress(`Running ${plural(shown.length, "detector")} on ${picture.name} …`);
  const parameters = {
    models: names.join(),
    repeat: byId("runs").value,
    min_score: Math.min(...shown.map((scene) => scene.lowest)),
    mix_labels: true,
  };
  announce = null;
  const options = { method: "POST", body: picture.blob, signal };
  // The service runs one comparison at a time, for all clients.
  const answer = await askPatiently(query("./compare", parameters), options, (message) =>
    showProgress(`Waiting: ${message}.`),
  );
  present(shown, answer.results, answer.image, picture);
  byId("found-facts").textContent = facts(answer);
  announce = () => {
    const counts = shown.map((scene) => `${plural(scene.visible.length, "object")} by ${scene.name}`);
    showProgress(`${picture.name}: ${counts.join(", ")}.`);
  };
  announce();
}

function facts({ image, timings_ms, results, baseline }) {
  const medians = results.map(({ model, latency_ms, speedup, file_bytes }) => {
    const compared = results.length > 1 ? `, ${digits(speedup)} ×` : "";
    return `${model}: ${milliseconds(latency_ms.p50)} inference (p50)${compared}, ${size(file_bytes)}`;
  });
  return (
    `${imageFacts(image)}; decoded once in ${milliseconds(timings_ms.decode)}. ${medians.join("; ")}. ` +
    `${plural(results[0].latency_ms.count, "run")} of each detector with the CPU to itself` +
    (results.length > 1 ? `; speed-up of inference relative to ${baseline}.` : ".")
  );
}

// Find objects in one frame of the camera, which has `blob` and `canvas`.
export async function live(frame, signal) {
  const shown = chosen();
  announce = null;
  const responses = [];
  for (const { name, lowest } of shown) {
    const path = query("./detect", { model: name, min_score: lowest });
    responses.push(await askJson(path, { method: "POST", body: frame.blob, signal }));
  }
  present(shown, responses, responses[0].image, frame);
  const totals = responses.map(({ model, timings_ms }) => `${model}: ${milliseconds(timings_ms.total)} in the service`);
  byId("found-facts").textContent = `${imageFacts(responses[0].image)}. ${totals.join("; ")}.`;
}

// Show what was found: `results` are in the order of the scenes `shown`.
function present(shown, results, image, picture) {
  const slowest = Math.max(...results.map(({ timings_ms }) => duration(timings_ms)));
  shown.forEach((scene, index) => scene.show(results[index], image, picture, slowest));
  const items = shown.map((scene) => scene.item);
  const list = byId("scenes");
  if (items.length !== list.children.length || items.some((item, index) => item !== list.children[index])) {
    list.replaceChildren(...items); // not for each frame: that would take the focus from a slider
  }
  match();
  answers.hidden = false;
}

// Match the visible objects of the shown detectors by the rule of POST /compare. Boxes are taken in order of
// score. A box joins an object that its detector has not found yet and whose surest box it overlaps by MIN_IOU or
// more. Of several such objects, one with the same label is preferred, then the one that it overlaps most.
function match() {
  const shown = [...scenes.values()].filter((scene) => scene.item.isConnected);
  const ordered = shown.flatMap((scene) => scene.visible).sort((a, b) => b.score - a.score);
  const groups = [];
  for (const object of ordered) {
    let best = null;
    for (const group of groups) {
      const iou = overlap(object.box, group[0].box);
      if (iou < MIN_IOU || group.some(({ detector }) => detector === object.detector)) continue;
      const isSame = object.label.toLowerCase() === group[0].label.toLowerCase();
      if (best === null || isSame > best.isSame || (isSame === best.isSame && iou > best.iou)) best = { group, isSame, iou };
    }
    if (best === null) groups.push([object]);
    else best.group.push(object);
  }
  for (const group of groups) {
    for (const object of group) object.partners = group.filter((other) => other !== object);
    group[0].light();
  }
  for (const scene of shown) scene.tell(shown.length > 1);
  announce?.();
}

// Return the intersection over union of two boxes.
function overlap(a, b) {
  const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  if (width <= 0 || height <= 0) return 0;
  return (width * height) / (area(a) + area(b) - width * height);
}

function area({ left, top, right, bottom }) {
  return (right - left) * (bottom - top);
}
