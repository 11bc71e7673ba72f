// Task "detect": runs the chosen detectors on an image, one after the other, and matches what they find.
import { askPatiently, Problem, query } from "./api.js";
import { byId } from "./dom.js";
import { milliseconds, plural, size } from "./format.js";
import { Scene, STAGES } from "./scene.js";
import { stageTotal } from "./stages.js";

const LOWEST = 0.05; // asked for once; the sliders filter
const MOST = 300; // objects per image
const MIN_IOU = 0.5;

export const answers = byId("found");

let announce = null; // of an image: tells the number of objects; not of live frames

const boxes = [...byId("detectors").querySelectorAll("input")];
const scenes = new Map(
  boxes.map(({ value, dataset }) => [
    value,
    new Scene(value, {
      minScore: Number(dataset.minScore),
      lowest: Math.min(LOWEST, Number(dataset.minScore)),
      most: Math.min(MOST, Number(dataset.maxDetections)),
    }),
  ]),
);

export function clear() {
  announce = null;
  answers.hidden = true;
}

function chosen() {
  return boxes.filter((box) => box.checked).map((box) => scenes.get(box.value));
}

// `chosen` is called when the reader chooses detectors, `filtered` when a slider was moved.
export function listen({ chosen: changed, filtered }) {
  byId("detectors").addEventListener("change", changed);
  for (const scene of scenes.values()) {
    scene.slider.addEventListener("input", compare);
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
  compare();
}

// Write what `choose` reads.
export function describe(parameters) {
  const shown = chosen();
  const isStandard = boxes.every((box) => box.checked === box.defaultChecked);
  const isFiltered = shown.some((scene) => scene.threshold !== scene.minScore);
  if (shown.length && (!isStandard || isFiltered)) parameters.set("detectors", shown.map((scene) => scene.name).join());
  if (isFiltered) parameters.set("min_score", shown.map((scene) => scene.threshold).join());
}

export async function run(picture, signal, showProgress) {
  const shown = chosen();
  showProgress(`Running ${plural(shown.length, "detector")} on ${picture.name} …`);
  await ask(shown, picture, signal, (message) => showProgress(`Waiting: ${message}.`));
  announce = () => {
    const counts = shown.map((scene) => `${plural(scene.visible.length, "object")} by ${scene.name}`);
    showProgress(`${picture.name}: ${counts.join(", ")}.`);
  };
  announce();
}

// Find objects in one frame of the camera.
export function live(frame, signal) {
  return ask(chosen(), frame, signal, () => {});
}

// `picture`: an image with `blob` and `url`, or a frame with `blob` and `canvas`.
async function ask(shown, picture, signal, waiting) {
  if (!shown.length) throw new Problem(boxes.length ? "Choose at least one detector." : "No detector is loaded.", 0);
  announce = null;
  const responses = [];
  for (const { name, lowest, most } of shown) {
    const path = query("./detect", { model: name, min_score: lowest, max_detections: most });
    responses.push(await askPatiently(path, { method: "POST", body: picture.blob, signal }, waiting));
  }
  const durations = responses.map((answer) => stageTotal(answer.timings_ms, STAGES));
  const slowest = Math.max(...durations);
  shown.forEach((scene, index) => scene.show(responses[index], picture, slowest));
  const items = shown.map((scene) => scene.item);
  const list = byId("scenes");
  if (items.length !== list.children.length || items.some((item, index) => item !== list.children[index])) {
    list.replaceChildren(...items); // not for each frame: that would take the focus from a slider
  }
  compare();
  answers.hidden = false;
  const { image } = responses[0];
  byId("found-facts").textContent =
    `${image.width} × ${image.height} pixels, ${image.format.toUpperCase()}, ${size(image.bytes)}. ` +
    responses.map(({ model }, index) => `${model}: ${milliseconds(durations[index])}`).join(", ") +
    ", one run, from decoding to non-maximum suppression.";
}

// Match the shown objects of each pair of detectors.
function compare() {
  const shown = [...scenes.values()].filter((scene) => scene.item.isConnected);
  for (const scene of shown) scene.forget();
  shown.forEach((scene, index) => {
    for (const other of shown.slice(index + 1)) {
      for (const [one, two] of matches(scene.visible, other.visible)) {
        one.partners.push(two);
        two.partners.push(one);
      }
    }
  });
  for (const scene of shown) scene.tell(shown.length > 1);
  announce?.();
}

// Return pairs of objects that overlap by at least MIN_IOU, each object in one pair at most, best overlap first.
function matches(ours, theirs) {
  const pairs = ours
    .flatMap((one) => theirs.map((two) => [one, two, overlap(one.box, two.box)]))
    .filter(([, , iou]) => iou >= MIN_IOU)
    .sort((a, b) => b[2] - a[2]);
  const taken = new Set();
  return pairs.filter(([one, two]) => {
    if (taken.has(one) || taken.has(two)) return false;
    taken.add(one).add(two);
    return true;
  });
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
