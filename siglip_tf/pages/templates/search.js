"use strict";
const byId = id => document.getElementById(id);
let shown = [];       // results on the page, in order
let open = -1;        // the one in the viewer
let picture = null;   // the uploaded file
let latest = 0;       // only the latest request may change the page

function percent(value) {
  const number = 100 * value;
  if (number === 0 || number >= 9.95) return number.toFixed(1) + "%";
  if (number < 1e-6) return number.toExponential(0) + "%";
  return number.toFixed(Math.max(1, 1 - Math.floor(Math.log10(number)))) + "%";
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

function score(result) {
  if (result.cosine === undefined) return "";
  const value = result.probability === null ? "cosine " + result.cosine.toFixed(2)
    : "match " + percent(result.probability);
  return result.rank + " · " + value;
}

function show(results) {
  shown = results;
  byId("results").replaceChildren(...results.map((result, place) => {
    const item = make("li"), button = make("button"), image = make("img"), text = make("div", "text");
    button.title = result.path;
    image.src = "/thumbnail/" + result.id;
    image.alt = result.path;
    image.loading = "lazy";
    button.append(image);
    button.addEventListener("click", () => view(place));
    text.append(make("span", "name", result.path.split("/").pop()), make("span", "score", score(result)));
    item.append(button, text);
    return item;
  }));
}

function view(place) {
  const result = shown[place];
  if (!result) return;
  open = place;
  byId("large").src = "/picture/" + result.id;
  byId("large").alt = result.path;
  byId("large-name").textContent = result.path;
  byId("large-score").textContent = result.explanation || "";
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === shown.length - 1;
  if (!byId("viewer").open) byId("viewer").showModal();
}

async function run(work) {
  const turn = ++latest;
  say("Searching ...");
  try {
    const started = performance.now();
    const [answer, title] = await work();
    if (turn !== latest) return;
    show(answer.results);
    const milliseconds = Math.round(performance.now() - started) + " ms";
    say(answer.results.length ? [title, answer.results.length + " pictures" + (answer.results[0].rank ?
      ", the best first" : ""), milliseconds].join(" · ") : "The folder holds no pictures.");
  } catch (error) {
    if (turn === latest) { show([]); say(error.message, true); }
  }
}

// The address holds the query, so that it can be kept, sent, and gone back to.
function fromAddress() {
  const address = new URLSearchParams(location.search);
  const text = address.get("q"), like = address.get("like");
  if (byId("viewer").open) byId("viewer").close();
  byId("upload").hidden = true;
  picture = null;
  byId("query").value = text || "";
  document.title = text || (like ? "Like " + like : "Picture search");
  if (text) run(async () => [await ask("/search?n=60&q=" + encodeURIComponent(text)), "“" + text + "”"]);
  else if (like) run(async () => [await ask("/search?n=60&like=" + encodeURIComponent(like)), "Like " + like]);
  else run(async () => [await ask("/browse?n=60"), "Some of the pictures"]);
}

function go(name, value) {
  history.pushState(null, "", "?" + new URLSearchParams({[name]: value}));
  fromAddress();
}

byId("search").addEventListener("submit", event => {
  event.preventDefault();
  const text = byId("query").value.trim();
  if (text) go("q", text);
  else { history.pushState(null, "", "/"); fromAddress(); }
});

function post(path) { return ask(path, {method: "POST", headers: {"X-Search": "1"}, body: picture}); }

function take(file) {
  history.pushState(null, "", "/");  // an uploaded picture has no address
  picture = file;
  byId("query").value = "";
  byId("label-results").replaceChildren();
  byId("preview").src = URL.createObjectURL(file);
  byId("upload").hidden = false;
  run(async () => [await post("/similar?n=60"), "Like " + file.name]);
  if (byId("labels").value.trim()) compare();
}

byId("file").addEventListener("change", event => { if (event.target.files.length) take(event.target.files[0]); });
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => {
  event.preventDefault();
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});

async function compare() {
  const labels = byId("labels").value.split("\n").map(label => label.trim()).filter(label => label);
  const list = byId("label-results");
  if (!labels.length || !picture) return;
  try {
    const query = labels.map(label => "label=" + encodeURIComponent(label)).join("&");
    const answer = await post("/labels?" + query);
    list.replaceChildren(...answer.labels.map(row => {
      const item = make("li"), meter = make("meter");
      meter.value = row.share;
      item.append(make("span", "", row.label), meter, make("span", "number", "share " + percent(row.share)));
      item.append(make("span", "number soft", row.probability === null ? "" : "match " + percent(row.probability)));
      return item;
    }));
  } catch (error) { list.replaceChildren(make("li", "", error.message)); }
}

byId("label-form").addEventListener("submit", event => { event.preventDefault(); compare(); });
byId("previous").addEventListener("click", () => view(open - 1));
byId("next").addEventListener("click", () => view(open + 1));
byId("like").addEventListener("click", () => go("like", shown[open].path));
byId("close").addEventListener("click", () => byId("viewer").close());
byId("viewer").addEventListener("close", () => {
  const button = byId("results").querySelectorAll("button")[open];
  if (button) button.focus();
});

// How many pictures stand in a row is what the layout made of it.
function inRow(buttons) {
  const top = buttons[0].getBoundingClientRect().top;
  const next = buttons.findIndex(button => button.getBoundingClientRect().top > top + 1);
  return next < 0 ? buttons.length : next;
}

document.addEventListener("keydown", event => {
  const typing = event.target.matches("input, textarea");
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (byId("viewer").open) {
    if (event.key === "ArrowLeft") view(open - 1);
    if (event.key === "ArrowRight") view(open + 1);
    return;
  }
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("query").select();
    byId("query").focus();
    return;
  }
  const buttons = [...byId("results").querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  const leave = event.key === "ArrowDown" && event.target === byId("query");
  if (!buttons.length || (typing && !leave)) return;
  const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -inRow(buttons), ArrowDown: inRow(buttons)}[event.key];
  if (step === undefined) return;
  event.preventDefault();
  const to = at < 0 ? 0 : at + step;
  if (to < 0 && event.key === "ArrowUp") byId("query").focus();
  else if (buttons[to]) buttons[to].focus();
});

window.addEventListener("popstate", fromAddress);
fromAddress();
