/** The two panels at the sides: columns where there is room, drawers over the page where not. */

import { byId } from "./dom.js";

const NARROW = { side: matchMedia("(max-width: 59.99rem)"), settings: matchMedia("(max-width: 74.99rem)") };
let opener = null;

export const isOpen = (name) => document.body.classList.contains(`${name}-open`);

const isDrawer = (name) => isOpen(name) && NARROW[name].matches;

/** Opens or closes a panel; a drawer takes the focus and gives it back. */
export function setPanel(name, open) {
  const was = isDrawer(name);
  if (open && NARROW[name].matches) {
    for (const other of Object.keys(NARROW)) if (isDrawer(other)) setPanel(other, false);
    opener = document.activeElement;
  }
  document.body.classList.toggle(`${name}-open`, open);
  byId(`open-${name}`).setAttribute("aria-expanded", open);
  settle();
  if (isDrawer(name)) byId(name).querySelector("button, input, select, textarea").focus();
  else if (was) (opener ?? byId(`open-${name}`)).focus();
}

/** Behind a drawer nothing can be reached. */
function settle() {
  const drawer = Object.keys(NARROW).find(isDrawer);
  byId("middle").inert = Boolean(drawer);
  for (const name of Object.keys(NARROW)) byId(name).inert = Boolean(drawer) && name !== drawer;
  byId("scrim").hidden = !drawer;
}

/** Escape in a drawer closes it; true where there was one. */
export function closeDrawer() {
  const drawer = Object.keys(NARROW).find(isDrawer);
  if (drawer) setPanel(drawer, false);
  return Boolean(drawer);
}

/** `seen` is called when a panel comes into view. */
export function startPanels(seen) {
  for (const [name, query] of Object.entries(NARROW)) {
    byId(`open-${name}`).addEventListener("click", () => {
      setPanel(name, !isOpen(name));
      seen();
    });
    byId(name).querySelector(".close-panel").addEventListener("click", () => setPanel(name, false));
    query.addEventListener("change", settle);
  }
  byId("scrim").addEventListener("click", closeDrawer);
}
