// What one detector finds in an image: boxes over the image, a list of the same, and a slider for the score.
import { drawing, element } from "./dom.js";
import { milliseconds, plural } from "./format.js";
import { stageBar, stageTotal } from "./stages.js";

const STAGES = ["decode", "preprocess", "inference", "postprocess", "nms"];
const TEXT_PX = 13;
const GOLDEN_ANGLE = 137.508; // hues of successive classes, far apart for any number of them

export class Scene {
  // `minScore` is the detector's own threshold; `lowest` and `most` are the score and the number asked for.
  constructor(name, { minScore, lowest, most }) {
    Object.assign(this, { name, minScore, lowest, most, threshold: minScore, objects: [] });
    this.photo = element("img", { alt: "" });
    this.canvas = element("canvas", { hidden: true });
    this.drawn = drawing("svg", { class: "boxes", "aria-hidden": "true" });
    this.layers = element("div", { className: "layers" }, this.photo, this.canvas, this.drawn);
    this.slider = element("input", { type: "range", min: lowest, max: 1, step: 0.01, "aria-label": `Lowest score of ${name}` });
    this.value = element("span", { "aria-hidden": "true" });
    this.count = element("p", { className: "count" });
    this.list = element("ol", { className: "objects", "aria-label": `Objects of ${name}` });
    this.stages = element("p");
    this.item = element(
      "li",
      { className: "card scene", "data-model": name },
      element("h3", {}, name),
      element("label", { className: "slide" }, "Lowest score", this.slider, this.value),
      this.count,
      element("div", { className: "views" }, element("figure", {}, this.layers), this.list),
      this.stages,
    );
    this.slider.addEventListener("input", () => this.filter(Number(this.slider.value)));
    // for images that the browser cannot show (such as TIFF): the boxes alone
    this.photo.addEventListener("error", () => {
      this.photo.hidden = true;
      this.item.classList.add("no-photo");
    });
    new ResizeObserver(() => this.fit()).observe(this.layers);
    this.filter(minScore);
  }

  // Show `detections` and `timings_ms` of a response of /detect or /compare. `picture`: an image with `url`, or
  // a frame of the camera with `canvas`, whose objects cannot be chosen. `scale`: milliseconds of a full bar.
  show({ detections, timings_ms }, image, picture, scale) {
    const isLive = picture.canvas !== undefined;
    this.size = image;
    this.item.classList.remove("no-photo");
    this.photo.hidden = isLive;
    this.canvas.hidden = !isLive;
    if (isLive) {
      this.canvas.width = picture.canvas.width;
      this.canvas.height = picture.canvas.height;
      this.canvas.getContext("2d").drawImage(picture.canvas, 0, 0);
    } else {
      this.photo.src = picture.url;
    }
    if (isLive) this.list.tabIndex = 0; // without buttons inside, the list itself scrolls with the keyboard
    else this.list.removeAttribute("tabindex");
    this.objects = detections.map((detection) => new FoundObject(detection, this.name, isLive));
    this.list.replaceChildren(...this.objects.map((object) => object.item));
    this.drawn.setAttribute("viewBox", `0 0 ${this.size.width} ${this.size.height}`);
    // small ones last, so that larger ones do not cover them
    this.drawn.replaceChildren(...[...this.objects].sort((a, b) => b.area - a.area).map((object) => object.drawn));
    this.stages.replaceChildren(stageBar(timings_ms, timed(timings_ms), scale));
    this.filter(this.threshold);
    this.fit();
  }

  // Show the objects with at least this score.
  filter(threshold) {
    this.threshold = threshold;
    this.slider.value = threshold;
    this.value.textContent = threshold.toFixed(2);
    for (const object of this.objects) object.hide(object.score < threshold);
    this.visible = this.objects.filter((object) => object.score >= threshold);
  }

  // Show how many objects were found and, if several detectors are compared, how many no other detector found.
  tell(isCompared) {
    for (const object of this.visible) object.tell(isCompared);
    this.list.hidden = this.visible.length === 0;
    const least = `a score of at least ${this.threshold.toFixed(2)}`;
    if (this.visible.length === 0) {
      const best = this.objects.length ? ` The highest score is ${this.objects[0].score.toFixed(2)}.` : "";
      this.count.textContent = `No object with ${least}.${best}`;
      return;
    }
    const labels = new Map();
    for (const { label } of this.visible) labels.set(label, (labels.get(label) ?? 0) + 1);
    const counts = [...labels].map(([label, count]) => `${count} ${label}`).join(", ");
    const alone = this.visible.filter((object) => object.partners.length === 0).length;
    const cut = this.visible.length === this.most ? ` No more than ${this.most} are shown.` : "";
    this.count.textContent =
      `${plural(this.visible.length, "object")} with ${least}: ${counts}.` +
      (isCompared ? ` Found by no other detector: ${alone}.` : "") +
      cut;
  }

