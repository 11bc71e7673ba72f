// Colours of the current theme, for drawings that CSS does not style.
const probe = document.createElement("span");
probe.hidden = true;

// Resolve a custom property such as "--ink" to a colour such as "rgb(27, 31, 36)".
export function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
