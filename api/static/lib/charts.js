// Charts of counts, as SVG. A table below each chart has the same numbers, for users who cannot see the chart.

import { make } from "./elements.js";
import { texts } from "./text.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [640, 220, 44, 24, 8]; // in units of the SVG viewport
const GAP = 0.18; // as a share of the column width
const STEPS = [1, 2, 5];

/**
 * Draw stacked columns.
 * @param {object} chart
 * @param {string} chart.title The title.
 * @param {string} chart.head Heading of the column names in the table.
 * @param {string[]} chart.names Name of each column; an empty string leaves its axis label blank.
 * @param {{name: string, color: string, values: number[]}[]} chart.series From bottom to top. The colors are custom
 *   properties of the page.
 * @param {string[]} chart.long Longer names for the table and for tooltips.
 * @returns {HTMLElement} A figure with the chart, the table and, for several series, a legend.
 */
export function columns({ title, head, names, series, long = names }) {
  const totals = names.map((_, index) => series.reduce((sum, { values }) => sum + values[index], 0));
  const most = rounded(Math.max(...totals, 1));
  const height = (value) => ((HEIGHT - BOTTOM - TOP) * value) / most;
  const wide = (WIDTH - LEFT) / names.length;
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  for (const value of [0, most / 2, most]) if (Number.isInteger(value)) drawing.append(...line(value, HEIGHT - BOTTOM - height(value)));
  names.forEach((name, index) => {
    const left = LEFT + wide * (index + GAP / 2);
    const group = svg("g", {});
    group.append(svg("title", {}, tooltip(long[index], series, index)));
    let bottom = HEIGHT - BOTTOM;
    for (const { color, values } of series) {
      const tall = height(values[index]);
      bottom -= tall;
      const box = svg("rect", { x: left, y: bottom, width: wide * (1 - GAP), height: tall });
      box.style.fill = `var(${color})`;
      group.append(box);
    }
    drawing.append(group, svg("text", { x: left + (wide * (1 - GAP)) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, name));
  });
  return make("figure", { class: "chart" }, drawing, series.length > 1 && legend(series), table({ title, head, names: long, series }));
}

/** Round up to 1, 2, 5 or 10 times a power of ten, so that the axis has readable values. */
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return (STEPS.find((step) => step * power >= value) ?? 10) * power;
}

function line(value, y) {
  const label = svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, String(value));
  return [svg("line", { x1: LEFT, x2: WIDTH, y1: y, y2: y }), label];
}

const tooltip = (name, series, index) => [name, ...series.map((each) => `${each.name}: ${each.values[index]}`)].join("\n");

function legend(series) {
  const entries = series.map(({ name, color }) => {
    const swatch = make("i", { class: "swatch" });
    swatch.style.background = `var(${color})`;
    return make("li", {}, swatch, name);
  });
  return make("ul", { class: "legend", "aria-hidden": "true" }, ...entries);
}

function table({ title, head, names, series }) {
  const heads = [head, ...series.map(({ name }) => name)].map((text) => make("th", { scope: "col", text }));
  const rows = names.map((name, index) =>
    make("tr", {}, make("th", { scope: "row", text: name }), ...series.map(({ values }) => make("td", { class: "number", text: values[index] }))),
  );
  const made = make("table", { class: "rows", "aria-label": title }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
  return make("details", {}, make("summary", { text: texts.health.as_table }), made);
}

function svg(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}
