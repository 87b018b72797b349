// The rows of the gallery. They come as scripts, since a page that is opened from the disk may read
// no other file; a few chunks are held at a time, so that a large gallery does not fill the memory.
"use strict";

const HELD = 12;  // chunks
const data = {};  // what the scripts below data/ set: `index`, and chunks of samples by their names
const held = new Map(), texts = [];

const address = name => `data/${/^\d{5}$/.exec(name)[0]}.js`;
const scripts = window.trustedTypes
  ? trustedTypes.createPolicy("chunks", { createScriptURL: address })
  : { createScriptURL: address };
const waiting = new Map();

/** The samples of a chunk. */
function load(number) {
  const rows = held.get(number);
  if (rows) {
    held.delete(number);
    held.set(number, rows);  // the last one used goes last
    return Promise.resolve(rows);
  }
  if (!waiting.has(number)) waiting.set(number, read(number).finally(() => waiting.delete(number)));
  return waiting.get(number);
}

function read(number) {
  const name = String(number).padStart(5, "0");
  return new Promise((done, fail) => {
    const script = document.createElement("script");
    script.src = scripts.createScriptURL(name);
    script.onload = () => {
      script.remove();
      const rows = data[name];
      delete data[name];
      if (!rows) return fail(new Error(`data/${name}.js holds no samples`));
      if (held.set(number, rows).size > HELD) held.delete(held.keys().next().value);
      done(rows);
    };
    script.onerror = () => fail(new Error(`data/${name}.js cannot be read; it belongs beside this page`));
    document.head.append(script);
  });
}

/** The sample of that place in the list of all. */
async function sampleAt(place) {
  const rows = await load(Math.floor(place / data.index.per_chunk));
  return rows[place % data.index.per_chunk];
}

/** Read the texts of all samples for a search; `tell(share)` after each chunk. */
async function readTexts(tell) {
  const { per_chunk: size } = data.index, chunks = Math.ceil(data.index.entries.length / size);
  for (let number = 0; number < chunks; number++) {
    if (texts[number * size] !== undefined) continue;
    (await load(number)).forEach((row, i) => { texts[number * size + i] = textOf(row); });
    tell((number + 1) / chunks);
  }
}

function textOf(row) {
  return [
    row.sample_id, row.page_url, row.alt_text, row.context, row.image.image_id, row.image.image_url,
    ...row.captions.map(caption => caption.caption.join("")),
    ...row.rounds.flatMap(round => [round.asked, round.answer.join(""), round.question_id]),
    ...row.dropped.flatMap(lost => [lost.reason, lost.text]),
  ].join("\n").toLowerCase();
}

// ---- what all parts of the page build with: text becomes text nodes, never markup

const $ = id => document.getElementById(id);
// Characters that turn the direction of what follows could make a text read as another.
const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;
const visible = text => String(text).replace(TURNS, c => `⟨U+${c.codePointAt(0).toString(16).toUpperCase()}⟩`);

/** An element with properties and children; a child that is no element is shown as text. */
function make(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter(child => child !== null).map(child => child instanceof Node ? child : visible(child)));
  return made;
}