  // Keep texts and points at one size on the screen, whatever the scale of the image.
  fit() {
    if (!this.size) return;
    const { clientWidth, clientHeight } = this.layers;
    const scale = Math.min(clientWidth / this.size.width, clientHeight / this.size.height);
    if (!scale) return;
    const height = TEXT_PX / scale;
    this.drawn.setAttribute("font-size", height);
    for (const object of this.objects) object.place(this.size.width, height);
  }
}

// Return the milliseconds of all stages of a detector.
export function duration(timings) {
  return stageTotal(timings, timed(timings));
}

// A comparison decodes the image once for all detectors.
function timed(timings) {
  return STAGES.filter((stage) => stage in timings);
}

// One object: its box `drawn` over the image, and its `item` in the list.
class FoundObject {
  // `partners` are the objects of other detectors that match it.
  constructor({ class_id, label, score, box, landmarks }, detector, isLive) {
    Object.assign(this, { label, score, box, detector, partners: [] });
    const [width, height] = [box.right - box.left, box.bottom - box.top];
    this.area = width * height;
    const edges = { x: box.left, y: box.top, width, height };
    this.text = drawing("text", {}, `${label} ${score.toFixed(2)}`);
    this.drawn = drawing(
      "g",
      { class: "box" },
      drawing("rect", { class: "halo", ...edges }),
      drawing("rect", { class: "edge", ...edges }),
      ...landmarks.map(({ x, y }) => drawing("circle", { cx: x, cy: y, r: "0.25em" })),
      this.text,
    );
    this.note = element("span", { className: "mark", hidden: true });
    const points = landmarks.map(({ x, y }) => `${Math.round(x)}, ${Math.round(y)}`).join("; ");
    this.entry = element(
      isLive ? "div" : "button",
      isLive ? { className: "object" } : { type: "button", className: "object", "aria-pressed": "false" },
      element("span", { className: "swatch" }),
      element("span", { className: "label" }, label),
      " ",
      element("span", { className: "share" }, score.toFixed(2)),
      " ",
      this.note,
      " ",
      element(
        "span",
        { className: "note" },
        `left ${Math.round(box.left)}, top ${Math.round(box.top)}, ${Math.round(width)} × ${Math.round(height)} pixels` +
          (points ? `; landmarks at ${points}` : ""),
      ),
    );
    this.item = element("li", {}, this.entry);
    const hue = (class_id * GOLDEN_ANGLE) % 360;
    for (const part of [this.drawn, this.item]) part.style.setProperty("--hue", hue);
    if (!isLive) this.listen();
  }

  listen() {
    const { entry } = this;
    for (const type of ["focus", "blur", "mouseenter", "mouseleave"]) entry.addEventListener(type, () => this.light());
    entry.addEventListener("click", () => {
      entry.setAttribute("aria-pressed", String(entry.getAttribute("aria-pressed") !== "true"));
      this.light();
    });
    this.drawn.addEventListener("click", () => entry.focus());
  }

  // Highlight the box and its partners' boxes while the entry of one is focused, pointed at or pressed.
  light() {
    const group = [this, ...this.partners];
    const isLit = group.some(({ entry }) => entry.matches(':focus, :hover, [aria-pressed="true"]'));
    for (const { drawn } of group) drawn.classList.toggle("lit", isLit);
  }

  hide(hidden) {
    this.item.hidden = hidden;
    this.drawn.toggleAttribute("hidden", hidden);
  }

  // Tell which other detectors found it.
  tell(isCompared) {
    this.drawn.classList.toggle("alone", isCompared && this.partners.length === 0);
    this.note.hidden = !isCompared;
    const others = this.partners.map(({ detector, label }) => detector + (label === this.label ? "" : ` as ${label}`));
    this.note.classList.toggle("shared", others.length > 0);
    this.note.textContent = others.length ? `also ${others.join(", ")}` : "only here";
  }

  // Place the label above the box, or inside at the upper edge of the image. `height` is the text's.
  place(imageWidth, height) {
    const { left, top, right } = this.box;
    const isRight = (left + right) / 2 > imageWidth / 2;
    this.text.setAttribute("x", isRight ? right : left);
    this.text.setAttribute("y", top);
    this.text.setAttribute("dy", top < 1.3 * height ? "1.1em" : "-0.35em");
    this.text.setAttribute("text-anchor", isRight ? "end" : "start");
  }
}
