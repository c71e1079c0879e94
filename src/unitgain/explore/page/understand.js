// The averaging profile, the training, and the way of an image out of noise.

import { ask, at, fail, lines, make } from "./ask.js";
import { read } from "./controls.js";
import { state } from "./state.js";

let following = null;

// A plot as an image: nothing in it can act.
function plot(title, svg) {
  const node = make("figure"), image = make("img", "", { alt: title, src: `data:image/svg+xml,${encodeURIComponent(svg)}`, class: "plot" });
  node.append(make("figcaption", title), image);
  return node;
}

async function profile() {
  if (!state.about.run || !at("understand").open) return;
  try {
    const found = await ask("api/profile", state.view), heavy = [...found.snapshots].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, 8);
    const table = make("table");
    table.createCaption().textContent = "the snapshots that weigh most";
    for (const one of heavy) { const row = table.insertRow(); row.append(make("td", one.file), make("td", one.weight.toPrecision(3))); }
    at("profile").replaceChildren(make("h3", "The average"), plot("Averaging profile over training time: stored, wanted, achieved", found.svg), table);
  } catch (error) { at("profile").textContent = error.message; }
}

async function training() {
  if (!state.about.run) return;
  try {
    const found = await ask("api/history");
    at("history").replaceChildren(...found.plots.map((one) => plot(one.title, one.svg)));
  } catch (error) { at("history").textContent = error.message; }
}

async function follow() {
  following?.abort();
  const own = (following = new AbortController()), frames = [], seeds = state.view.seeds.slice(0, 1);
  try {
    for await (const line of lines("api/path", { ...read(), seeds }, own.signal)) if (line.kind === "frame") frames.push(line);
  } catch (error) { fail(error); return; }
  const shown = () => {
    const step = Number(at("path-step").value), frame = frames[step];
    at("path-shown").textContent = `sigma ${frame.sigma.toPrecision(3)}, ${step + 1} of ${frames.length}`;
    [at("path-x").src, at("path-denoised").src] = [frame.x[0], frame.denoised[0]];
  };
  at("path").hidden = false;
  for (const id of ["path-x", "path-denoised"]) at(id).classList.toggle("sharp", state.about.size.at(-1) < 128);
  at("path-step").max = frames.length - 1;
  at("path-step").value = Math.floor(frames.length / 2);
  at("path-step").oninput = shown;
  shown();
}

export function beginUnderstand() {
  document.addEventListener("drawn", profile);
  at("understand").addEventListener("toggle", () => { if (at("understand").open) { profile(); training(); } });
  at("path-draw").addEventListener("click", follow);
}
