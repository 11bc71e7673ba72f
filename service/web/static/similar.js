// Similar images from the gallery, each selectable as the next image; and the form that adds the image.
import { ask, askJson, Problem, query } from "./api.js";
import { byId, element } from "./dom.js";
import { plural } from "./format.js";

const SHOWN = 12;
const DUPLICATES = { exact: "the same file", near: "nearly the same" };

let current = null;
let take = null;
let last = Promise.resolve();

// Run one operation after the other: otherwise a search could clear the message of an addition that failed.
function inTurn(operation) {
  last = last.then(operation);
  return last;
}

// `chosen(blob, name)` is called with the gallery image that the reader clicks.
export function listen(chosen) {
  take = chosen;
  byId("add").addEventListener("submit", (event) => {
    event.preventDefault();
    const { picture, signal } = current;
    const id = byId("new-id").value;
    inTurn(() => add(picture, signal, id));
  });
}

export function show(picture, signal) {
  current = { picture, signal };
  byId("similar").hidden = false;
  byId("new-id").value = suggestedId(picture.name);
  return inTurn(() => search(picture, signal));
}

async function search(picture, signal) {
  showStatus("Searching the gallery …");
  byId("matches").replaceChildren();
  try {
    const path = query("./retrieve-similar", { k: SHOWN });
    const answer = await askJson(path, { method: "POST", body: picture.blob, signal });
    const count = answer.matches.length;
    byId("matches").replaceChildren(...answer.matches.map(match));
    showStatus(count ? `${plural(count, "image")}, most similar first.` : "The gallery has no images yet.");
  } catch (error) {
    refuse(error);
  }
}

function match(candidate) {
  const image = element("img", { src: thumbnail(candidate.id), alt: "", loading: "lazy" });
  const label = typeof candidate.metadata?.label === "string" ? candidate.metadata.label : "";
  const button = element(
    "button",
    { type: "button", className: "match", "data-id": candidate.id },
    image,
    element("span", { className: "score" }, candidate.score.toFixed(3)),
    " ",
    element("span", { className: "name" }, label || candidate.id),
  );
  if (candidate.duplicate) {
    button.append(" ", element("span", { className: "mark" }, DUPLICATES[candidate.duplicate] ?? candidate.duplicate));
  }
  button.addEventListener("click", async () => {
    try {
      const response = await ask(candidate.image_url, { signal: current.signal });
      take(await response.blob(), candidate.id);
    } catch (error) {
      refuse(error);
    }
  });
  return element("li", {}, button);
}

async function add(picture, signal, id) {
  showStatus("Adding …");
  const headers = byId("key").value ? { Authorization: `Bearer ${byId("key").value}` } : {};
  try {
    const path = query(`./gallery/images/${encodeURIComponent(id)}`, { metadata: JSON.stringify({ file: picture.name }) });
    await ask(path, { method: "PUT", body: picture.blob, headers, signal });
    await search(picture, signal);
  } catch (error) {
    if (error.status === 401) byId("key-field").hidden = false;
    refuse(error);
  }
}

function showStatus(text) {
  byId("similar-news").textContent = text;
  byId("similar-problem").textContent = "";
}

function refuse(error) {
  if (error.name === "AbortError") return;
  showStatus("");
  byId("similar-problem").textContent = error instanceof Problem ? error.message : String(error);
}

function thumbnail(id) {
  return `./gallery/images/${encodeURIComponent(id)}/thumbnail`;
}

// Derive a valid gallery id from the file name.
function suggestedId(name) {
  return name.replace(/[^A-Za-z0-9_.-]+/g, "-").replace(/^[-.]+/, "").slice(0, 100) || "image";
}
