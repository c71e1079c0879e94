// What the page knows: what there is to choose from, and what is chosen.

import { make, short } from "./ask.js";

export const state = {
  about: null, // what the server said in the beginning
  view: null, // what the controls say, as the server reads it
  held: null, // a view to compare with, and its images
  pictures: new Map(), // figures of the view by seed
};

export const times = (guide) => state.about.times[guide ?? ""] ?? [];
export const guideOf = (name) => state.about.guides.find((one) => one.name === name);
export const said = (t) => `after ${Math.round(t).toLocaleString("en")} images`;

export function describe(view) {
  const average = view.average.length === null ? "the network" : `EMA ${short(view.average.length)} ${said(view.average.t)}`;
  return `${average}, guidance ${short(view.guidance)}, ${view.sampler.sampler}, ${view.steps} steps`;
}

export const named = (seed, name) => (name === null ? `seed ${seed}` : `seed ${seed}, class ${name}`);

// An image with its caption; its place is there before its pixels are.
export function figure(caption, src = null, attributes = {}) {
  const node = make("figure"), image = make("img", "", { alt: caption, ...attributes }), size = state.about.size;
  image.classList.toggle("sharp", size.at(-1) < 128);
  image.style.aspectRatio = `${size.at(-1)} / ${size.length > 1 ? size.at(-2) : size.at(-1)}`;
  if (src) image.src = src;
  node.append(image, make("figcaption", caption));
  return node;
}

// Finished images of the view, by seed.
export const sources = () => new Map([...state.pictures].map(([seed, node]) => [seed, node.querySelector("img").src]));
