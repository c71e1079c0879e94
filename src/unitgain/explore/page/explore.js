// The page of the explorer: draws what the controls say, and looks for new snapshots.

import { ask, at, fail, lines } from "./ask.js";
import { beginCompare } from "./compare.js";
import { beginControls, changed, forgetFits, refresh, setTimes, showFit, timeOf } from "./controls.js";
import { beginMeasure } from "./measure.js";
import { figure, guideOf, named, state, times } from "./state.js";
import { beginTake } from "./take.js";
import { beginUnderstand } from "./understand.js";

const PAUSE = 60; // milliseconds that a slider must rest
const LOOK = 3000; // milliseconds between looks for new snapshots
const MANY = 16; // images, of which more are shown smaller
let drawing = null, timer = null;

// Places for images, where those that are there stay until others come.
function lay(seeds) {
  const { pictures } = state;
  for (const seed of pictures.keys()) if (!seeds.includes(seed)) pictures.delete(seed);
  for (const seed of seeds) if (!pictures.has(seed)) pictures.set(seed, figure(named(seed, null)));
  at("pictures").replaceChildren(...seeds.map((seed) => pictures.get(seed)));
  at("pictures").classList.toggle("many", seeds.length > MANY);
}

function tell(seed, name, src) {
  const node = state.pictures.get(seed), image = node.querySelector("img");
  [image.src, image.alt, node.querySelector("figcaption").textContent] = [src, named(seed, name), named(seed, name)];
}

function progress(text, share) { at("doing").textContent = text; at("progress").value = share; }

function on(line, seeds) {
  if (line.kind === "view") {
    if (line.fit !== null) showFit("fit", line.fit);
    if (line.guide_fit !== null) showFit("guide-fit", line.guide_fit);
    lay(seeds);
  } else if (line.kind === "reading") {
    progress(`reading snapshots: ${Math.round((100 * line.done) / Math.max(line.total, 1))} %`, line.done / Math.max(line.total, 1));
  } else if (line.kind === "preview") {
    progress(`evaluation ${line.number} of ${line.of}, sigma ${line.sigma.toPrecision(3)}`, line.number / line.of);
    for (const [seed, src] of Object.entries(line.images)) tell(Number(seed), null, src);
  } else if (line.kind === "picture") tell(line.seed, line.name, line.src);
}

function settle(text) {
  progress("", 0);
  at("status").textContent = text;
  at("pictures").setAttribute("aria-busy", "false");
}

async function draw() {
  drawing?.abort();
  timer = null;
  const own = (drawing = new AbortController()), wanted = state.view;
  at("error").textContent = "";
  at("pictures").setAttribute("aria-busy", "true");
  try {
    for await (const line of lines("api/draw", wanted, own.signal)) {
      if (line.kind !== "done") on(line, wanted.seeds);
    }
    if (own.signal.aborted || timer) return; // something else is wanted by now
    settle(wanted.seeds.length === 1 ? "1 image" : `${wanted.seeds.length} images`);
    document.dispatchEvent(new Event("drawn"));
  } catch (error) {
    fail(error);
    if (error.name !== "AbortError" && !timer) settle("");
  }
}

// New snapshots move the sliders of time; a slider at the end stays there, and what it shows is drawn.
async function live() {
  try {
    const found = await ask("api/live"), { about, view } = state;
    if (JSON.stringify(found.times) === JSON.stringify(about.times)) return;
    const newest = Number(at("time").value) === times(null).length - 1, last = times(null).at(-1);
    const t = timeOf("time", null), own = timeOf("guide-time", view.guide);
    about.times = found.times;
    forgetFits();
    setTimes("time", null, newest ? null : t);
    if (guideOf(view.guide)?.run) setTimes("guide-time", view.guide, own);
    if (newest && times(null).at(-1) !== last) changed(); else refresh();
  } catch { /* the server is gone, or the run; the next drawing says so */ }
}

async function begin() {
  const about = (state.about = await ask("api/about"));
  history.replaceState(null, "", location.pathname); // the token is in a cookie by now
  document.title = at("title").textContent = `Explore ${about.title}`;
  at("lead").textContent = `${about.recipe}: ${about.name}`;
  for (const node of document.querySelectorAll(".run")) node.hidden = !about.run;
  at("network").hidden = !about.run;
  await beginControls();
  for (const start of [beginCompare, beginMeasure, beginUnderstand, beginTake]) start();
  document.addEventListener("changed", () => {
    at("pictures").setAttribute("aria-busy", "true");
    clearTimeout(timer);
    timer = setTimeout(draw, PAUSE);
  });
  setInterval(live, LOOK);
  await draw();
}

begin().catch(fail);
