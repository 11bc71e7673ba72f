// Bars of the durations of stages.
import { element } from "./dom.js";
import { digits, milliseconds } from "./format.js";

export function stageTotal(timings, stages) {
  return stages.reduce((sum, stage) => sum + timings[stage], 0);
}

// Return a bar of `stages` and the durations as text. Bars with the same `scale`, the milliseconds of a full
// bar, can be compared.
export function stageBar(timings, stages, scale) {
  const bar = element("span", { className: "stages", "aria-hidden": "true" });
  for (const stage of stages) {
    const part = element("span", { className: stage, title: `${stage} ${milliseconds(timings[stage])}` });
    part.style.width = `${(100 * timings[stage]) / scale}%`;
    bar.append(part);
  }
  const words = stages.map((stage) => `${stage} ${milliseconds(timings[stage])}`).join(", ");
  const sum = stages.map((stage) => digits(timings[stage])).join(" + ");
  return element(
    "span",
    {},
    bar,
    element("span", { className: "note", "aria-hidden": "true" }, `${sum} ms`),
    element("span", { className: "hidden-text" }, words),
  );
}
