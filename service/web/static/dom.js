// Making elements without ever parsing text as markup.

// `parts` are elements or texts; of `properties`, `data-` and `aria-` ones and `role` become attributes.
export function element(tag, properties = {}, ...parts) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(data-|aria-|role$|scope$|for$)/.test(name)) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...parts);
  return made;
}

export function byId(id) {
  return document.getElementById(id);
}
