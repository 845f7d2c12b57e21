"use strict";

// How the page gets its answers: from the model beside it, run here by onnxruntime-web.

const MOST_PIXELS = 16e6;
const NUM_TOP = 10;

let facts = null;
let telling = null;
let opening = null;

function script(source) {
  return new Promise((resolve, reject) => {
    const made = document.createElement("script");
    made.src = source;
    made.addEventListener("load", resolve);
    made.addEventListener("error", () => reject(new Error(`${source} cannot be loaded.`)));
    document.head.append(made);
  });
}

async function read() {
  const answer = await fetch("model.json").catch(() => null);
  if (!answer || !answer.ok) {
    throw new Error("model.json cannot be loaded. Open this page from a web server, not as a file.");
  }
  facts = await answer.json();
}

function told() {
  telling = telling || read();
  telling.catch(() => { telling = null; });
  return telling;
}

async function open() {
  await told();
  await script("ort.wasm.min.js");
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // more would need headers that few hosts send
  ort.env.wasm.wasmPaths = new URL("./", location.href).href;
  const answer = await fetch(facts.file);
  if (!answer.ok) throw new Error(`The model cannot be loaded (${answer.status}).`);
  return ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), { executionProviders: ["wasm"] });
}

function session() {
  opening = opening || open();
  opening.catch(() => { opening = null; });
  return opening;
}

// Upright, colours as they are stored, on the model's background: as deitkit decodes.
async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error("This file is not a picture that this browser can read.");
  }
  if (Math.min(bitmap.width, bitmap.height) < facts.least_side) throw new Error("This picture is too small.");
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = `rgb(${facts.background.join(",")})`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  return shrunk(image.data, image.width, image.height);
}

// RGB, [H, W, 3]; pictures that a phone's memory may not hold are averaged in whole blocks.
function shrunk(rgba, width, height) {
  const block = Math.ceil(Math.sqrt((width * height) / MOST_PIXELS));
  const size = [Math.floor(height / block), Math.floor(width / block)];
  const rgb = new Uint8Array(3 * size[0] * size[1]);
  for (let row = 0, at = 0; row < size[0]; row += 1) {
    for (let column = 0; column < size[1]; column += 1) {
      for (let channel = 0; channel < 3; channel += 1, at += 1) {
        let sum = 0;
        for (let y = row * block; y < (row + 1) * block; y += 1) {
          for (let x = column * block; x < (column + 1) * block; x += 1) sum += rgba[4 * (y * width + x) + channel];
        }
        rgb[at] = Math.round(sum / (block * block));
      }
    }
  }
  return { pixels: rgb, height: size[0], width: size[1], block };
}

// ITU-R 601-2 in Pillow's whole numbers.
function grey(rgb) {
  const levels = new Uint8Array(rgb.length / 3);
  for (let k = 0; k < levels.length; k += 1) {
    levels[k] = (19595 * rgb[3 * k] + 38470 * rgb[3 * k + 1] + 7471 * rgb[3 * k + 2] + 0x8000) >> 16;
  }
  return levels;
}

const asking = {
  promise: "It never leaves this device.",
  documents: null,
  card: async () => {
    await told();
    session().catch(() => {}); // begun before it is needed; told when it is
    return facts.card;
  },
  predict: async (file) => {
    await told();
    const [model, picture] = await Promise.all([session(), decode(file)]);
    const pixels = facts.channels === 1 ? grey(picture.pixels) : picture.pixels;
    const images = new ort.Tensor("uint8", pixels, [1, picture.height, picture.width, facts.channels]);
    const { probabilities } = await model.run({ images }, ["probabilities"]);
    const rows = facts.card.classes.map((name, k) => ({ class: name, probability: probabilities.data[k] }));
    rows.sort((a, b) => b.probability - a.probability);
    const { threshold } = facts.card;
    return {
      class: rows[0].class,
      probability: rows[0].probability,
      abstains: threshold !== null && rows[0].probability < threshold,
      top: rows.slice(0, NUM_TOP),
      note: picture.block > 1 ? `The picture was made ${picture.block} times smaller first, to fit this device's memory.` : "",
    };
  },
  explain: null,
};

const link = document.createElement("link");
link.rel = "manifest";
link.href = "app.webmanifest";
document.head.append(link);
if ("serviceWorker" in navigator) navigator.serviceWorker.register("offline.js").catch(() => {});
