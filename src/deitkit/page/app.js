"use strict";

const $ = (id) => document.getElementById(id);
const SHOWN_SIDE = 1024;
const COLOURS = [[0, [58, 12, 88]], [0.5, [206, 70, 82]], [1, [252, 226, 110]]];

let model = { explains: false };
let bitmap = null;
let heads = [];
let box = [0, 0, 1, 1];
let turn = 0;

function element(kind, text, className) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = false;
  $("result").hidden = true;
}

async function classify(file) {
  const mine = ++turn;
  $("error").hidden = true;
  heads = [];
  try {
    $("working").hidden = false;
    const shown = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
    if (mine !== turn) return;
    bitmap = shown;
    const prediction = await asking.predict(file);
    if (mine !== turn) return;
    show(prediction);
    if (model.explains && asking.explain && bitmap) {
      const why = await asking.explain(file);
      if (mine !== turn) return;
      heads = why.heads.filter((head) => head.method === "relevance");
      box = why.box;
      offerViews();
    }
  } catch (error) {
    if (mine === turn) fail(error.message);
  } finally {
    if (mine === turn) $("working").hidden = true;
  }
}

function percent(share) {
  const shown = (100 * share).toFixed(1);
  return `${shown === "100.0" && share < 1 ? "> 99.9" : shown} %`;
}

function show(prediction) {
  $("result").hidden = false;
  $("verdict").textContent = `${prediction.class}, ${percent(prediction.probability)}`;
  $("unsure").hidden = !prediction.abstains;
  $("note").textContent = prediction.note || "";
  $("note").hidden = !prediction.note;
  $("bars").replaceChildren(...prediction.top.slice(0, 5).map((row) => {
    const line = element("div", undefined, "line");
    line.append(element("span", row.class), element("span", percent(row.probability)));
    const bar = element("progress");
    bar.max = 1;
    bar.value = row.probability;
    bar.setAttribute("aria-label", `${row.class} ${percent(row.probability)}`);
    const item = element("li");
    item.append(line, bar);
    return item;
  }));
  offerViews();
  $("verdict").focus({ preventScroll: false });
}

function offerViews() {
  const choices = [["Picture", null], ...heads.map((head) => [`${head.head} head`, head])];
  $("picture").hidden = !bitmap;
  $("views").hidden = heads.length === 0;
  $("views").replaceChildren(...choices.map(([name, head]) => {
    const button = element("button", name);
    button.type = "button";
    button.addEventListener("click", () => choose(button, head));
    return button;
  }));
  $("caption").textContent = "";
  if (bitmap) choose($("views").children[heads.length ? 1 : 0], heads[0] || null);
}

function choose(button, head) {
  for (const other of $("views").children) other.setAttribute("aria-pressed", String(other === button));
  $("caption").textContent = head
    ? `What speaks for this class in the ${head.head} head: lighter is more; the dark edge is not seen.`
    : "";
  $("picture").setAttribute("aria-label", head ? `your picture, with what the ${head.head} head looked at` : "your picture");
  draw(head);
}

function draw(head) {
  const scale = Math.min(1, SHOWN_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = $("picture");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = canvas.width > 200;
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (!head) return;
  context.fillStyle = "rgba(0, 0, 0, 0.55)";
  const [top, left, bottom, right] = box.map((share, k) => share * (k % 2 ? canvas.width : canvas.height));
  context.fillRect(0, 0, canvas.width, top);
  context.fillRect(0, bottom, canvas.width, canvas.height - bottom);
  context.fillRect(0, top, left, bottom - top);
  context.fillRect(right, top, canvas.width - right, bottom - top);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(coloured(head.grid), left, top, right - left, bottom - top);
}

function coloured(grid) {
  const small = document.createElement("canvas");
  small.width = grid[0].length;
  small.height = grid.length;
  const context = small.getContext("2d");
  const pixels = context.createImageData(small.width, small.height);
  grid.flat().forEach((value, k) => {
    const upper = value < 0.5 ? 1 : 2;
    const [low, from] = COLOURS[upper - 1];
    const [high, to] = COLOURS[upper];
    const share = (value - low) / (high - low);
    for (let c = 0; c < 3; c += 1) pixels.data[4 * k + c] = from[c] + share * (to[c] - from[c]);
    pixels.data[4 * k + 3] = 255 * 0.75 * Math.sqrt(value);
  });
  context.putImageData(pixels, 0, 0);
  return small;
}

function describe(card) {
  model = card;
  $("name").textContent = card.name;
  document.title = card.name;
  $("summary").textContent = `${card.classes.length.toLocaleString("en")} classes, reads ${card.image_size.join(" x ")} pixels`;
  const facts = [["Classes", card.classes.slice(0, 40).join(", ") + (card.classes.length > 40 ? ", …" : "")]];
  if (card.parameters) facts.push(["Parameters", card.parameters.toLocaleString("en")]);
  const validation = card.provenance && card.provenance.validation;
  if (validation && typeof validation.top1 === "number") {
    facts.push(["Right on validation", percent(validation.top1)]);
  }
  if (card.threshold !== null) facts.push(["Not sure below", percent(card.threshold)]);
  facts.push(["Made with", `deitkit ${card.deitkit}`]);
  for (const [name, text] of facts) $("facts").append(element("dt", name), element("dd", text));
}

function picked(files) {
  if (files && files.length) classify(files[0]);
}

for (const id of ["file", "camera"]) {
  $(id).addEventListener("change", (event) => {
    picked(event.target.files);
    event.target.value = "";
  });
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  picked(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => picked(event.clipboardData.files));
$("promise").textContent = asking.promise;
if (asking.documents) {
  $("documents").href = asking.documents;
  $("documents").hidden = false;
}
asking.card().then(describe).catch((error) => fail(error.message));
