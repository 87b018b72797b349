// One sample: its image, page, captions, conversations, what was set aside, and who wrote what.
"use strict";

const view = { row: null, talk: "", boxes: true };

/** A sentence-like name: non_contextual becomes non-contextual. */
const plain = name => name.replaceAll("_", "-");
const prose = (className, ...children) => make("p", { className, dir: "auto" }, ...children);
/** Text whose odd pieces are words that the page gave. */
const given = pieces => pieces.map((piece, i) => i % 2 ? make("span", { className: "given" }, piece) : piece);

/** A link that tells nobody where it was found; other schemes than http and https are text. */
function link(url) {
  if (!/^https?:\/\//i.test(url)) return make("bdi", { className: "url" }, url || "unknown");
  return make("a", { className: "url", href: url, rel: "noopener noreferrer nofollow", referrerPolicy: "no-referrer", target: "_blank" }, make("bdi", {}, url));
}

function section(title, ...children) {
  return make("section", {}, make("h2", {}, title), ...children);
}

function picture(row) {
  const { image } = row, facts = [image.format, image.width && `${image.width} × ${image.height}`].filter(Boolean).join(", ");
  if (!image.shown) return section("Image", prose("soft", `No image: ${image.reason || "no row in the ledger of images"}`), prose("url", image.image_url || ""));
  const shown = make("img", { src: `images/${image.shown}`, alt: row.alt_text || "The image of this sample" });
  const frame = make("div", { className: "frame" }, make("button", { className: "zoomer", ariaLabel: "Enlarge the image", onclick: () => zoom(shown) }, shown));
  const found = row.priors[0] || { tags: [], boxes: [], texts: [] }, any = found.boxes.length + found.texts.length;
  found.boxes.forEach(box => frame.append(outline("object", box, box.label)));
  found.texts.forEach((text, i) => frame.append(outline("text", text, String(i + 1))));
  frame.classList.toggle("plain", !view.boxes);
  const toggle = make("button", { id: "boxes", onclick: () => { view.boxes = !view.boxes; draw(); $("boxes")?.focus(); } }, make("kbd", {}, "b"), "Boxes and texts");
  toggle.setAttribute("aria-pressed", view.boxes);
  const made = make("section", { className: "picture" }, frame,
    make("p", { className: "buttons" }, any ? toggle : null, make("span", { className: "soft" }, [image.image_id, facts].filter(Boolean).join(" · "))),
    make("p", { className: "buttons" }, make("span", { className: "soft" }, "This image, wherever it stands:"), marker("image", image.image_id, row.sample_id)),
    ...(row.priors.length ? [experts(found)] : []));
  made.dataset.unit = "image";
  return made;
}

function outline(className, box, label) {
  const made = make("span", { className: `box ${className}` }, make("b", {}, label));
  const percent = value => `${100 * Math.min(1, Math.max(0, Number(value) || 0))}%`;
  Object.assign(made.style, { left: percent(box.x1), top: percent(box.y1), width: percent(box.x2 - box.x1), height: percent(box.y2 - box.y1) });
  return made;
}

function experts(found) {
  const score = one => Number(one.score).toFixed(2);
  const lists = [
    ["Tags", found.tags.map(tag => `${tag.label} ${score(tag)}`)],
    ["Objects", found.boxes.map(box => `${box.label} ${score(box)} (${box.expert})`)],
    ["Visible text", found.texts.map((text, i) => `${i + 1} ${text.text} ${score(text)}`)],
  ].filter(([, items]) => items.length);
  return make("details", { className: "experts" }, make("summary", {}, "What experts found in it"),
    lists.length ? facts(lists.map(([name, items]) => [name, make("ul", {}, ...items.map(item => make("li", { dir: "auto" }, item)))]))
      : prose("soft", "Nothing."));
}

const facts = pairs => make("dl", { className: "facts" }, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));

function page(row) {
  const others = part => part.split("<another-image>").flatMap((text, i) => i ? [make("span", { className: "other" }, "another image"), text] : [text]);
  const around = row.context.split("<image>").flatMap((part, i) => i ? [make("mark", {}, "this image"), ...others(part)] : others(part));
  const text = make("div", { className: "context", dir: "auto", tabIndex: 0, role: "region", ariaLabel: "The text of the page" }, ...around);
  const made = section("Page", facts([["address", link(row.page_url)], ["alternative text", make("bdi", {}, row.alt_text || "none")], ["licence", make("bdi", {}, row.licence || "not recorded")]]), text);
  return made;
}

