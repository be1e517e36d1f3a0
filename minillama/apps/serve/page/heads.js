// Attention heads as pictures: a canvas of one pixel a pair of tokens, enlarged by the style sheet.

import { ask, make, percent, visible } from "/page.js";

const $ = (id) => document.getElementById(id);
let tokens = [];
let turn = 0; // answers that come after a later question are dropped

export function clearHeads() {
  turn += 1;
  $("heads").hidden = true;
}

export function showHeads(all, model) {
  tokens = all.slice(0, model.picture_tokens);
  $("layer").replaceChildren();
  for (let i = 0; i < model.layers; i++) {
    const option = make("option", `${i + 1} of ${model.layers}`);
    option.value = i;
    $("layer").append(option);
  }
  $("heads-note").hidden = tokens.length === all.length;
  $("heads-note").textContent = `The first ${tokens.length} of ${all.length} tokens.`;
  $("strip").replaceChildren(...tokens.map(({ piece }, i) => make("span", i ? piece : "")));
  $("heads").hidden = false;
  draw();
}

async function draw() {
  const mine = ++turn;
  const wish = { ids: tokens.map(({ id }) => id), layer: Number($("layer").value) };
  try {
    const { heads } = await (await ask("/api/attention", wish)).json();
    if (mine !== turn) return;
    $("pictures").replaceChildren(...heads.map((rows, i) => picture(rows, i + 1)));
    $("pictures").dataset.layer = wish.layer;
    $("readout").textContent = "";
  } catch (error) {
    if (mine === turn) $("readout").textContent = error.message;
  }
}

function picture(rows, number) {
  const canvas = make("canvas");
  canvas.width = canvas.height = rows.length;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Head ${number}: attention of ${rows.length} tokens`);
  canvas.setAttribute("aria-describedby", "heads-hint");
  const last = rows.length - 1;
  let [i, j] = [last, 0];
  const point = (row, column) => {
    i = Math.max(0, Math.min(row, last));
    j = Math.max(0, Math.min(column, i));
    paint(canvas, rows, i, j);
    tell(rows, i, j, number);
  };
  const leave = () => {
    paint(canvas, rows);
    $("readout").textContent = "";
    for (const span of $("strip").children) span.removeAttribute("style"), (span.className = "");
  };
  for (const name of ["pointermove", "pointerdown"]) {
    canvas.addEventListener(name, ({ offsetX, offsetY }) => {
      const scale = rows.length / canvas.clientWidth;
      point(Math.floor(offsetY * scale), Math.floor(offsetX * scale));
    });
  }
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && point(i, j));
  canvas.addEventListener("blur", leave);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in step)) return;
    event.preventDefault();
    point(i + step[event.key][0], j + step[event.key][1]);
  });
  canvas.repaint = () => paint(canvas, rows);
  canvas.repaint();
  const figure = make("figure");
  figure.append(canvas, make("figcaption", `head ${number}`));
  return figure;
}

// The color of a name in the style sheet as [red, green, blue].
function color(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const long = hex.length === 4 ? hex.replace(/[^#]/g, "$&$&") : hex;
  return [1, 3, 5].map((at) => parseInt(long.slice(at, at + 2), 16));
}

// How strong a weight's color is. Square roots, so that small weights are seen too; the same for
// every row, head and layer, so that pictures compare.
const strength = (weight) => Math.min(1, 1.6 * Math.sqrt(weight));

// While one row is pointed at, the others fade.
function paint(canvas, rows, i = -1, j = -1) {
  const [ground, ink, mark] = ["--card", "--accent", "--surprise"].map(color);
  const pixels = new ImageData(rows.length, rows.length);
  rows.forEach((row, y) => row.forEach((weight, x) => {
    const to = y === i && x === j ? mark : ink;
    const amount = to === mark ? 1 : strength(weight) * (i < 0 || y === i ? 1 : 0.35);
    const rgb = ground.map((from, c) => Math.round(from + (to[c] - from) * amount));
    pixels.data.set([...rgb, 255], 4 * (y * rows.length + x));
  }));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function tell(rows, i, j, number) {
  const name = (at) => make("code", visible(tokens[at].piece));
  const place = (at) => ` (${at + 1})`;
  $("readout").replaceChildren(`Head ${number}: `, name(i), `${place(i)} takes `,
    make("b", percent(rows[i][j])), " from ", name(j), place(j));
  [...$("strip").children].forEach((span, at) => {
    span.style.setProperty("--weight", strength(rows[i][at] ?? 0).toFixed(3));
    span.className = at === i ? "from" : "";
  });
}

$("layer").addEventListener("change", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const canvas of $("pictures").querySelectorAll("canvas")) canvas.repaint();
});
