"use strict";

const $ = (id) => document.getElementById(id);
const NUM_KEYS = 9;
let state = null;
let at = 0;
let saving = Promise.resolve();

function element(kind, text) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  return made;
}

function percent(share) {
  return `${(100 * share).toFixed(0)} %`;
}

function offered(item) {
  const first = Object.values(item.said).map((one) => one.class).filter((name) => name !== item.label);
  const rest = state.classes.filter((name) => name !== item.label);
  return [...new Set([...first, ...rest])].slice(0, NUM_KEYS);
}

function show() {
  const item = state.items[at];
  const seen = state.items.filter((one) => one.action !== null).length;
  $("place").textContent = `${at + 1} of ${state.items.length}, ${seen} answered`;
  $("progress").max = state.items.length;
  $("progress").value = seen;
  $("picture").src = `/v1/image/${at}`;
  $("path").textContent = item.path;
  $("label").textContent = item.label;
  const words = { keep: "Kept: the label is right.", drop: "Dropped.", change: `Changed to ${item.new_label}.` };
  $("answer").hidden = item.action === null;
  $("answer").textContent = words[item.action] || "";
  $("said").replaceChildren(...Object.entries(item.said).map(([judge, one]) => {
    const line = element("p");
    line.append(element("span", judge), element("strong", one.class), element("span", percent(one.probability)));
    return line;
  }));
  for (const action of ["keep", "drop"]) $(action).setAttribute("aria-pressed", String(item.action === action));
  $("classes").replaceChildren(...offered(item).map((name, k) => {
    const button = element("button");
    button.type = "button";
    button.append(element("kbd", String(k + 1)), ` ${name}`);
    button.setAttribute("aria-pressed", String(item.action === "change" && item.new_label === name));
    button.addEventListener("click", () => answer("change", name));
    return button;
  }));
  $("undo").disabled = item.action === null;
  $("back").disabled = at === 0;
  $("next").disabled = at === state.items.length - 1;
  if (at + 1 < state.items.length) new Image().src = `/v1/image/${at + 1}`;
}

function move(by) {
  at = Math.min(Math.max(at + by, 0), state.items.length - 1);
  show();
}

function answer(action, label = "") {
  const number = at;
  const item = state.items[number];
  const before = [item.action, item.new_label];
  item.action = action;
  item.new_label = action === "change" ? label : "";
  if (action !== null && at < state.items.length - 1) move(1);
  else show();
  saving = saving.then(() => save(number, action, label)).catch((error) => {
    [item.action, item.new_label] = before;
    at = number;
    show();
    $("error").textContent = `That answer is not saved: ${error.message}`;
    $("error").hidden = false;
  });
}

async function save(number, action, label) {
  const said = await fetch("/v1/answer", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ number, action, label }),
  });
  if (!said.ok) throw new Error((await said.json()).error.message);
  $("error").hidden = true;
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === $("search")) return;
  const key = event.key.toLowerCase();
  const names = offered(state.items[at]);
  if (key === "k") answer("keep");
  else if (key === "d") answer("drop");
  else if (key === "u") answer(null);
  else if (key === "arrowright") move(1);
  else if (key === "arrowleft") move(-1);
  else if (/^[1-9]$/.test(key) && names[key - 1] !== undefined) answer("change", names[key - 1]);
  else if (key === "/" && !$("search-line").hidden) $("search").focus();
  else return;
  event.preventDefault();
}

function begin(found) {
  state = found;
  $("file").textContent = state.file;
  if (state.items.length === 0) {
    $("place").textContent = "There is nothing to look at.";
    return;
  }
  $("search-line").hidden = state.classes.length <= NUM_KEYS + 1;
  $("names").replaceChildren(...state.classes.map((name) => {
    const option = element("option");
    option.value = name;
    return option;
  }));
  $("search").addEventListener("change", () => {
    const name = $("search").value;
    if (state.classes.includes(name)) {
      $("search").value = "";
      $("search").blur();
      answer("change", name);
    }
  });
  const first = state.items.findIndex((item) => item.action === null);
  at = first < 0 ? 0 : first;
  $("keep").addEventListener("click", () => answer("keep"));
  $("drop").addEventListener("click", () => answer("drop"));
  $("undo").addEventListener("click", () => answer(null));
  $("back").addEventListener("click", () => move(-1));
  $("next").addEventListener("click", () => move(1));
  document.addEventListener("keydown", pressed);
  $("main").hidden = false;
  show();
}

fetch("/v1/state").then((said) => said.json()).then(begin).catch(() => {
  $("error").textContent = "The server cannot be reached.";
  $("error").hidden = false;
});