function captions(row) {
  const words = new Map(entries[places.get(row.sample_id)].captions);
  const shown = row.captions.map(caption => make("article", {},
    make("h3", {}, plain(caption.kind), make("span", { className: "soft" }, ` ${counts(words.get(caption.kind))} words · ${caption.model || "unknown"}`),
      caption.reason ? make("span", { className: "chip bad" }, caption.reason) : null),
    prose("text", ...given(caption.caption))));
  return section("Captions", ...(shown.length ? shown : [prose("soft", "None.")]));
}

function conversation(row) {
  const names = [...new Set(row.talks.map(talk => talk.name))].sort();
  if (!names.length) return section("Conversation", prose("soft", "None: this sample stands in no configuration."));
  const name = names.find(one => one === view.talk) || names.find(one => one === $("configuration").value) || names.find(one => one.endsWith("/leaky_mix")) || names[0];
  const choice = make("select", { ariaLabel: "Configuration", onchange: () => { view.talk = choice.value; draw(); } },
    ...names.map(one => make("option", { value: one }, plain(one).replace("/", " · "))));
  choice.value = name;
  const talks = row.talks.filter(talk => talk.name === name);
  return section("Conversation", make("p", { className: "buttons" }, choice, make("span", { className: "soft" }, talks[0].split)),
    ...talks.map(talk => make("div", { className: "talk" }, ...talk.rounds.map(n => round(row, row.rounds[n])))));
}

function round(row, said) {
  const made = make("article", { className: "round" },
    make("div", { className: "buttons" }, make("span", { className: "chip" }, plain(said.source)),
      said.question_id ? marker("question", said.question_id, row.sample_id) : null),
    prose("human", said.asked), prose("assistant", ...given(said.answer)));
  if (said.question_id) Object.assign(made.dataset, { unit: "question", id: said.question_id });
  made.tabIndex = 0;
  return made;
}

function lost(row) {
  if (!row.dropped.length) return null;
  const shown = row.dropped.map(one => make("li", {},
    make("span", { className: "chip bad" }, one.reason), make("span", { className: "soft" }, ` ${one.stage} · ${one.id} `),
    make("bdi", {}, one.detail && one.detail !== one.text ? one.detail : ""), one.text ? prose("text", one.text) : null));
  return section("Set aside", make("ul", { className: "lost" }, ...shown));
}

function makers(row) {
  const written = [...row.captions.map(one => [`caption, ${plain(one.kind)}`, one]), ...row.rounds.filter(one => one.source !== "caption").map(one => [plain(one.source), one])];
  const lines = new Map(written.filter(([, one]) => one.model).map(([what, one]) => [[what, one.model, one.prompt_sha, one.request_sha].join("\n"), [what, one.model, one.prompt_sha, one.request_sha]]));
  if (!lines.size) return null;
  const head = ["what", "model", "prompt", "request"].map(name => make("th", { scope: "col" }, name));
  const body = [...lines.values()].map(cells => make("tr", {}, ...cells.map((cell, i) => make("td", {}, i > 1 ? make("code", {}, cell || "") : cell))));
  return section("Who wrote it", make("div", { className: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body))));
}

/** Show `view.row` anew. */
function draw() {
  const { row } = view;
  const turn = (by, label, sign) => make("button", { ariaLabel: label, onclick: () => step(by) }, sign);
  const unit = make("div", { className: "unit buttons head" }, turn(-1, "Previous sample", "‹"), turn(1, "Next sample", "›"),
    make("h2", {}, make("code", {}, row.sample_id)), marker("sample", row.sample_id, row.sample_id));
  unit.dataset.unit = "sample";
  $("sample").replaceChildren(unit, make("div", { className: "columns" },
    make("div", {}, picture(row), page(row)),
    make("div", {}, captions(row), conversation(row), ...[lost(row), makers(row)].filter(Boolean))));
  document.querySelectorAll(".marker").forEach(one => one.draw());
  const mark = $("sample").querySelector(".context mark");
  if (mark) mark.parentElement.scrollTop = mark.offsetTop - mark.parentElement.clientHeight / 3;
  light();
}

/** Highlight the words that are searched for. */
function light() {
  if (!CSS.highlights) return;
  const terms = searched(), ranges = [], walker = document.createTreeWalker($("sample"), NodeFilter.SHOW_TEXT);
  while (terms.length && walker.nextNode()) {
    const node = walker.currentNode, text = node.data.toLowerCase();
    if (text.length !== node.length) continue;  // a letter that changes its length has no sure place
    for (const term of terms)
      for (let at = text.indexOf(term); at >= 0 && ranges.length < 1000; at = text.indexOf(term, at + term.length))
        ranges.push(new StaticRange({ startContainer: node, startOffset: at, endContainer: node, endOffset: at + term.length }));
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

function zoom(image) {
  Object.assign($("large"), { src: image.src, alt: image.alt });
  $("zoom").showModal();
}
$("zoom").onclick = () => $("zoom").close();
