// Model cards: top classes with probability bars, and the class activation map of the chosen class.
import { ask, Problem, query } from "./api.js";
import { disagrees, majority, mark } from "./comparison.js";
import { byId, element } from "./dom.js";
import { percent } from "./format.js";

const CONCURRENT_REQUESTS = 2;

// Show one card per model. `picture` has `blob` and `url`; `signal` aborts requests when the image changes.
export function show(answer, picture, signal) {
  const agreed = majority(answer.agreement);
  const cards = answer.results.map((result) => new Card(result, agreed, picture, signal));
  byId("cards").replaceChildren(...cards.map((card) => card.item));
  // few at a time: the service has only one thread per core
  const waiting = cards.map((card) => () => card.explain(0));
  for (let lane = 0; lane < CONCURRENT_REQUESTS; lane += 1) {
    (async () => {
      for (let next = waiting.shift(); next && !signal.aborted; next = waiting.shift()) await next();
    })();
  }
}

// Sort the cards like the table.
export function reorder(models) {
  const list = byId("cards");
  const cards = new Map([...list.children].map((item) => [item.dataset.model, item]));
  list.append(...models.map((model) => cards.get(model)).filter(Boolean));
}

class Card {
  constructor(result, agreed, picture, signal) {
    this.result = result;
    this.picture = picture;
    this.signal = signal;
    this.requests = 0;
    this.photo = element("img", { src: picture.url, alt: "" });
    this.map = element("img", { className: "map", alt: "", hidden: true });
    this.caption = element("figcaption", { "aria-live": "polite" });
    this.classes = result.predictions.map((prediction, index) => this.choice(prediction, index));
    const title = element("h3", {}, result.model);
    if (disagrees(result, agreed)) title.append(" ", mark(agreed));
    this.item = element(
      "li",
      { className: "card", "data-model": result.model },
      title,
      element("figure", {}, element("div", { className: "layers" }, this.photo, this.map), this.caption),
      element(
        "ol",
        { className: "classes", "aria-label": `Classes of ${result.model}` },
        ...this.classes.map((button) => element("li", {}, button)),
      ),
    );
    // for images that the browser cannot show (such as TIFF), request the map drawn over the image
    this.photo.addEventListener("error", () => this.withoutPhoto());
  }

  choice(prediction, index) {
    const bar = element("span", { className: "fill", "aria-hidden": "true" });
    bar.style.width = `${100 * prediction.probability}%`;
    const button = element(
      "button",
      { type: "button", className: "class", "aria-pressed": "false" },
      element("span", { className: "label" }, prediction.label),
      " ",
      element("span", { className: "share" }, percent(prediction.probability)),
      element("span", { className: "track" }, bar),
    );
    button.addEventListener("click", () => this.explain(index));
    return button;
  }

  withoutPhoto() {
    if (this.photo.hidden) return;
    this.photo.hidden = true;
    this.item.classList.add("no-photo");
    if (this.requests) this.explain(this.shown);
  }

  async explain(index) {
    const request = ++this.requests;
    this.shown = index;
    this.classes.forEach((button, at) => button.setAttribute("aria-pressed", String(at === index)));
    const { class_id, label } = this.result.predictions[index];
    this.item.setAttribute("aria-busy", "true");
    this.caption.classList.remove("warn");
    this.caption.textContent = `Computing the class activation map for ${label} …`;
    try {
      const path = query("./explain", { model: this.result.model, class_id, over_image: this.photo.hidden });
      const response = await ask(path, { method: "POST", body: this.picture.blob, signal: this.signal });
      const url = URL.createObjectURL(await response.blob());
      if (request !== this.requests) {
        URL.revokeObjectURL(url);
        return;
      }
      if (this.map.src) URL.revokeObjectURL(this.map.src);
      this.map.src = url;
      this.map.alt = `Class activation map of ${this.result.model} for ${label}`;
      this.map.hidden = false;
      this.item.dataset.explained = String(class_id);
      this.caption.textContent = `Class activation map: ${label}`;
    } catch (error) {
      if (error.name === "AbortError" || request !== this.requests) return;
      this.map.hidden = true;
      this.caption.classList.add("warn");
      this.caption.textContent = error instanceof Problem ? error.message : String(error);
    } finally {
      if (request === this.requests) this.item.removeAttribute("aria-busy");
    }
  }
}
