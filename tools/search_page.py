"""The search page: one HTML document, its style and its script, without anything from elsewhere."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Picture search</title>
<link rel="stylesheet" href="/style.css">
<link rel="icon" href="/icon.svg">
</head>
<body>
<header>
  <form id="search" role="search">
    <input id="query" type="search" placeholder="Describe a picture" aria-label="Describe a picture" maxlength="1000"
      autocomplete="off" autofocus>
    <button type="submit">Search</button>
    <label class="button" for="file">Use a picture</label>
    <input id="file" type="file" accept="image/jpeg,image/png,image/gif,image/bmp,image/webp">
  </form>
  <p id="about"></p>
</header>
<main>
  <section id="upload" hidden>
    <img id="preview" alt="the picture you chose">
    <div>
      <h2>Labels for this picture</h2>
      <form id="label-form">
        <textarea id="labels" rows="3" aria-label="Labels, one a line" placeholder="One label a line"></textarea>
        <button type="submit">Compare</button>
      </form>
      <ol id="label-results"></ol>
    </div>
  </section>
  <p id="status" role="status"></p>
  <details id="reading">
    <summary>How to read the scores</summary>
    <p id="reading-sigmoid"><b>match</b> is the model's probability that this picture and this text belong together,
    judged alone. It is absolute and often small for a good match too, because the model learned from batches in which
    one text out of thousands fits a picture: 2 % beside 0.01 % is a clear answer. Trust the order and the ratios.
    Between two pictures it has no such meaning, so the cosine stands there.</p>
    <p><b>share</b> compares only the labels you typed: shares sum to 100 %, even when none of the labels fits.</p>
  </details>
  <ol id="results"></ol>
</main>
<dialog id="viewer">
  <img id="large" alt=""><p id="large-name"></p><button id="close" aria-label="Close">Close</button>
</dialog>
<script src="/script.js"></script>
</body>
</html>
"""

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#2f55d4"/>'
    '<circle cx="7" cy="7" r="3.5" fill="none" stroke="#fff" stroke-width="1.6"/>'
    '<path d="M9.6 9.6 13 13" stroke="#fff" stroke-width="1.8" stroke-linecap="round"/></svg>'
)

STYLE = """
:root { --ink: #1b2130; --soft: #667085; --line: #dfe3ea; --paper: #fff; --ground: #f5f6f8; --accent: #2f55d4;
  --accent-ink: #fff; --shade: #0000000f }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf1; --soft: #98a2b3; --line: #2b3343; --paper: #171c27;
  --ground: #0f131b; --accent: #8aa4ff; --accent-ink: #0f131b; --shade: #0006 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
header { position: sticky; top: 0; z-index: 1; background: var(--paper); border-bottom: 1px solid var(--line);
  padding: 16px 24px 10px }
header p { margin: 6px 2px 0; color: var(--soft); font-size: 13px }
#search { display: flex; gap: 8px; flex-wrap: wrap; max-width: 920px }
input[type=search] { flex: 1; min-width: 220px }
input[type=search], textarea { font: inherit; color: inherit; background: var(--ground); border: 1px solid var(--line);
  border-radius: 8px; padding: 9px 12px }
input[type=search]:focus, textarea:focus, button:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px }
#file { position: absolute; opacity: 0; width: 1px; height: 1px }
#file:focus-visible + *, label.button:focus-within { outline: 2px solid var(--accent) }
button, .button { font: inherit; border: 1px solid var(--accent); background: var(--accent); color: var(--accent-ink);
  border-radius: 8px; padding: 9px 16px; cursor: pointer }
.button { background: transparent; color: var(--accent) }
main { padding: 20px 24px 60px }
#status { color: var(--soft); margin: 0 2px 14px; min-height: 24px }
#status.error { color: #c0341d }
#results { list-style: none; margin: 0; padding: 0; display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(176px, 1fr)) }
#results li { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; overflow: hidden;
  box-shadow: 0 1px 3px var(--shade) }
#results button { all: unset; cursor: zoom-in; display: block; width: 100% }
#results button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px }
#results img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--ground) }
#results .text { padding: 8px 10px; font-size: 13px; line-height: 1.4 }
#results .text span { display: block } #results .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
#results .score { color: var(--soft); white-space: nowrap; font-variant-numeric: tabular-nums }
#upload:not([hidden]) { display: flex; gap: 24px; flex-wrap: wrap; background: var(--paper); border-radius: 12px;
  border: 1px solid var(--line); padding: 18px; margin-bottom: 18px }
#upload > div { flex: 1; min-width: 280px } #upload h2 { font-size: 16px; margin: 0 0 8px }
#preview { width: 220px; height: 220px; object-fit: contain; background: var(--ground); border-radius: 8px }
#label-form { display: flex; gap: 8px; align-items: flex-start } #label-form textarea { flex: 1 }
#label-results { list-style: none; padding: 0; margin: 12px 0 0; font-size: 14px }
#label-results li { display: grid; grid-template-columns: minmax(90px, 1fr) 3fr 132px 142px; gap: 10px; padding: 3px 0;
  align-items: center; overflow-wrap: anywhere }
#label-results meter { width: 100%; height: 12px } #label-results .number { text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap } #label-results .soft { color: var(--soft) }
details { margin: -8px 2px 16px; max-width: 75ch; color: var(--soft); font-size: 14px }
dialog { border: 0; border-radius: 12px; background: var(--paper); color: var(--ink); padding: 16px; max-width: 92vw }
dialog::backdrop { background: #000a } dialog img { max-width: 86vw; max-height: 74vh; min-width: 240px;
  object-fit: contain; display: block; margin: auto } dialog p { margin: 10px 0; overflow-wrap: anywhere }
"""

