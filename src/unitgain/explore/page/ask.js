// Questions to the server, and small things that every part of the page needs. What comes from the server is text: it is
// put into the page as text, never as markup.

export const at = (id) => document.getElementById(id);

export function make(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// A table with these heads and nothing else; the cells of its rows.
export function tabulate(table, caption, corner, heads, rows) {
  table.replaceChildren();
  table.createCaption().textContent = caption;
  table.createTHead().insertRow().append(make("td", corner), ...heads.map((text) => make("th", text, { scope: "col" })));
  const body = table.createTBody();
  return rows.map((text) => {
    const line = body.insertRow();
    line.append(make("th", text, { scope: "row" }));
    return heads.map(() => line.insertCell());
  });
}

// The answer to a question; its error as the server tells it.
export async function request(path, data, signal) {
  const posted = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) };
  let answer;
  try {
    answer = await fetch(path, { ...(data === undefined ? {} : posted), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is unitgain explore still running?");
  }
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

export const ask = async (path, data) => (await request(path, data)).json();

// Lines of JSON as they come; ends with the signal.
export async function* lines(path, data, signal) {
  const answer = await request(path, data, signal), reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
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

export function fail(error) {
  if (error.name !== "AbortError") at("error").textContent = error.message;
}

export const short = (value) => Number(value.toPrecision(6)).toString();
