// DOM helpers that never parse text as markup.

// Create an element. `parts` are elements or strings; `data-`, `aria-`, role, scope and for become attributes.
export function element(tag, properties = {}, ...parts) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(data-|aria-|role$|scope$|for$)/.test(name)) created.setAttribute(name, value);
    else created[name] = value;
  }
  created.append(...parts);
  return created;
}

// Create an SVG element.
export function drawing(tag, attributes = {}, ...parts) {
  const created = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  created.append(...parts);
  return created;
}

export function byId(id) {
  return document.getElementById(id);
}
