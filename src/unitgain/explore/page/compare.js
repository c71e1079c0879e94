// Two settings at the same seeds, what differs, and a matrix of settings.

import { at, fail, lines, make, short, tabulate } from "./ask.js";
import { changed, read, show } from "./controls.js";
import { describe, figure, named, sources, state, times } from "./state.js";

let matrixing = null;

function compare() {
  at("now-caption").textContent = `Now: ${describe(state.view)}`;
  const mine = sources(), held = state.held;
  side(at("now"), mine, held?.images);
  if (!held) return;
  at("held-caption").textContent = `Held: ${describe(held.view)}`;
  side(at("held"), held.images, mine);
}

function side(box, images, other) {
  box.replaceChildren();
  for (const [seed, src] of images) {
    const node = figure(named(seed, null), src, { tabindex: "0" }), image = node.querySelector("img"), against = other?.get(seed);
    if (against) {
      const back = () => { image.src = src; image.alt = named(seed, null); delete image.dataset.shown; };
      const differ = async () => {
        image.dataset.shown = "waiting";
        const shown = await difference(src, against);
        if (image.dataset.shown === "waiting") [image.src, image.alt, image.dataset.shown] = [shown, `${named(seed, null)}: where the two differ`, "difference"];
      };
      for (const on of ["pointerenter", "focus"]) image.addEventListener(on, differ);
      for (const off of ["pointerleave", "blur"]) image.addEventListener(off, back);
    }
    box.append(node);
  }
}

const loaded = (src) => new Promise((done, failed) => { const image = new Image(); image.onload = () => done(image); image.onerror = failed; image.src = src; });

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
  const images = new Map(), view = { ...state.view };
  for await (const line of lines("api/draw", view)) if (line.kind === "picture") images.set(line.seed, line.src);
  state.held = { view, images };
  compare();
}

// Lengths across, guidance or times downwards; a cell is drawn after the other, and takes its setting when pressed.
async function matrix() {
  matrixing?.abort();
  const own = (matrixing = new AbortController()), base = read(), table = at("matrix"), known = times(null);
  const lengths = state.about.run ? spread(Number(at("length").min), Number(at("length").max), 5) : [null];
  const byTime = at("across").value === "time" && known.length > 0;
  const rows = byTime ? spread(0, known.length - 1, Math.min(known.length, 4)).map((i) => known[Math.round(i)]) : base.guide === null ? [1] : [1, 1.5, 2, 3];
  const seeds = base.seeds.slice(0, at("matrix-seeds").valueAsNumber || 1);
  const caption = byTime ? "images seen downwards; a cell takes its setting" : "weight of guidance downwards; a cell takes its setting";
  const heads = lengths.map((length) => (length === null ? "network" : `EMA ${short(length)}`)), jobs = [];
  const cells = tabulate(table, caption, byTime ? "images" : "weight", heads, rows.map((row) => (byTime ? Math.round(row).toLocaleString("en") : short(row))));
  rows.forEach((row, i) => lengths.forEach((length, j) => {
    const one = structuredClone(base);
    one.seeds = seeds;
    if (length !== null) one.average.length = length;
    if (byTime) one.average.t = row; else one.guidance = row;
    jobs.push([cells[i][j], one]);
  }));
  try {
    for (const [cell, one] of jobs) await matrixCell(cell, one, base, own.signal);
  } catch (error) { fail(error); }
}

async function matrixCell(cell, one, base, signal) {
  const button = make("button", "", { type: "button", "aria-label": `take ${describe(one)}` });
  try {
    for await (const line of lines("api/draw", one, signal)) {
      if (line.kind === "picture") button.append(make("img", "", { alt: named(line.seed, null), src: line.src }));
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    cell.textContent = "not to be had";
    cell.title = error.message;
    return;
  }
  button.addEventListener("click", () => { show({ ...one, seeds: base.seeds }); changed(); });
  cell.append(button);
}

function spread(low, high, count) {
  if (count < 2) return [high];
  return Array.from({ length: count }, (_, i) => Math.round((low + (i * (high - low)) / (count - 1)) * 1000) / 1000);
}

export function beginCompare() {
  document.addEventListener("drawn", compare);
  at("hold").addEventListener("click", () => hold().catch(fail));
  at("matrix-draw").addEventListener("click", matrix);
}
