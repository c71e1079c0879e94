// The controls, and views: what they say.

import { ask, at, make, short } from "./ask.js";
import { guideOf, said, state, times } from "./state.js";

let errors = {}; // of the fit, by guide and time

export function setTimes(id, guide, t) {
  const known = times(guide), control = at(id);
  control.max = Math.max(known.length - 1, 0);
  let nearest = known.length - 1;
  known.forEach((one, i) => { if (t !== null && Math.abs(one - t) < Math.abs(known[nearest] - t)) nearest = i; });
  control.value = nearest;
}

export function timeOf(id, guide) {
  const known = times(guide);
  return known.length ? known[Math.min(Number(at(id).value), known.length - 1)] : null;
}

function setTied(id, value) { at(id).value = value; at(`${id}-number`).value = short(Number(value)); }

function fillSampler(record) {
  const own = at("sampler-settings");
  own.replaceChildren();
  for (const [name, value] of Object.entries(record)) {
    if (name === "sampler") continue;
    const box = make("div"), input = make("input", "", { type: "number", step: "any", id: `sampler-${name}`, "data-name": name });
    input.value = value;
    input.addEventListener("change", changed);
    box.append(make("label", name, { for: `sampler-${name}` }), input);
    own.append(box);
  }
}

function classText(numbers) {
  const names = numbers.map((one) => state.about.classes[one] ?? String(one));
  return names.length === 1 ? names[0] : names.map((name) => (/[",]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name)).join(",");
}

// Put a view into the controls.
export function show(to) {
  if (state.about.run) { setTied("length", to.average.length); setTimes("time", null, to.average.t); }
  at("guide").value = to.guide ?? "";
  setTied("guidance", to.guidance);
  const own = to.guide_average ?? {};
  if (own.length != null) setTied("guide-length", own.length);
  if (guideOf(to.guide)?.run) setTimes("guide-time", to.guide, own.t ?? null);
  at("limited").checked = to.interval !== null;
  if (to.interval) [at("interval-low").value, at("interval-high").value] = to.interval;
  at("class").value = to.label === null ? "" : classText([to.label].flat());
  at("first").value = to.seeds[0];
  at("count").value = to.seeds.length;
  at("sampler").value = to.sampler.sampler;
  fillSampler(to.sampler);
  at("steps").value = to.steps;
  state.view = to;
  refresh();
}

// What the controls say; numbers that are none become null, which the server refuses in words.
export function read() {
  const { about, view } = state, guide = at("guide").value || null, run = guideOf(guide)?.run, sampler = { sampler: at("sampler").value };
  for (const input of at("sampler-settings").querySelectorAll("input")) sampler[input.dataset.name] = input.valueAsNumber;
  const first = at("first").valueAsNumber, count = at("count").valueAsNumber, name = at("class").value.trim();
  return {
    ...view,
    average: about.run ? { length: at("length-number").valueAsNumber, t: timeOf("time", null) } : { length: null, t: null },
    guide,
    guide_average: run ? { length: at("guide-length-number").valueAsNumber, t: timeOf("guide-time", guide) } : { length: null, t: null },
    guidance: guide === null ? 1 : at("guidance-number").valueAsNumber,
    interval: at("limited").checked && guide !== null ? [at("interval-low").valueAsNumber, at("interval-high").valueAsNumber] : null,
    label: name === "" ? null : name,
    without: guide === "self" ? view.without : null,
    seeds: Array.from({ length: Math.min(Math.max(count || 1, 1), 257) }, (_, i) => first + i),
    sampler,
    steps: at("steps").valueAsNumber,
  };
}

// What stands beside the controls.
export function refresh() {
  const now = read(), guide = guideOf(now.guide);
  at("guided").hidden = now.guide === null;
  at("guide-average").hidden = !guide?.run;
  at("interval").hidden = !at("limited").checked;
  if (state.about.run) {
    at("time-shown").textContent = said(now.average.t);
    tellFit("fit", now.average.length, null, now.average.t);
  }
  if (guide?.run) {
    at("guide-time-shown").textContent = said(now.guide_average.t);
    tellFit("guide-fit", now.guide_average.length, now.guide, now.guide_average.t);
  }
}

// The error of the fit at a length, between those that the server has told.
async function tellFit(id, length, guide, t) {
  const key = JSON.stringify([guide, t]);
  errors[key] ??= ask("api/errors", { guide, t }).catch(() => ({ lengths: [], errors: [] }));
  const known = await errors[key], after = known.lengths.findIndex((one) => one >= length);
  if (after < 0 || !(length > 0)) return;
  const before = Math.max(after - 1, 0), span = known.lengths[after] - known.lengths[before];
  const share = span ? (length - known.lengths[before]) / span : 0;
  const log = (i) => Math.log(Math.max(known.errors[i], 1e-12));
  showFit(id, Math.exp(log(before) + share * (log(after) - log(before))));
}

export function showFit(id, error) {
  const bad = error > state.about.warn_above;
  at(id).classList.toggle("bad", bad);
  const far = error > state.about.unreachable ? ": out of reach of the snapshots" : bad ? ": high, not quite this length" : "";
  at(id).textContent = `error of the fit ${error < 1e-9 ? "0" : error.toExponential(1)}${far}`;
}

// The snapshots are others than they were.
export const forgetFits = () => { errors = {}; };

export function changed() {
  state.view = read();
  refresh();
  document.dispatchEvent(new Event("changed"));
}

export function turn(by) {
  const count = at("count").valueAsNumber || 8;
  at("first").value = Math.max((at("first").valueAsNumber || 0) + by * count, 0);
  changed();
}

function tie(id) {
  const slider = at(id), number = at(`${id}-number`);
  slider.addEventListener("input", () => { number.value = slider.value; changed(); });
  number.addEventListener("change", () => { slider.value = number.value; changed(); });
}

function chooseGuide() {
  const own = at("guide").value;
  if (guideOf(own)?.run) setTimes("guide-time", own, own === state.about.name ? times(own)[Math.floor(times(own).length / 3)] : null);
  if (own && Number(at("guidance").value) === 1) setTied("guidance", 1.5);
  changed();
}

// Fill the controls with what there is to choose from, and listen.
export async function beginControls() {
  const { about } = state;
  at("guide").append(...about.guides.map((one) => make("option", one.shown, { value: one.name })));
  at("classes").append(...about.classes.map((name) => make("option", "", { value: name })));
  at("class").disabled = !about.classes.length;
  at("sampler").append(...Object.keys(about.samplers).map((name) => make("option", name, { value: name })));
  const known = about.run ? await ask("api/errors", { guide: null, t: null }) : { lengths: [], errors: [] };
  const within = known.lengths.filter((_, i) => known.errors[i] <= about.unreachable);
  for (const id of ["length", "guide-length"]) {
    [at(id).min, at(id).max] = [within[0] ?? 0.01, within.at(-1) ?? 0.28];
    setTied(id, about.view.average.length ?? 0.1);
  }
  show(about.view);
  for (const id of ["length", "guidance", "guide-length"]) tie(id);
  for (const id of ["time", "guide-time"]) at(id).addEventListener("input", changed);
  for (const id of ["limited", "interval-low", "interval-high", "class", "first", "count", "steps"]) at(id).addEventListener("change", changed);
  at("guide").addEventListener("change", chooseGuide);
  at("sampler").addEventListener("change", () => { fillSampler(about.samplers[at("sampler").value]); changed(); });
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  at("reroll").addEventListener("click", () => { at("first").value = Math.floor(Math.random() * 2 ** 31); changed(); });
  at("controls").addEventListener("submit", (event) => event.preventDefault());
}
