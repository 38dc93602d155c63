// Making elements. What comes from outside goes in as text, never as HTML.

export const byId = (id) => document.getElementById(id);

// el("p", { class: "dim", text: "…" }, child, …): `text`, `on` (listeners) and `style` are special, null leaves out.
export function el(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  set(element, given);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, given = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(given)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function set(element, given) {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, heard] of Object.entries(value)) element.addEventListener(event, heard);
    else if (name === "style") for (const [key, css] of Object.entries(value)) element.style.setProperty(key, css);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

// A text that changes often: the document is touched only when it does.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function classes(element, name) {
  if (element.className !== name) element.className = name;
}

// A table with its head; columns are [text, class]; `fill(rows)` takes arrays of cells (texts or elements), the first a heading.
export function table(id, caption, columns) {
  const body = el("tbody");
  const head = columns.map(([text, name]) => el("th", { scope: "col", class: name, text }));
  const element = el("table", { id }, el("caption", { class: "hide", text: caption }), el("thead", {}, el("tr", {}, head)), body);
  const cell = (value, i) => {
    const made = el(i ? "td" : "th", { scope: i ? null : "row", class: columns[i][1] });
    made.append(value ?? "");
    return made;
  };
  const at = columns.findIndex(([, name]) => name === "why");
  // On a narrow screen the note stands below its row: there is no place beside it; what is marked as calm need not be said there.
  const below = (made) => {
    const note = at < 0 || made.children[at].querySelector("[data-calm]") ? "" : made.children[at].textContent;
    return note ? [made, el("tr", { class: "below" }, el("td", { colspan: columns.length }, [...made.children[at].childNodes].map((node) => node.cloneNode(true))))] : [made];
  };
  const fill = (rows) => body.replaceChildren(...rows.flatMap((row) => below(el("tr", {}, row.map(cell)))));
  return { element: el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption }, element), fill, body };
}

export function section(id, title, ...children) {
  const note = el("p", { class: "dim note" });
  const head = el("div", { class: "head" }, el("h2", { id: `${id}-head`, text: title }), note);
  const element = el("section", { id, "aria-labelledby": `${id}-head` }, head, children);
  return { element, head, note };
}
