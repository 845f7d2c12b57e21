"use strict";

// How the page gets its answers: from `deitkit serve`.

const WORDS = {
  not_an_image: "This file is not a picture that can be read.",
  truncated: "This picture is cut off: the file ends too early.",
  too_large: "This picture is too large.",
  too_small: "This picture is too small.",
  format_not_allowed: "This kind of picture is not read. Try JPEG, PNG or WebP.",
  busy: "Many pictures are waiting. Try again in a moment.",
  too_many_requests: "Too many requests at once. Try again in a moment.",
};

async function post(path, file) {
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  let answer;
  try {
    answer = await fetch(path, { method: "POST", headers: { "content-type": type }, body: file });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  const said = await answer.json();
  if (!answer.ok) throw new Error(WORDS[said.error.code] || said.error.message);
  return said;
}

const asking = {
  promise: "It is answered from memory and kept nowhere.",
  documents: "docs",
  card: async () => {
    const answer = await fetch("v1/model").catch(() => null);
    if (!answer) throw new Error("The server cannot be reached.");
    return answer.json();
  },
  predict: async (file) => (await post("v1/predict", file)).predictions[0],
  explain: (file) => post("v1/explain", file),
};
