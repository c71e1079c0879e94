// What can be taken away: commands, programs, files.

import { ask, at, make, request } from "./ask.js";
import { state } from "./state.js";

async function take() {
  if (!at("take").open) return;
  try {
    const found = await ask("api/take", state.view);
    [at("shell").textContent, at("python").textContent] = [found.shell, found.python];
  } catch (error) { at("take-status").textContent = error.message; }
}

async function copy(id, what) {
  await take();
  try {
    await navigator.clipboard.writeText(at(id).textContent);
    at("take-status").textContent = `${what} is copied`;
  } catch { getSelection().selectAllChildren(at(id)); at("take-status").textContent = `${what} is selected: press Ctrl-C`; }
}

async function save(path, name, view) {
  at("take-status").textContent = `making ${name}`;
  try {
    const answer = await request(path, view), link = make("a", "", { href: URL.createObjectURL(await answer.blob()), download: name });
    link.click();
    URL.revokeObjectURL(link.href);
    at("take-status").textContent = `saved ${name}`;
  } catch (error) { at("take-status").textContent = error.message; }
}

export function beginTake() {
  document.addEventListener("drawn", take);
  at("take").addEventListener("toggle", take);
  at("copy-shell").addEventListener("click", () => copy("shell", "the command"));
  at("copy-python").addEventListener("click", () => copy("python", "the program"));
  at("save-png").addEventListener("click", () => save("api/grid.png", `${state.view.seeds[0]}.png`, { ...state.view, seeds: state.view.seeds.slice(0, 1) }));
  at("save-grid").addEventListener("click", () => save("api/grid.png", "images.png", state.view));
  at("save-gif").addEventListener("click", () => save("api/path.gif", "path.gif", state.view));
  at("save-snapshot").addEventListener("click", () => save("api/snapshot", "average.safetensors", state.view));
  at("save-card").addEventListener("click", () => save("api/card.zip", "card.zip", state.view));
}
