// What sweeps and searches have measured, and one more cell.

import { ask, at, fail, lines, make, short, tabulate } from "./ask.js";
import { changed, read, show } from "./controls.js";
import { state } from "./state.js";

let cells = [], measuring = null;

async function load() {
  try { tell((await ask("api/cells")).cells); } catch (error) { fail(error); }
}

function tell(found) {
  cells = found;
  const metrics = [...new Set([state.about.metric, ...cells.map((cell) => cell.metric)])], chosen = at("metric").value;
  at("metric").replaceChildren(...metrics.map((name) => make("option", name, { value: name })));
  if (metrics.includes(chosen)) at("metric").value = chosen;
  map();
}

// Lengths across, weights of guidance downwards. Of how many images a value is, and against what, has a say in it, so that
// the best are those of the most images, one of each reference.
function map() {
  const own = cells.filter((cell) => cell.metric === at("metric").value), table = at("cells");
  table.replaceChildren();
  if (!own.length) { table.createTBody().insertRow().insertCell().textContent = "nothing was measured yet"; return; }
  const better = own[0].higher ? "higher" : "lower", sorted = (key) => [...new Set(own.map((cell) => cell[key]))].sort((a, b) => a - b);
  const references = [...new Set(own.map((cell) => cell.reference))], best = references.map((reference) => {
    const same = own.filter((cell) => cell.reference === reference), most = Math.max(...same.map((cell) => cell.images));
    return same.filter((cell) => cell.images === most).reduce((a, b) => ((a.higher ? b.value > a.value : b.value < a.value) ? b : a));
  });
  const which = references.length === 1 ? `the best of ${best[0].images} images has` : "the best against each reference have";
  const lengths = sorted("length"), weights = sorted("guidance"), caption = `${own[0].metric}, ${better} is better; ${which} a bold frame`;
  const places = tabulate(table, caption, "weight", lengths.map((length) => `EMA ${short(length)}`), weights.map(short));
  for (const cell of own) {
    const text = cell.value.toPrecision(4), label = `${text}: EMA ${short(cell.length)}, guidance ${short(cell.guidance)}, ${cell.images} images${cell.against && ` against ${cell.against}`}`;
    const button = make("button", text, { type: "button", "aria-label": label, title: label });
    button.classList.toggle("best", best.includes(cell));
    button.addEventListener("click", () => take(cell));
    places[weights.indexOf(cell.guidance)][lengths.indexOf(cell.length)].append(button);
  }
}

function take(cell) {
  const now = read(), guide = cell.guidance === 1 ? null : cell.guide, t = cell.nimg ?? now.average.t;
  const guidance = guide === null ? 1 : cell.guidance, guide_average = { length: cell.guide_length, t: cell.guide_nimg };
  show({ ...now, ...cell.how, label: state.view.label, average: { length: cell.length, t }, guidance, guide, guide_average });
  changed();
}

async function measureHere() {
  const own = (measuring = new AbortController()), told = at("measure-status");
  at("measure-here").disabled = true;
  at("measure-stop").hidden = false;
  told.textContent = "reading what there is to measure with";
  const data = { view: read(), metric: at("metric").value, images: at("measure-images").valueAsNumber };
  try {
    for await (const line of lines("api/measure", data, own.signal)) {
      if (line.kind === "measuring") told.textContent = `${Math.floor(line.done)} of ${line.total} images`;
      if (line.kind === "cells") { told.textContent = "measured"; tell(line.cells); }
    }
  } catch (error) { told.textContent = error.name === "AbortError" ? "stopped" : error.message; }
  at("measure-here").disabled = false;
  at("measure-stop").hidden = true;
}

export function beginMeasure() {
  at("metric").addEventListener("change", map);
  at("measure").addEventListener("toggle", () => { if (at("measure").open) load(); });
  at("measure-here").addEventListener("click", measureHere);
  at("measure-stop").addEventListener("click", () => measuring?.abort());
  at("measure").hidden = !state.about.run;
}
