// Light or dark: as the system says, until the switch says otherwise; kept in this browser.

import { emit } from "./api.js";
import { t } from "./texts.js";

const ORDER = ["system", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try {
    return ORDER.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system";
  } catch { // a browser may refuse to keep anything
    return "system";
  }
}

function apply(choice) {
  document.documentElement.dataset.theme = choice === "system" ? (dark.matches ? "dark" : "light") : choice;
  emit("theme");
}

export function setUpTheme(button) {
  const show = (choice) => {
    button.textContent = `◐ ${t(`theme.${choice}`)}`;
    button.setAttribute("aria-label", t("theme.label", { now: t(`theme.${choice}`) }));
  };
  button.addEventListener("click", () => {
    const next = ORDER[(ORDER.indexOf(chosen()) + 1) % ORDER.length];
    try {
      localStorage.setItem("theme", next);
    } catch { /* it holds until the page is left */ }
    apply(next);
    show(next);
  });
  dark.addEventListener("change", () => apply(chosen()));
  apply(chosen());
  show(chosen());
}

// A colour of the style sheet, for what is drawn on a canvas.
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
