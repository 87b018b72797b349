// Keys and events; the last script, as it starts the page.
"use strict";

const wide = matchMedia("(min-width: 56rem)");

/** The marker that x and n act on: of the round in focus, else of the sample. */
const current = () => (document.activeElement.closest(".round[data-unit]") || $("sample").querySelector(".unit"))?.querySelector(".marker");

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  "/": () => { document.body.dataset.view = "list"; $("search").focus(); },
  x: () => current()?.querySelector(".reject").click(),
  n: () => current()?.querySelector(".note").click(),
  b: () => $("boxes")?.click(),
  "?": () => $("keys").showModal(),
  Escape: () => { if (!wide.matches) $("back").click(); },
};

addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input, textarea, select")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.matches(".said input, #search"))) event.target.blur();
    return;
  }
  const inList = event.target === $("rows") && { ArrowDown: KEYS.j, ArrowUp: KEYS.k, Enter: () => $("sample").focus() }[event.key];
  const act = inList || (Object.hasOwn(KEYS, event.key) && KEYS[event.key]);
  if (!act) return;
  event.preventDefault();
  act();
});

let painting = 0;
const paintSoon = () => { painting ||= requestAnimationFrame(() => { painting = 0; paint(); }); };
$("rows").addEventListener("scroll", paintSoon, { passive: true });
new ResizeObserver(paintSoon).observe($("rows"));

let typing = 0;
$("search").oninput = () => { clearTimeout(typing); typing = setTimeout(search, 150); };
FILTERS.forEach(name => { $(name).onchange = filter; });
addEventListener("reviewed", () => {
  list.verdicts = verdictsBySample();
  list.rows.forEach((row, n) => fill(row, n));
});
$("back").onclick = () => { location.hash = ""; $("rows").focus(); };
$("help").onclick = KEYS["?"];
addEventListener("hashchange", fromAddress);

$("filters").open = wide.matches;
list.verdicts = verdictsBySample();
filter();
countEntries();
fromAddress();
if (!view.row && wide.matches && entries.length && document.body.dataset.view === "list" && !location.hash) show(entries[0].id);
