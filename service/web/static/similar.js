// The gallery's most similar images; a click makes one the picture. And a form that adds the picture to it.
import { ask, askJson, Problem, query } from "./api.js";
import { byId, element } from "./dom.js";
import { plural } from "./format.js";

const SHOWN = 12;
const DUPLICATES = { exact: "the same file", near: "nearly the same" };

let current = null;
let take = null;

// `chosen(blob, name)` gets a gallery image that the reader makes the picture.
export function listen(chosen) {
  take = chosen;
  byId("add").addEventListener("submit", (event) => {
    event.preventDefault();
    add();
  });
}

export async function show(picture, signal) {
  current = { picture, signal };
  byId("similar").hidden = false;
  byId("new-id").value = suggestion(picture.name);
  tell("Searching the gallery …");
  byId("matches").replaceChildren();
  try {
    const path = query("./retrieve-similar", { k: SHOWN });
    const found = await askJson(path, { method: "POST", body: picture.blob, signal });
    const count = found.matches.length;
    byId("matches").replaceChildren(...found.matches.map(match));
    tell(count ? `${plural(count, "image")}, the most similar first.` : "The gallery has no image to compare with yet.");
  } catch (error) {
    refuse(error);
  }
}

function match(one) {
  const image = element("img", { src: thumbnail(one.id), alt: "", loading: "lazy" });
  const label = typeof one.metadata?.label === "string" ? one.metadata.label : "";
  const button = element(
    "button",
    { type: "button", className: "match", "data-id": one.id },
    image,
    element("span", { className: "score" }, one.score.toFixed(3)),
    " ",
    element("span", { className: "name" }, label || one.id),
  );
  if (one.duplicate) {
    button.append(" ", element("span", { className: "mark" }, DUPLICATES[one.duplicate] ?? one.duplicate));
  }
  button.addEventListener("click", async () => {
    try {
      const response = await ask(one.image_url, { signal: current.signal });
      take(await response.blob(), one.id);
    } catch (error) {
      refuse(error);
    }
  });
  return element("li", {}, button);
}

async function add() {
  const { picture, signal } = current;
  const id = byId("new-id").value;
  tell("Adding …");
  const headers = byId("key").value ? { Authorization: `Bearer ${byId("key").value}` } : {};
  try {
    const path = query(`./gallery/images/${encodeURIComponent(id)}`, { metadata: JSON.stringify({ file: picture.name }) });
    await ask(path, { method: "PUT", body: picture.blob, headers, signal });
    await show(picture, signal);
    byId("new-id").value = id;
  } catch (error) {
    if (error.status === 401) byId("key-field").hidden = false;
    refuse(error);
  }
}

function tell(text) {
  byId("similar-news").textContent = text;
  byId("similar-problem").textContent = "";
}

function refuse(error) {
  if (error.name === "AbortError") return;
  tell("");
  byId("similar-problem").textContent = error instanceof Problem ? error.message : String(error);
}

function thumbnail(id) {
  return `./gallery/images/${encodeURIComponent(id)}/thumbnail`;
}

// A name that the gallery allows, made of the file's.
function suggestion(name) {
  return name.replace(/[^A-Za-z0-9_.-]+/g, "-").replace(/^[-.]+/, "").slice(0, 100) || "picture";
}
