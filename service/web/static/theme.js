// Light, dark, or what the system says. Not a module: it has to run before the page is painted.
(() => {
  const root = document.documentElement;
  const KEY = "weighin-theme";

  function stored() {
    try {
      const found = localStorage.getItem(KEY);
      return found === "light" || found === "dark" ? found : "";
    } catch {
      return ""; // storage is forbidden: the choice lasts as long as the page
    }
  }

  function apply(theme) {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    // for what does not follow CSS by itself, such as charts
    document.dispatchEvent(new CustomEvent("themechange"));
  }

  apply(stored());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(stored()));

  document.addEventListener("DOMContentLoaded", () => {
    const select = document.getElementById("theme");
    select.value = root.dataset.theme ?? "";
    select.addEventListener("change", () => {
      try {
        localStorage.setItem(KEY, select.value);
      } catch {
        // see above
      }
      apply(select.value);
    });
  });
})();
