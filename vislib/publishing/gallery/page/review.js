// Rejects and notes on samples, questions and images: kept by the browser, saved as a removal list.
"use strict";

const REASONS = ["unfit", "wrong", "unsafe", "private", "rights"];
const UNITS = ["sample", "question", "image", "document", "link"];
const review = { entries: new Map(), kept: true, unsaved: false };
const shelf = "gallery review " + data.index.key;

try {
  for (const entry of JSON.parse(localStorage.getItem(shelf)) || []) put(entry);
  localStorage.setItem(shelf, JSON.stringify([...review.entries.values()]));
} catch { review.kept = false; }

function put(entry) {
  const key = `${entry.unit} ${entry.id}`;
  if (entry.reason || entry.note) review.entries.set(key, entry); else review.entries.delete(key);
}

const entryOf = (unit, id) => review.entries.get(`${unit} ${id}`) || { unit, id, reason: "", note: "" };

/** Change an entry; `sample` is where it can be seen again. */
function change(unit, id, sample, values) {
  put({ ...entryOf(unit, id), sample, ...values });
  keep();
}

function keep() {
  review.unsaved = true;
  try { if (review.kept) localStorage.setItem(shelf, JSON.stringify([...review.entries.values()])); } catch { review.kept = false; }
  dispatchEvent(new Event("reviewed"));
}

const lines = chosen => [...review.entries.values()].filter(chosen)
  .map(({ unit, id, reason, note }) => JSON.stringify({ unit, id, reason, note }) + "\n").join("");
const removals = () => lines(entry => entry.reason), notes = () => lines(entry => !entry.reason);

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  review.unsaved = false;
}

/** Add the entries of a saved list; all of them, or none if a line is no entry. */
function take(text) {
  const read = [];
  for (const [number, line] of text.split("\n").entries()) {
    if (!line.trim()) continue;
    let entry;
    try { entry = JSON.parse(line); } catch { entry = null; }
    const fits = entry && UNITS.includes(entry.unit) && ["id", "reason"].every(name => typeof entry[name] === "string");
    if (!fits) throw new Error(`Line ${number + 1} is no entry; nothing was loaded.`);
    const known = entryOf(entry.unit, entry.id), sample = entry.unit === "sample" ? entry.id : known.sample;
    read.push({ unit: entry.unit, id: entry.id, reason: entry.reason, note: String(entry.note || ""), sample });
  }
  read.forEach(put);
  return read.length;
}

/** Find the sample of entries from another browser: the texts of a sample hold the ids of its rounds. */
async function placeEntries() {
  const lost = [...review.entries.values()].filter(entry => !entry.sample);
  if (lost.length) await readTexts(() => {});
  for (const entry of lost) entry.sample = data.index.entries[texts.findIndex(text => text.includes(entry.id))]?.id;
}

/** The buttons that reject and note a unit, and its reason and note once there are any. */
function marker(unit, id, sample) {
  const reject = make("button", { className: "reject" }, "Reject");
  const note = make("button", { className: "note" }, "Note");
  const reason = make("select", { ariaLabel: "Reason" }, ...REASONS.map(name => make("option", { value: name }, name)));
  const words = make("input", { placeholder: "Why? (optional)", ariaLabel: `Note on this ${unit}`, maxLength: 1000, dir: "auto" });
  const said = make("span", { className: "said" }, reason, words);
  const made = make("span", { className: "marker" }, reject, note, said);
  let asked = false;
  const draw = () => {
    const entry = entryOf(unit, id);
    reject.setAttribute("aria-pressed", Boolean(entry.reason));
    reject.textContent = entry.reason ? "Rejected" : "Reject";
    if (entry.reason && !REASONS.includes(entry.reason) && ![...reason.options].some(o => o.value === entry.reason))
      reason.append(make("option", { value: entry.reason }, entry.reason));
    reason.hidden = !entry.reason;
    reason.value = entry.reason || REASONS[0];
    if (words !== document.activeElement) words.value = entry.note;
    said.hidden = !(entry.reason || entry.note || asked);
    made.parentElement?.closest("[data-unit]")?.classList.toggle("rejected", Boolean(entry.reason));
  };
  reject.onclick = () => change(unit, id, sample, { reason: entryOf(unit, id).reason ? "" : REASONS[0] });
  note.onclick = () => { asked = true; draw(); words.focus(); };
  reason.onchange = () => change(unit, id, sample, { reason: reason.value });
  words.oninput = () => change(unit, id, sample, { note: words.value });
  made.draw = draw;
  return made;
}

// ---- the dialog

function listEntries() {
  $("entries").replaceChildren(...[...review.entries.values()].map(entry => make("li", {},
    make("strong", {}, entry.unit), " ", make("code", {}, entry.id), ` ${entry.reason || "noted"}${entry.note ? ": " : ""}`,
    make("bdi", {}, entry.note),
    make("span", { className: "buttons" },
      entry.sample ? make("button", { onclick: () => { $("reviewed").close(); show(entry.sample); } }, "Show") : null,
      make("button", { onclick: () => { put({ ...entry, reason: "", note: "" }); keep(); } }, "Take back")))));
  $("save").disabled = !(($("lines").value = removals()));
  $("save-notes").hidden = !notes();
}

function countEntries() {
  $("marked").textContent = review.entries.size ? ` (${review.entries.size})` : "";
  $("lost").hidden = review.kept;
  document.querySelectorAll(".marker").forEach(one => one.draw());
  if ($("reviewed").open) listEntries();
}

addEventListener("reviewed", countEntries);
addEventListener("beforeunload", event => { if (!review.kept && review.unsaved) event.preventDefault(); });
$("review").onclick = () => { $("reviewed").showModal(); $("loaded").textContent = ""; listEntries(); };
$("save").onclick = () => save("removals.jsonl", removals());
$("save-notes").onclick = () => save("notes.jsonl", notes());
$("load").onchange = async () => {
  try {
    const number = take(await $("load").files[0].text());
    await placeEntries();
    keep();
    $("loaded").textContent = `${number} entries were loaded.`;
  } catch (error) { $("loaded").textContent = error.message; }
  $("load").value = "";
};
