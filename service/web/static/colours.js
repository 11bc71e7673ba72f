// The page's colours as the current theme has them, for drawing on what CSS does not reach.
const probe = document.createElement("span");
probe.hidden = true;

// `name` is that of a custom property, such as "--ink"; the answer is a colour like "rgb(27, 31, 36)".
export function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
