// Keeps the figures current without touching the form: fetches the same page and swaps its `figures` part.
const PERIOD_MS = 5000;
const state = document.getElementById("refresh");

async function refresh() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!response.ok) throw new Error(`${response.status}`);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const shown = document.getElementById("figures");
  const scrolled = shown.querySelector(".scroll")?.scrollLeft ?? 0;
  const fresh = document.adoptNode(page.getElementById("figures"));
  shown.replaceWith(fresh);
  const table = fresh.querySelector(".scroll");
  if (table) table.scrollLeft = scrolled;
}

// A reader who has put the focus or a selection into the figures is not disturbed.
function busy() {
  const shown = document.getElementById("figures");
  const selection = getSelection();
  return shown.contains(document.activeElement) || (!selection.isCollapsed && shown.contains(selection.anchorNode));
}

async function tick() {
  if (!document.hidden && !busy()) {
    try {
      await refresh();
      state.textContent = `Refreshed every ${PERIOD_MS / 1000} s.`;
    } catch {
      state.textContent = "The service does not answer; the figures are no longer current.";
    }
  }
  setTimeout(tick, PERIOD_MS);
}

setTimeout(tick, PERIOD_MS);
