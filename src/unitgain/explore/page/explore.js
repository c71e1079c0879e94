"use strict";
// The page of the explorer. What comes from the server is text: it is put into the page as text, never as markup; plots
// are images.

const at = (id) => document.getElementById(id);
const PAUSE = 60; // milliseconds that a slider must rest
let about, view, held = null, errors = {}, drawing = null, measuring = null, matrixing = null, following = null, timer = null;
const pictures = new Map(); // of the current view, by seed

function make(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

async function ask(path, data) {
  const options = data === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) };
  const answer = await fetch(path, options);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Lines of JSON as they come; ends with the signal.
async function* lines(path, data, signal) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data), signal });
  if (!answer.ok) throw new Error((await answer.json()).error);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) {
      const line = JSON.parse(part);
      if (line.kind === "error") throw new Error(line.message);
      yield line;
    }
  }
}

function fail(error) {
  if (error.name === "AbortError") return;
  at("error").textContent = error.message;
  at("status").textContent = "";
}

const short = (value) => Number(value.toPrecision(6)).toString();
const said = (t) => `after ${Math.round(t).toLocaleString("en")} images`;

// Controls ---------------------------------------------------------------------------------------------------------

const times = (guide) => about.times[guide ?? ""] ?? [];
const guideOf = (name) => about.guides.find((one) => one.name === name);

function setTimes(id, guide, t) {
  const known = times(guide), control = at(id);
  control.max = Math.max(known.length - 1, 0);
  let nearest = known.length - 1;
  known.forEach((one, i) => { if (t !== null && Math.abs(one - t) < Math.abs(known[nearest] - t)) nearest = i; });
  control.value = nearest;
}

function timeOf(id, guide) {
  const known = times(guide);
  return known.length ? known[Math.min(Number(at(id).value), known.length - 1)] : null;
}

function tie(id, changed) {
  const slider = at(id), number = at(`${id}-number`);
  slider.addEventListener("input", () => { number.value = slider.value; changed(); });
  number.addEventListener("change", () => { slider.value = number.value; changed(); });
}

function setTied(id, value) { at(id).value = value; at(`${id}-number`).value = short(Number(value)); }

function fillSampler(record) {
  const own = at("sampler-settings");
  own.replaceChildren();
  for (const [name, value] of Object.entries(record)) {
    if (name === "sampler") continue;
    own.append(make("label", name, { for: `sampler-${name}` }));
    const input = make("input", "", { type: "number", step: "any", id: `sampler-${name}`, "data-name": name });
    input.value = value;
    input.addEventListener("change", changed);
    own.append(input);
  }
}

