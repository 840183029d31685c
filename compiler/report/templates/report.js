// Everything works without this: it only opens and closes all folds at once, and before printing.
"use strict";
const folds = document.querySelectorAll("details");
const button = document.getElementById("folds");
button.hidden = false;
button.addEventListener("click", () => {
  const open = button.getAttribute("aria-pressed") !== "true";
  folds.forEach((fold) => { fold.open = open; });
  button.setAttribute("aria-pressed", String(open));
  button.textContent = open ? "Close all details" : "Open all details";
});
window.addEventListener("beforeprint", () => folds.forEach((fold) => { fold.open = true; }));
