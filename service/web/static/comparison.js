// The models in numbers: one row each, sorted by the column that the reader chooses.
import { byId, element } from "./dom.js";
import { digits, milliseconds, millions, percent, size } from "./format.js";

const STAGES = ["preprocess", "inference", "postprocess"];

// `best` is the direction in which a first click sorts: 1 puts the least first.
const COLUMNS = [
  { name: "Model", key: (one) => one.model, best: 1, text: true },
  { name: "Sees", key: (one) => one.predictions[0].label, best: 1, text: true },
  { name: "Sure", key: (one) => one.predictions[0].probability, best: -1 },
  { name: "Inference, p50", key: (one) => one.latency_ms.p50, best: 1 },
  { name: "Stages", key: (one) => total(one), best: 1, text: true },
  { name: "Speed-up", key: (one) => one.speedup, best: -1 },
  { name: "Size", key: (one) => one.file_bytes, best: 1 },
  { name: "MACs", key: (one) => one.macs, best: 1 },
  { name: "Accuracy", key: (one) => one.accuracy?.value ?? -1, best: -1 },
];

let sorted = { column: 3, direction: 1 };

function total(one) {
  return STAGES.reduce((sum, stage) => sum + one.timings_ms[stage], 0);
}

// The label that most models name, or null when two labels share the first place.
export function majority(agreement) {
  const ranked = Object.entries(agreement.labels).sort((a, b) => b[1].length - a[1].length);
  return ranked.length > 1 && ranked[0][1].length === ranked[1][1].length ? null : ranked[0][0];
}

export function disagrees(one, agreed) {
  return one.predictions[0].label !== agreed;
}

export function mark(agreed) {
  return element("span", { className: "mark" }, agreed === null ? "split" : "disagrees");
}

// Fill the table with what /compare answered; `reordered(models)` is told the order, now and when it changes.
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
    byId("rows").replaceChildren(...ordered.map((one) => row(one, answer, agreed, slowest)));
    reordered(ordered.map((one) => one.model));
  };
  draw();
}

function verdict(answer, agreed) {
  const ranked = Object.entries(answer.agreement.labels).sort((a, b) => b[1].length - a[1].length);
  const parts = ranked.map(([label, models]) => [
    element("strong", {}, label),
    ` (${models.length} of ${answer.results.length})`,
  ]);
  if (parts.length === 1) return ["All models see ", element("strong", {}, ranked[0][0]), "."];
  const listed = parts.flatMap((part, index) => (index ? [", ", ...part] : part));
  return [agreed === null ? "They are split: " : "They do not agree: ", ...listed, "."];
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

function row(one, answer, agreed, slowest) {
  const top = one.predictions[0];
  const seen = cell(1, top.label);
  if (disagrees(one, agreed)) seen.append(" ", mark(agreed));
  const name = element("th", { scope: "row", role: "rowheader", className: "text" }, one.model);
  if (one.model === answer.baseline) name.append(element("span", { className: "note" }, " baseline"));
  if (one.model === answer.fastest) name.append(element("span", { className: "note" }, " fastest"));
  return element(
    "tr",
    { role: "row", className: disagrees(one, agreed) ? "odd" : "" },
    name,
    seen,
    cell(2, percent(top.probability)),
    cell(3, milliseconds(one.latency_ms.p50)),
    cell(4, stages(one, slowest)),
    cell(5, `${digits(one.speedup)} ×`),
    cell(6, size(one.file_bytes)),
    cell(7, millions(one.macs)),
    cell(8, ...accuracy(one)),
  );
}

// On a narrow screen a row is a block in which each cell shows the name of its column.
function cell(index, ...parts) {
  const { name, text } = COLUMNS[index];
  return element("td", { role: "cell", className: text ? "text" : "", "data-name": name }, ...parts);
}

function accuracy(one) {
  if (one.accuracy === null) return ["not known"];
  return [percent(one.accuracy.value), element("span", { className: "note" }, ` ${one.accuracy.kind}`)];
}

// Bars of all models have one scale, so that they can be compared down the column.
function stages(one, slowest) {
  const bar = element("span", { className: "stages", "aria-hidden": "true" });
  for (const stage of STAGES) {
    const part = element("span", { className: stage, title: `${stage} ${milliseconds(one.timings_ms[stage])}` });
    part.style.width = `${(100 * one.timings_ms[stage]) / slowest}%`;
    bar.append(part);
  }
  const words = STAGES.map((stage) => `${stage} ${milliseconds(one.timings_ms[stage])}`).join(", ");
  const sum = STAGES.map((stage) => digits(one.timings_ms[stage])).join(" + ");
  return element(
    "span",
    {},
    bar,
    element("span", { className: "note", "aria-hidden": "true" }, `${sum} ms`),
    element("span", { className: "hidden-text" }, words),
  );
}
