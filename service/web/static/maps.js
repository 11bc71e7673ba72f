// A card for each model: its classes with bars, and the map that says which places of the picture speak for one.
import { ask, Problem, query } from "./api.js";
import { disagrees, majority, mark } from "./comparison.js";
import { byId, element } from "./dom.js";
import { percent } from "./format.js";

const AT_ONCE = 2;

// `picture` has `blob` and `url`; `signal` ends what is under way when there is another picture.
export function show(answer, picture, signal) {
  const agreed = majority(answer.agreement);
  const cards = answer.results.map((one) => new Card(one, agreed, picture, signal));
  byId("cards").replaceChildren(...cards.map((card) => card.item));
  // a few at a time: the service has as many threads as cores, and others may want them
  const waiting = cards.map((card) => () => card.explain(0));
  for (let lane = 0; lane < AT_ONCE; lane += 1) {
    (async () => {
      for (let next = waiting.shift(); next && !signal.aborted; next = waiting.shift()) await next();
    })();
  }
}

// Put the cards into the order of the table.
export function reorder(models) {
  const list = byId("cards");
  const found = new Map([...list.children].map((item) => [item.dataset.model, item]));
  list.append(...models.map((model) => found.get(model)).filter(Boolean));
}

class Card {
  constructor(one, agreed, picture, signal) {
    this.one = one;
    this.picture = picture;
    this.signal = signal;
    this.asked = 0;
    this.photo = element("img", { src: picture.url, alt: "" });
    this.map = element("img", { className: "map", alt: "", hidden: true });
    this.caption = element("figcaption", { "aria-live": "polite" });
    this.classes = one.predictions.map((prediction, index) => this.choice(prediction, index));
    const title = element("h3", {}, one.model);
    if (disagrees(one, agreed)) title.append(" ", mark(agreed));
    this.item = element(
      "li",
      { className: "card", "data-model": one.model },
      title,
      element("figure", {}, element("div", { className: "layers" }, this.photo, this.map), this.caption),
      element(
        "ol",
        { className: "classes", "aria-label": `Classes of ${one.model}` },
        ...this.classes.map((button) => element("li", {}, button)),
      ),
    );
    // what the browser cannot show (TIFF, say) the service can: then its picture has the photograph in it
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
    if (this.asked) this.explain(this.shown);
  }

  async explain(index) {
    const turn = ++this.asked;
    this.shown = index;
    this.classes.forEach((button, at) => button.setAttribute("aria-pressed", String(at === index)));
    const { class_id, label } = this.one.predictions[index];
    this.item.setAttribute("aria-busy", "true");
    this.caption.classList.remove("warn");
    this.caption.textContent = `Asking why ${label} …`;
    try {
      const path = query("./explain", { model: this.one.model, class_id, over_image: this.photo.hidden });
      const response = await ask(path, { method: "POST", body: this.picture.blob, signal: this.signal });
      const url = URL.createObjectURL(await response.blob());
      if (turn !== this.asked) {
        URL.revokeObjectURL(url);
        return;
      }
      if (this.map.src) URL.revokeObjectURL(this.map.src);
      this.map.src = url;
      this.map.alt = `Where ${this.one.model} sees ${label}`;
      this.map.hidden = false;
      this.item.dataset.explained = String(class_id);
      this.caption.textContent = `What speaks for ${label}`;
    } catch (error) {
      if (error.name === "AbortError" || turn !== this.asked) return;
      this.map.hidden = true;
      this.caption.classList.add("warn");
      this.caption.textContent = error instanceof Problem ? error.message : String(error);
    } finally {
      if (turn === this.asked) this.item.removeAttribute("aria-busy");
    }
  }
}
