// Makes one piece of a page like another with as few changes as possible: what stays the same keeps its
// focus, its selection, its scroll position, and does not flicker.
export function morph(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((wanted, index) => {
    const there = before[index];
    if (there === undefined) old.append(wanted);
    else if (there.nodeType !== wanted.nodeType || there.nodeName !== wanted.nodeName) there.replaceWith(wanted);
    else if (there.nodeType === Node.ELEMENT_NODE) {
      attributes(there, wanted);
      morph(there, wanted);
    } else if (there.nodeValue !== wanted.nodeValue) there.nodeValue = wanted.nodeValue;
  });
  for (const gone of before.slice(after.length)) gone.remove();
}

function attributes(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}