function classText(numbers) {
  const names = numbers.map((one) => about.classes[one] ?? String(one));
  return names.length === 1 ? names[0] : names.map((name) => (/[",]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name)).join(",");
}

// Put a view into the controls.
function show(to) {
  if (about.run) { setTied("length", to.average.length); setTimes("time", null, to.average.t); }
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
  view = to;
  refresh();
}

// What the controls say.
function read() {
  const guide = at("guide").value || null, run = guideOf(guide)?.run, sampler = { sampler: at("sampler").value };
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
    seeds: Array.from({ length: Math.min(Math.max(count || 1, 1), 257) }, (_, i) => first + i),
    sampler,
    steps: at("steps").valueAsNumber,
  };
}

// What stands beside the controls.
function refresh() {
  const now = read(), guide = guideOf(now.guide);
  at("guide-average").hidden = !guide?.run;
  at("interval").hidden = !at("limited").checked;
  for (const id of ["guidance", "guidance-number", "limited"]) at(id).disabled = now.guide === null;
  if (about.run) {
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

function showFit(id, error) {
  const bad = error > about.warn_above;
  at(id).classList.toggle("bad", bad);
  const far = error > about.unreachable ? ": out of reach of the snapshots" : bad ? ": high, not quite this length" : "";
  at(id).textContent = `error of the fit ${error.toExponential(1)}${far}`;
}

function changed() {
  view = read();
  refresh();
  clearTimeout(timer);
  timer = setTimeout(draw, PAUSE);
}

// Draw -------------------------------------------------------------------------------------------------------------

function figure(seed, name, src, more = {}) {
  const node = make("figure"), alt = name === null ? `seed ${seed}` : `seed ${seed}, class ${name}`;
  const image = make("img", "", { alt, src, class: about.size.at(-1) < 128 ? "sharp" : "", ...more });
  node.append(image, make("figcaption", alt));
  return node;
}

function lay(box, seeds) {
  box.replaceChildren();
  for (const seed of seeds) {
    const known = pictures.get(seed);
    box.append(known ?? make("figure"));
  }
}

async function draw() {
  drawing?.abort();
  const own = (drawing = new AbortController()), wanted = view;
  at("error").textContent = "";
  at("pictures").setAttribute("aria-busy", "true");
  const fresh = new Set();
  try {
    for await (const line of lines("api/draw", wanted, own.signal)) {
      if (line.kind === "view") {
        if (line.fit !== null) showFit("fit", line.fit);
        if (line.guide_fit !== null) showFit("guide-fit", line.guide_fit);
        for (const seed of pictures.keys()) if (!wanted.seeds.includes(seed)) pictures.delete(seed);
        lay(at("pictures"), wanted.seeds);
      } else if (line.kind === "reading") {
        at("status").textContent = `reading snapshots: ${Math.round((100 * line.done) / Math.max(line.total, 1))} %`;
      } else if (line.kind === "preview") {
        at("status").textContent = `drawing: evaluation ${line.number} of ${line.of}, sigma ${line.sigma.toPrecision(3)}`;
        for (const [seed, src] of Object.entries(line.images)) pictures.set(Number(seed), figure(Number(seed), null, src));
        lay(at("pictures"), wanted.seeds);
      } else if (line.kind === "picture") {
        fresh.add(line.seed);
        pictures.set(line.seed, figure(line.seed, line.name, line.src));
        lay(at("pictures"), wanted.seeds);
      } else if (line.kind === "done") {
        at("status").textContent = `${fresh.size} images`;
        at("pictures").setAttribute("aria-busy", "false");
        drawn();
      }
    }
  } catch (error) {
    fail(error);
    if (error.name !== "AbortError") at("pictures").setAttribute("aria-busy", "false");
  }
}

// What follows from an image that is finished.
function drawn() {
  compare();
  if (at("take").open) take();
  if (at("understand").open) profile();
}

function page(by) {
  const count = at("count").valueAsNumber || 8;
  at("first").value = Math.max((at("first").valueAsNumber || 0) + by * count, 0);
  changed();
}

// Compare ----------------------------------------------------------------------------------------------------------

const sources = () => new Map([...pictures].map(([seed, node]) => [seed, node.querySelector("img").src]));

function describe(one) {
  const average = one.average.length === null ? "the network" : `EMA ${short(one.average.length)} ${said(one.average.t)}`;
  return `${average}, guidance ${short(one.guidance)}, ${one.sampler.sampler}, ${one.steps} steps`;
}

function compare() {
  at("now-caption").textContent = `Now: ${describe(view)}`;
  const mine = sources();
  side(at("now"), mine, held?.images);
  if (!held) return;
  at("held-caption").textContent = `Held: ${describe(held.view)}`;
  side(at("held"), held.images, mine);
}

// Images of one side; what is pointed at shows where the other side differs.
function side(box, images, other) {
  box.replaceChildren();
  for (const [seed, src] of images) {
    const node = figure(seed, null, src, { tabindex: "0" }), image = node.querySelector("img");
    const against = other?.get(seed);
    if (against) {
      for (const on of ["pointerenter", "focus"]) image.addEventListener(on, async () => { image.src = await difference(src, against); image.dataset.shown = "difference"; });
      for (const off of ["pointerleave", "blur"]) image.addEventListener(off, () => { image.src = src; delete image.dataset.shown; });
    }
    box.append(node);
  }
}

const loaded = (src) => new Promise((done) => { const image = new Image(); image.onload = () => done(image); image.src = src; });

// The absolute difference of two images, as a PNG; white where they differ most.
async function difference(one, other) {
  const [left, right] = await Promise.all([loaded(one), loaded(other)]), canvas = make("canvas");
  [canvas.width, canvas.height] = [left.width, left.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const bytes = (image) => { context.drawImage(image, 0, 0); return context.getImageData(0, 0, canvas.width, canvas.height); };
  const a = bytes(left), b = bytes(right);
  for (let i = 0; i < a.data.length; i++) if (i % 4 < 3) a.data[i] = Math.abs(a.data[i] - b.data[i]);
  context.putImageData(a, 0, 0);
  return canvas.toDataURL();
}

async function hold() {
  const take = new AbortController(), images = new Map(), own = { ...view };
  for await (const line of lines("api/draw", own, take.signal)) if (line.kind === "picture") images.set(line.seed, line.src);
  held = { view: own, images };
  at("compare").open = true;
  compare();
}

// Lengths across, guidance or times downwards; a cell is drawn after the other, and takes its setting when pressed.
async function matrix() {
  matrixing?.abort();
  const own = (matrixing = new AbortController()), base = read(), table = at("matrix");
  const lengths = about.run ? spread(Number(at("length").min), Number(at("length").max), 5) : [null];
  const byTime = at("across").value === "time";
  const known = times(null);
  const rows = byTime ? spread(0, known.length - 1, Math.min(known.length, 4)).map((i) => known[Math.round(i)]) : base.guide === null ? [1] : [1, 1.5, 2, 3];
  const seeds = base.seeds.slice(0, at("matrix-seeds").valueAsNumber || 1);
  table.replaceChildren();
  const head = table.createTHead().insertRow();
  head.append(make("th", byTime ? "images" : "w"));
  for (const length of lengths) head.append(make("th", length === null ? "" : `EMA ${short(length)}`, { scope: "col" }));
  const body = table.createTBody(), jobs = [];
  for (const row of rows) {
    const line = body.insertRow();
    line.append(make("th", byTime ? Math.round(row).toLocaleString("en") : short(row), { scope: "row" }));
    for (const length of lengths) {
      const one = structuredClone(base);
      one.seeds = seeds;
      if (length !== null) one.average.length = length;
      if (byTime) one.average.t = row; else one.guidance = row;
      jobs.push([line.insertCell(), one]);
    }
  }
  try {
    for (const [cell, one] of jobs) await matrixCell(cell, one, base, own.signal);
  } catch (error) { fail(error); }
}

async function matrixCell(cell, one, base, signal) {
  const button = make("button", "", { type: "button", "aria-label": `take ${describe(one)}` });
  try {
    for await (const line of lines("api/draw", one, signal)) {
      if (line.kind === "picture") button.append(make("img", "", { alt: `seed ${line.seed}`, src: line.src }));
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    cell.textContent = "out of reach";
    cell.title = error.message;
    return;
  }
  button.addEventListener("click", () => { show({ ...one, seeds: base.seeds }); draw(); });
  cell.append(button);
}

function spread(low, high, count) {
  if (count < 2) return [high];
  return Array.from({ length: count }, (_, i) => Math.round((low + (i * (high - low)) / (count - 1)) * 1000) / 1000);
}

// Measure ----------------------------------------------------------------------------------------------------------

let cells = [];

async function loadCells() {
  try { tellCells((await ask("api/cells")).cells); } catch (error) { fail(error); }
}

function tellCells(found) {
  cells = found;
  const metrics = [...new Set([about.metric, ...cells.map((cell) => cell.metric)])], chosen = at("metric").value;
  at("metric").replaceChildren(...metrics.map((name) => make("option", name, { value: name })));
  if (metrics.includes(chosen)) at("metric").value = chosen;
  map();
}

function map() {
  const own = cells.filter((cell) => cell.metric === at("metric").value), table = at("cells");
  table.replaceChildren();
  if (!own.length) { table.createTBody().insertRow().insertCell().textContent = "nothing was measured yet"; return; }
  const better = own[0].higher ? "higher" : "lower", sorted = (key) => [...new Set(own.map((cell) => cell[key]))].sort((a, b) => a - b);
  const best = own.reduce((a, b) => ((own[0].higher ? b.value > a.value : b.value < a.value) ? b : a));
  table.createCaption().textContent = `${own[0].metric}, ${better} is better; the best has a bold frame`;
  const head = table.createTHead().insertRow();
  head.append(make("th", "w"), ...sorted("length").map((length) => make("th", `EMA ${short(length)}`, { scope: "col" })));
  const body = table.createTBody();
  for (const weight of sorted("guidance")) {
    const line = body.insertRow();
    line.append(make("th", short(weight), { scope: "row" }));
    for (const length of sorted("length")) {
      const place = line.insertCell();
      for (const cell of own.filter((one) => one.length === length && one.guidance === weight)) {
        const text = `${cell.value.toPrecision(4)}`, label = `${text}: EMA ${short(length)}, guidance ${short(weight)}, ${cell.images} images`;
        const button = make("button", text, { type: "button", "aria-label": label, title: label });
        button.classList.toggle("best", cell === best);
        button.addEventListener("click", () => takeCell(cell));
        place.append(button);
      }
    }
  }
}

function takeCell(cell) {
  const now = read(), guide = cell.guidance === 1 ? null : cell.guide;
  const t = cell.nimg ?? now.average.t;
  show({ ...now, label: view.label, average: { length: cell.length, t }, guidance: guide === null ? 1 : cell.guidance, guide, guide_average: { length: cell.guide_length, t: null } });
  changed();
}

async function measureHere() {
  const own = (measuring = new AbortController());
  at("measure-here").disabled = true;
  at("measure-stop").hidden = false;
  const data = { view: read(), metric: at("metric").value, images: at("measure-images").valueAsNumber };
  try {
    for await (const line of lines("api/measure", data, own.signal)) {
      if (line.kind === "measuring") at("measure-status").textContent = `${Math.floor(line.done)} of ${line.total} images`;
      if (line.kind === "cells") { at("measure-status").textContent = "measured"; tellCells(line.cells); }
    }
  } catch (error) { at("measure-status").textContent = error.name === "AbortError" ? "stopped" : error.message; }
  at("measure-here").disabled = false;
  at("measure-stop").hidden = true;
}

// Understand -------------------------------------------------------------------------------------------------------

// A plot as an image: nothing in it can act.
function plot(title, svg) {
  const node = make("figure"), image = make("img", "", { alt: title, src: `data:image/svg+xml,${encodeURIComponent(svg)}`, class: "plot" });
  node.append(make("figcaption", title), image);
  return node;
}

async function profile() {
  if (!about.run) return;
  try {
    const found = await ask("api/profile", view), heavy = [...found.snapshots].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, 8);
    const table = make("table");
    table.createCaption().textContent = "the snapshots that weigh most";
    for (const one of heavy) { const row = table.insertRow(); row.append(make("td", one.file), make("td", one.weight.toPrecision(3))); }
    at("profile").replaceChildren(plot("Averaging profile over training time: stored, wanted, achieved", found.svg), table);
  } catch (error) { at("profile").textContent = error.message; }
}

async function loadHistory() {
  try {
    const found = await ask("api/history");
    at("history").replaceChildren(...found.plots.map((one) => plot(one.title, one.svg)));
  } catch (error) { at("history").textContent = error.message; }
}

async function follow() {
  following?.abort();
  const own = (following = new AbortController()), frames = [];
  try {
    for await (const line of lines("api/path", { ...read(), seeds: view.seeds.slice(0, 1) }, own.signal)) if (line.kind === "frame") frames.push(line);
  } catch (error) { fail(error); return; }
  const shown = () => {
    const frame = frames[Number(at("path-step").value)];
    at("path-shown").textContent = `sigma ${frame.sigma.toPrecision(3)}, ${Number(at("path-step").value) + 1} of ${frames.length}`;
    [at("path-x").src, at("path-denoised").src] = [frame.x[0], frame.denoised[0]];
  };
  at("path").hidden = false;
  for (const id of ["path-x", "path-denoised"]) at(id).classList.toggle("sharp", about.size.at(-1) < 128);
  at("path-step").max = frames.length - 1;
  at("path-step").value = frames.length - 1;
  at("path-step").oninput = shown;
  shown();
}

// Take away --------------------------------------------------------------------------------------------------------

async function take() {
  try {
    const found = await ask("api/take", view);
    [at("shell").textContent, at("python").textContent] = [found.shell, found.python];
  } catch (error) { at("take-status").textContent = error.message; }
}

async function copy(id, what) {
  await take();
  try {
    await navigator.clipboard.writeText(at(id).textContent);
    at("take-status").textContent = `${what} copied`;
  } catch { getSelection().selectAllChildren(at(id)); at("take-status").textContent = `${what} selected: press Ctrl-C`; }
}

async function save(path, name) {
  at("take-status").textContent = "drawing";
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(view) });
  if (!answer.ok) { at("take-status").textContent = (await answer.json()).error; return; }
  const link = make("a", "", { href: URL.createObjectURL(await answer.blob()), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
  at("take-status").textContent = `saved ${name}`;
}

// Live -------------------------------------------------------------------------------------------------------------

async function live() {
  try {
    const found = await ask("api/live");
    const last = times(null).at(-1), newest = Number(at("time").value) === times(null).length - 1;
    const more = JSON.stringify(found.times) !== JSON.stringify(about.times), t = timeOf("time", null), own = timeOf("guide-time", view.guide);
    if (!more) return;
    about.times = found.times;
    errors = {};
    setTimes("time", null, newest ? null : t);
    if (guideOf(view.guide)?.run) setTimes("guide-time", view.guide, own);
    if (newest && times(null).at(-1) !== last) changed(); else refresh();
  } catch { /* the server is gone, or the run; the next drawing says so */ }
}

// Begin ------------------------------------------------------------------------------------------------------------

async function begin() {
  about = await ask("api/about");
  history.replaceState(null, "", location.pathname); // the token is in a cookie by now
  document.title = `Explore ${about.title}`;
  at("title").textContent = `Explore ${about.title}`;
  at("lead").textContent = `${about.recipe}: ${about.name}`;
  for (const node of document.querySelectorAll(".run")) node.hidden = !about.run;
  at("network").hidden = !about.run;
  at("guide").append(...about.guides.map((one) => make("option", one.shown, { value: one.name })));
  at("classes").append(...about.classes.map((name) => make("option", "", { value: name })));
  at("class").disabled = !about.classes.length;
  at("sampler").append(...Object.keys(about.samplers).map((name) => make("option", name, { value: name })));
  if (about.run) {
    const known = await ask("api/errors", { guide: null, t: null });
    const within = known.lengths.filter((_, i) => known.errors[i] <= about.unreachable);
    for (const id of ["length", "guide-length"]) { at(id).min = within[0] ?? 0.01; at(id).max = within.at(-1) ?? 0.28; setTied(id, about.view.average.length ?? 0.1); }
  }
  show(about.view);
  for (const id of ["length", "guidance", "guide-length"]) tie(id, changed);
  for (const id of ["time", "guide-time"]) at(id).addEventListener("input", changed);
  for (const id of ["limited", "interval-low", "interval-high", "class", "first", "count", "steps"]) at(id).addEventListener("change", changed);
  at("guide").addEventListener("change", () => {
    const own = at("guide").value;
    if (guideOf(own)?.run) setTimes("guide-time", own, own === about.name ? times(own)[Math.floor(times(own).length / 3)] : null);
    if (own && Number(at("guidance").value) === 1) setTied("guidance", 1.5);
    changed();
  });
  at("sampler").addEventListener("change", () => { fillSampler(about.samplers[at("sampler").value]); changed(); });
  at("previous").addEventListener("click", () => page(-1));
  at("next").addEventListener("click", () => page(1));
  at("reroll").addEventListener("click", () => { at("first").value = Math.floor(Math.random() * 2 ** 31); changed(); });
  at("hold").addEventListener("click", () => hold().catch(fail));
  at("matrix-draw").addEventListener("click", matrix);
  at("metric").addEventListener("change", map);
  at("measure").addEventListener("toggle", () => { if (at("measure").open) loadCells(); });
  at("measure-here").addEventListener("click", measureHere);
  at("measure-stop").addEventListener("click", () => measuring?.abort());
  at("understand").addEventListener("toggle", () => { if (at("understand").open) { profile(); loadHistory(); } });
  at("path-draw").addEventListener("click", follow);
  at("take").addEventListener("toggle", () => { if (at("take").open) take(); });
  at("copy-shell").addEventListener("click", () => copy("shell", "the command is"));
  at("copy-python").addEventListener("click", () => copy("python", "the program is"));
  at("save-grid").addEventListener("click", () => save("api/grid.png", "images.png"));
  at("save-gif").addEventListener("click", () => save("api/path.gif", "path.gif"));
  at("save-snapshot").addEventListener("click", () => save("api/snapshot", "average.safetensors"));
  at("save-card").addEventListener("click", () => save("api/card.zip", "card.zip"));
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  setInterval(live, 3000);
  await draw();
}

begin().catch(fail);