SCRIPT = """
"use strict";
const byId = id => document.getElementById(id);
let sigmoid = true;
let picture = null;
let latest = 0;

function percent(value) {
  const number = 100 * value;
  if (number === 0 || number >= 10) return number.toFixed(1) + " %";
  if (number < 1e-6) return number.toExponential(0) + " %";
  return number.toFixed(Math.max(1, 1 - Math.floor(Math.log10(number)))) + " %";
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function say(text, isError) {
  byId("status").textContent = text;
  byId("status").className = isError ? "error" : "";
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function show(results, withProbability) {
  const list = byId("results");
  list.replaceChildren();
  for (const result of results) {
    const item = make("li");
    const button = make("button");
    button.title = result.path;
    const image = make("img");
    image.src = "/thumbnail/" + result.id;
    image.alt = result.path;
    image.loading = "lazy";
    button.append(image);
    button.addEventListener("click", () => enlarge(result));
    const text = make("div", "text");
    const score = withProbability && sigmoid ? "match " + percent(result.probability)
      : "cosine " + result.cosine.toFixed(2);
    text.append(make("span", "name", result.path.split("/").pop()), make("span", "score", score));
    item.append(button, text);
    list.append(item);
  }
}

function enlarge(result) {
  byId("large").src = "/picture/" + result.id;
  byId("large").alt = result.path;
  byId("large-name").textContent = result.path;
  byId("viewer").showModal();
}

async function run(work) {
  const turn = ++latest;
  say("Searching ...");
  try {
    const started = performance.now();
    const [results, withProbability, title] = await work();
    if (turn !== latest) return;
    show(results, withProbability);
    say(results.length ? title + " · " + results.length + " pictures, the best first · "
      + Math.round(performance.now() - started) + " ms" : "The folder holds no pictures.");
  } catch (error) {
    if (turn === latest) { byId("results").replaceChildren(); say(error.message, true); }
  }
}

byId("search").addEventListener("submit", event => {
  event.preventDefault();
  const text = byId("query").value.trim();
  if (!text) return;
  byId("upload").hidden = true;
  picture = null;
  run(async () => [(await ask("/search?n=60&q=" + encodeURIComponent(text))).results, true, "“" + text + "”"]);
});

function post(path) { return ask(path, {method: "POST", headers: {"X-Search": "1"}, body: picture}); }

function take(file) {
  picture = file;
  byId("query").value = "";
  byId("label-results").replaceChildren();
  byId("preview").src = URL.createObjectURL(file);
  byId("upload").hidden = false;
  run(async () => [(await post("/similar?n=60")).results, false, "Like " + file.name]);
  if (byId("labels").value.trim()) compare();
}

byId("file").addEventListener("change", event => { if (event.target.files.length) take(event.target.files[0]); });
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => {
  event.preventDefault();
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});

async function compare() {
  const labels = byId("labels").value.split("\\n").map(label => label.trim()).filter(label => label);
  const list = byId("label-results");
  if (!labels.length || !picture) return;
  try {
    const query = labels.map(label => "label=" + encodeURIComponent(label)).join("&");
    const answer = await post("/labels?" + query);
    list.replaceChildren();
    for (const row of answer.labels) {
      const item = make("li");
      const meter = make("meter");
      meter.value = row.share;
      item.append(make("span", "", row.label), meter, make("span", "number", "share " + percent(row.share)));
      item.append(make("span", "number soft", sigmoid ? "match " + percent(row.probability) : ""));
      list.append(item);
    }
  } catch (error) { list.replaceChildren(make("li", "", error.message)); }
}

byId("label-form").addEventListener("submit", event => { event.preventDefault(); compare(); });
byId("close").addEventListener("click", () => byId("viewer").close());

ask("/about").then(about => {
  sigmoid = about.sigmoid;
  byId("reading-sigmoid").hidden = !sigmoid;
  byId("about").textContent = about.pictures.toLocaleString() + " pictures in " + about.folder;
});
"""
