// The list of samples: search, filters, and as many rows in the page as fit the window.
"use strict";

const HEIGHT = 84;  // px of a row, as in gallery.css
const list = { shown: [], at: -1, rows: new Map(), free: [], searching: 0 };
const { entries } = data.index;
const places = new Map(entries.map((entry, place) => [entry.id, place]));
const FILTERS = ["reason", "kind", "type", "configuration", "least", "most", "verdict"];

const searched = () => $("search").value.toLowerCase().split(/\s+/).filter(Boolean);

/** What an entry is filtered by: whatever of it a field may name. */
const values = {
  reason: entry => [entry.configurations.length ? "kept" : "in no conversation", ...entry.reasons],
  kind: entry => entry.captions.map(([kind]) => kind),
  type: entry => entry.types,
  configuration: entry => entry.configurations,
};

function matches(place, terms, verdicts) {
  const entry = entries[place];
  for (const name in values) if ($(name).value && !values[name](entry).includes($(name).value)) return false;
  const least = Number($("least").value), most = Number($("most").value) || Infinity, kind = $("kind").value;
  if ((least || most < Infinity) && !entry.captions.some(([one, words]) => (!kind || one === kind) && words >= least && words <= most)) return false;
  const verdict = $("verdict").value;
  if (verdict && (verdicts.get(entry.id) || "open") !== verdict) return false;
  const text = texts[place] ?? `${entry.title}\n${entry.page}\n${entry.id}`.toLowerCase();
  return terms.every(term => text.includes(term));
}

/** By sample: whether it, or one of its rounds, was rejected or noted. */
function verdictsBySample() {
  const found = new Map();
  for (const { sample, reason } of review.entries.values())
    if (found.get(sample) !== "rejected") found.set(sample, reason ? "rejected" : "noted");
  return found;
}

function filter() {
  const terms = searched(), verdicts = verdictsBySample(), id = entries[list.shown[list.at]]?.id;
  list.shown = [];
  entries.forEach((_, place) => { if (matches(place, terms, verdicts)) list.shown.push(place); });
  list.at = list.shown.indexOf(places.get(id));
  $("all").style.height = `${list.shown.length * HEIGHT}px`;
  const active = FILTERS.filter(name => $(name).value).length;
  $("active").textContent = active ? ` (${active})` : "";
  tell();
  list.rows.forEach(free);
  paint();
}

function tell(share = 1) {
  const counted = list.shown.length === entries.length ? `${counts(entries.length)} samples` : `${counts(list.shown.length)} of ${counts(entries.length)} samples`;
  $("status").textContent = share < 1 ? `${counted} · searching, ${Math.round(100 * share)} %` : counted;
}
const counts = number => number.toLocaleString("en");

async function search() {
  const turn = ++list.searching;
  filter();
  light();
  if (!searched().length || texts.filter(text => text !== undefined).length === entries.length) return;
  let last = performance.now();
  await readTexts(share => {
    if (turn !== list.searching) return;
    if (share === 1 || performance.now() - last > 300) { filter(); last = performance.now(); }
    tell(share);
  });
}

// ---- rows: only those in sight are in the page, and they are used again

function paint() {
  const box = $("rows"), first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - 4);
  const last = Math.min(list.shown.length, Math.ceil((box.scrollTop + box.clientHeight) / HEIGHT) + 4);
  list.rows.forEach((row, n) => { if (n < first || n >= last) free(row, n); });
  for (let n = first; n < last; n++) if (!list.rows.has(n)) list.rows.set(n, fill(list.free.pop() || blank(), n));
}

function free(row, n) {
  list.rows.delete(n);
  row.hidden = true;
  list.free.push(row);
}

function blank() {
  const row = make("div", { className: "row" }, make("img", { alt: "", decoding: "async" }), make("div", { className: "title", dir: "auto" }), make("div", { className: "soft" }), make("div", { className: "chips" }));
  row.setAttribute("role", "option");
  row.onclick = () => show(entries[list.shown[row.n]].id, true);
  $("all").append(row);
  return row;
}

function fill(row, n) {
  const entry = entries[list.shown[n]], [image, title, host, chips] = row.children;
  row.n = n;
  row.id = `row${n}`;
  row.hidden = false;
  row.style.transform = `translateY(${n * HEIGHT}px)`;
  row.ariaSelected = n === list.at;
  row.ariaSetSize = list.shown.length;
  row.ariaPosInSet = n + 1;
  if (entry.image) image.src = `thumbs/${entry.image}`; else image.removeAttribute("src");
  title.textContent = visible(entry.title.replace(/<(another-)?image>/g, " … "));
  host.textContent = visible(entry.page.replace(/^https?:\/\//, ""));
  const verdict = list.verdicts.get(entry.id), words = Math.max(0, ...entry.captions.map(([, n]) => n));
  chips.replaceChildren(...[
    verdict && make("span", { className: `chip ${verdict}` }, verdict),
    words && make("span", { className: "chip" }, `${words} words`),
    ...entry.reasons.slice(0, 2).map(reason => make("span", { className: "chip bad" }, reason)),
  ].filter(Boolean));
  return row;
}

// ---- which one is shown; the address names it, so that it can be sent and gone back to

async function show(id, byHand = false) {
  const name = "#" + encodeURIComponent(id);
  if (location.hash !== name) {
    // a step of j or k is none of the browser's back button
    if (byHand) location.hash = name; else location.replace(name);
    return;
  }
  if (!places.has(id)) return;
  try { view.row = await sampleAt(places.get(id)); } catch (error) { $("sample").replaceChildren(prose("soft", error.message)); return; }
  document.body.dataset.view = "sample";
  draw();
  $("sample").scrollTop = 0;
  select(list.shown.indexOf(places.get(id)));
}

function select(n) {
  list.at = n;
  list.rows.forEach(row => { row.ariaSelected = row.n === n; });
  if (n < 0) return;
  const box = $("rows"), top = n * HEIGHT;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + HEIGHT - box.clientHeight;
  paint();
  box.setAttribute("aria-activedescendant", `row${n}`);
}

function step(by) {
  const n = Math.min(Math.max(list.at + by, 0), list.shown.length - 1);
  if (n >= 0 && n !== list.at) { select(n); show(entries[list.shown[n]].id); }
}

function offer(name) {
  const number = new Map();
  for (const entry of entries) for (const value of new Set(values[name](entry))) number.set(value, (number.get(value) || 0) + 1);
  $(name).append(make("option", { value: "" }, "any"),
    ...[...number].sort(([a], [b]) => a < b ? -1 : 1).map(([value, n]) => make("option", { value }, `${plain(value)} (${counts(n)})`)));
}

function fromAddress() {
  let id = "";
  try { id = decodeURIComponent(location.hash.slice(1)); } catch { /* no id of ours */ }
  if (places.has(id)) show(id); else document.body.dataset.view = "list";
}

Object.keys(values).forEach(offer);
$("name").textContent = document.title = visible(`Gallery: ${data.index.name}`);
$("whole").textContent = entries.length < data.index.samples ? `a seeded choice of ${counts(entries.length)} of ${counts(data.index.samples)} samples` : "";
$("drops").tBodies[0].append(...data.index.drops.map(cells => make("tr", {}, ...cells.map(cell => make("td", {}, cell)))));
