// Update one DOM tree to equal another with few changes, so that unchanged elements keep focus, selection and
// scroll position and do not flicker.
export function morph(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((wanted, index) => {
    const current = before[index];
    if (current === undefined) old.append(wanted);
    else if (current.nodeType !== wanted.nodeType || current.nodeName !== wanted.nodeName) current.replaceWith(wanted);
    else if (current.nodeType === Node.ELEMENT_NODE) {
      attributes(current, wanted);
      morph(current, wanted);
    } else if (current.nodeValue !== wanted.nodeValue) current.nodeValue = wanted.nodeValue;
  });
  for (const surplus of before.slice(after.length)) surplus.remove();
}

function attributes(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}
