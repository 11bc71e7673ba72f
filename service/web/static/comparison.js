// Comparison table: one row per model, sortable by column.
import { byId, element } from "./dom.js";
import { digits, milliseconds, millions, percent, size } from "./format.js";
import { stageBar, stageTotal } from "./stages.js";

const STAGES = ["preprocess", "inference", "postprocess"];

// `best` is the sort direction of the first click: 1 is ascending.
const COLUMNS = [
  { name: "Model", key: (result) => result.model, best: 1, text: true },
  { name: "Top-1", key: (result) => result.predictions[0].label, best: 1, text: true },
  { name: "Probability", key: (result) => result.predictions[0].probability, best: -1 },
  { name: "Inference, p50", key: (result) => result.latency_ms.p50, best: 1 },
  { name: "Stages", key: total, best: 1, text: true },
  { name: "Speed-up", key: (result) => result.speedup, best: -1 },
  { name: "Size", key: (result) => result.file_bytes, best: 1 },
  { name: "MACs", key: (result) => result.macs, best: 1 },
  { name: "Accuracy", key: (result) => result.accuracy?.value ?? -1, best: -1 },
];

let sorted = { column: 3, direction: 1 };

function total(result) {
  return stageTotal(result.timings_ms, STAGES);
}

// Return the most frequent top-1 label, or null if two labels share the first place.
export function majority(agreement) {
  const ranked = Object.entries(agreement.labels).sort((a, b) => b[1].length - a[1].length);
  return ranked.length > 1 && ranked[0][1].length === ranked[1][1].length ? null : ranked[0][0];
}

export function disagrees(result, agreed) {
  return result.predictions[0].label !== agreed;
}

export function mark(agreed) {
  return element("span", { className: "mark" }, agreed === null ? "split" : "disagrees");
}

// Fill the table with a /compare response; call `reordered(models)` now and after each sort.
export function show(answer, reordered) {
  const agreed = majority(answer.agreement);
  byId("verdict").replaceChildren(...verdict(answer, agreed));

  const draw = () => {
    const { column, direction } = sorted;
    const key = COLUMNS[column].key;
    const ordered = [...answer.results].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      return direction * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
    const slowest = Math.max(...ordered.map(total));
    byId("columns").replaceChildren(...COLUMNS.map((_, index) => header(index, draw)));
    byId("rows").replaceChildren(...ordered.map((result) => row(result, answer, agreed, slowest)));
    reordered(ordered.map((result) => result.model));
  };
  draw();
}

function verdict(answer, agreed) {
  const ranked = Object.entries(answer.agreement.labels).sort((a, b) => b[1].length - a[1].length);
  const parts = ranked.map(([label, models]) => [
    element("strong", {}, label),
    ` (${models.length} of ${answer.results.length})`,
  ]);
  if (parts.length === 1) return ["All models predict ", element("strong", {}, ranked[0][0]), "."];
  const listed = parts.flatMap((part, index) => (index ? [", ", ...part] : part));
  return [agreed === null ? "No majority: " : "Disagreement: ", ...listed, "."];
}

function header(index, draw) {
  const { name, best, text } = COLUMNS[index];
  const here = sorted.column === index;
  const arrow = here ? (sorted.direction === 1 ? " ↑" : " ↓") : "";
  const button = element(
    "button",
    { type: "button", className: "sort", "data-column": index },
    name,
    element("span", { "aria-hidden": "true" }, arrow),
  );
  button.addEventListener("click", () => {
    sorted = { column: index, direction: sorted.column === index ? -sorted.direction : best };
    draw();
    byId("columns").querySelector(`[data-column="${index}"]`).focus();
  });
  const cell = element("th", { scope: "col", role: "columnheader", className: text ? "text" : "" }, button);
  if (here) cell.setAttribute("aria-sort", sorted.direction === 1 ? "ascending" : "descending");
  return cell;
}

function row(result, answer, agreed, slowest) {
  const top = result.predictions[0];
  const label = cell(1, top.label);
  if (disagrees(result, agreed)) label.append(" ", mark(agreed));
  const name = element("th", { scope: "row", role: "rowheader", className: "text" }, result.model);
  if (result.model === answer.baseline) name.append(element("span", { className: "note" }, " baseline"));
  if (result.model === answer.fastest) name.append(element("span", { className: "note" }, " fastest"));
  return element(
    "tr",
    { role: "row", className: disagrees(result, agreed) ? "odd" : "" },
    name,
    label,
    cell(2, percent(top.probability)),
    cell(3, milliseconds(result.latency_ms.p50)),
    cell(4, stageBar(result.timings_ms, STAGES, slowest)),
    cell(5, `${digits(result.speedup)} ×`),
    cell(6, size(result.file_bytes)),
    cell(7, millions(result.macs)),
    cell(8, ...accuracy(result)),
  );
}

// `data-name` is shown on narrow screens, where a row becomes a block (playground.css).
function cell(index, ...parts) {
  const { name, text } = COLUMNS[index];
  return element("td", { role: "cell", className: text ? "text" : "", "data-name": name }, ...parts);
}

function accuracy(result) {
  if (result.accuracy === null) return ["unknown"];
  return [percent(result.accuracy.value), element("span", { className: "note" }, ` ${result.accuracy.kind}`)];
}
